/**
 * What the application asks of the service: updates (status, claim, custom status), of which the newest is sent until
 * it is applied, and queries, which are sent once. How messages travel and when connections open does not belong here.
 */

import { PresenceError, isFailure } from "./errors.js";
import { Timers } from "./timers.js";

const UPDATE_TIMEOUT = 5_000; // ms without an error after which an update counts as applied: it is not acknowledged
const QUERY_TIMEOUT = 10_000; // ms that the response to a query may take
const MOST_USERS = 100; // per query
const MOST_BYTES = 3_800; // of user ids per query: a message has at most 4 KB

export class Requests {
  #context;
  #timers;
  #updates = new Map(); // field of `self.n` → the newest update, which may not be applied yet
  #queries = new Map(); // message id → the query without a response

  /**
   * @param {object} context
   *   `clock`, `random`; `nextNumber()`: a rising number; `connection()`: the connection in use, or null
   */
  constructor(context) {
    this.#context = context;
    this.#timers = new Timers(context.clock);
  }

  /**
   * Send an update when a connection is ready. Resolves when it is applied or replaced by a newer one of the same
   * field; rejects with a `PresenceError`.
   *
   * @param {"status" | "claim" | "customStatus"} field
   * @param {object} change the message's fields
   */
  update(field, change) {
    this.#take(this.#updates, field)?.resolve();
    const update = { change, ...deferred() };
    this.#updates.set(field, update);
    this.#send(field);
    return update.promise;
  }

  /** The records of these users, in the same order. Rejects with a `PresenceError`. */
  async query(userIds) {
    if (!this.#context.connection()?.isReady) throw new PresenceError({ code: "offline", message: "not connected" });
    return (await Promise.all(split(userIds).map((part) => this.#query(part)))).flat();
  }

  /** A connection became ready: send every pending update on it. */
  resend() {
    for (const field of this.#updates.keys()) this.#send(field);
  }

  /** Resolve what this frame answers. */
  settle(frame) {
    const { type, id, self } = frame;
    if (type === "presence") this.#collect(frame);
    for (const [field, update] of this.#updates) {
      const isApplied = (type === "done" && update.id === id) || (update.n && self?.n?.[field] >= update.n);
      if (isApplied) this.#take(this.#updates, field).resolve();
    }
  }

  /** The service, or API Gateway, rejected a message or failed to process it. */
  fail(frame, error) {
    if (isFailure(frame)) this.disconnected();
    this.#take(this.#queries, frame.id)?.reject(error);
    const field = [...this.#updates].find(([, update]) => update.id !== undefined && update.id === frame.id)?.[0];
    if (field === undefined || isFailure(frame)) return;
    if (frame.code !== "rate_limited") return this.#take(this.#updates, field).reject(error);
    const wait = (frame.retryAfter ?? 0) + this.#context.random() * 1_000;
    this.#timers.set(field, wait, () => this.#send(field));
  }

  /** The lack of an error no longer shows that an update was applied: `resend` sends it again. */
  disconnected() {
    for (const field of this.#updates.keys()) this.#timers.clear(field);
  }

  rejectQueries(error) {
    for (const id of [...this.#queries.keys()]) this.#take(this.#queries, id).reject(error);
  }

  rejectAll(error) {
    this.rejectQueries(error);
    for (const field of [...this.#updates.keys()]) this.#take(this.#updates, field).reject(error);
  }

  #send(field) {
    const update = this.#updates.get(field);
    if (!this.#context.connection()?.isReady) return;
    update.n = this.#context.nextNumber();
    update.id = `u${update.n}`;
    this.#timers.set(field, UPDATE_TIMEOUT, () => this.#take(this.#updates, field).resolve());
    this.#context.connection().send({ action: "presence_update", id: update.id, n: update.n, ...update.change });
  }

  #query(userIds) {
    const id = `q${this.#context.nextNumber()}`;
    const query = { parts: new Map(), ...deferred() };
    this.#queries.set(id, query);
    const timeout = new PresenceError({ code: "timeout", message: "no response within 10 seconds", id });
    this.#timers.set(id, QUERY_TIMEOUT, () => this.#take(this.#queries, id).reject(timeout));
    this.#context.connection().send({ action: "get_presence", id, userIds });
    return query.promise;
  }

  /** Keep a part of the response to a query, which is complete when all parts have arrived. Over HTTP there is one. */
  #collect({ id, part = 1, parts: count = 1, users }) {
    const parts = this.#queries.get(id)?.parts.set(part, users);
    if (parts?.size !== count) return;
    const inOrder = [...parts].sort(([one], [other]) => one - other);
    this.#take(this.#queries, id).resolve(inOrder.flatMap(([, records]) => records));
  }

  /** Remove a pending request and its timer. */
  #take(pending, key) {
    const found = pending.get(key);
    if (!found) return undefined;
    pending.delete(key);
    this.#timers.clear(key);
    return found;
  }
}

/** A promise with its `resolve` and `reject`. An application that ignores it gets failures by the `error` event. */
function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {});
  return parts;
}

/** Split users into lists that fit into one message each. */
function split(userIds) {
  const lists = [];
  let room = 0;
  for (const userId of userIds) {
    room -= userId.length + 3;
    if (room < 0 || lists.at(-1).length === MOST_USERS) {
      lists.push([]);
      room = MOST_BYTES - userId.length - 3;
    }
    lists.at(-1).push(userId);
  }
  return lists;
}
