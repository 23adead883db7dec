/**
 * What the application wants of the service: wishes (a status, a claim, a custom status), of which the newest is told
 * again and again until it holds, and queries, which are asked once. How messages travel is other modules' business.
 */

import { isFailure } from "./link.js";

const SETTLED = 5_000; // ms without a word against an update, which is not acknowledged
const PATIENCE = 10_000; // ms that the answer to a query may take
const MOST_USERS = 100; // in one query
const ROOM = 3_800; // bytes of user ids in one query: a message has at most 4 KB

/** What went wrong. `code` is the protocol's, or one of the client's own: see `PresenceErrorCode` in presence.d.ts. */
export class PresenceError extends Error {
  name = "PresenceError";

  constructor({ code = "unavailable", message, field, errors, id, retryAfter, cause }) {
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, { code, field, errors: errors ?? (field ? [{ field, message }] : []), id, retryAfter });
  }
}

export class Requests {
  #host;
  #timers;
  #wishes = new Map(); // field of `self.n` → what the user wants there and the service has perhaps not applied
  #queries = new Map(); // message id → whoever waits for the answer

  /** @param {object} host `{random, count(), link()}`: a number that rises, and the connection that is used, or null */
  constructor(host, timers) {
    this.#host = host;
    this.#timers = timers;
  }

  /** Gives a promise that is kept when the change is applied, or a newer wish has taken its place. */
  wish(field, change) {
    this.#take(this.#wishes, field)?.resolve();
    const wish = { change, ...waiting() };
    this.#wishes.set(field, wish);
    this.#express(field);
    return wish.promise;
  }

  /** The records of these users, in the same order. */
  async ask(userIds) {
    if (!this.#host.link()?.isReady) throw new PresenceError({ code: "offline", message: "not connected" });
    return (await Promise.all(split(userIds).map((some) => this.#ask(some)))).flat();
  }

  /** The connection is of use, for the first time or again. */
  tellAgain() {
    for (const field of this.#wishes.keys()) this.#express(field);
  }

  /** Whoever waits for what this frame answers is told. */
  settle({ type, id, self, users }) {
    if (type === "presence") this.#take(this.#queries, id)?.resolve(users);
    for (const [field, wish] of this.#wishes) {
      const applied = (type === "done" && wish.id === id) || (wish.n && self?.n?.[field] >= wish.n);
      if (applied) this.#take(this.#wishes, field).resolve();
    }
  }

  /** The service, or the gateway before it, refused a message or could not take it. */
  fail(frame, error) {
    if (isFailure(frame)) this.disconnected();
    this.#take(this.#queries, frame.id)?.reject(error);
    const field = [...this.#wishes].find(([, wish]) => wish.id !== undefined && wish.id === frame.id)?.[0];
    if (field === undefined || isFailure(frame)) return;
    if (frame.code !== "rate_limited") return this.#take(this.#wishes, field).reject(error);
    const wait = (frame.retryAfter ?? 0) + this.#host.random() * 1_000;
    this.#timers.set(field, wait, () => this.#express(field));
  }

  /** Silence says no longer that a wish was applied: it is told again when the service serves again. */
  disconnected() {
    for (const field of this.#wishes.keys()) this.#timers.clear(field);
  }

  refuseQueries(error) {
    for (const id of [...this.#queries.keys()]) this.#take(this.#queries, id).reject(error);
  }

  refuseAll(error) {
    this.refuseQueries(error);
    for (const field of [...this.#wishes.keys()]) this.#take(this.#wishes, field).reject(error);
  }

  #express(field) {
    const wish = this.#wishes.get(field);
    if (!this.#host.link()?.isReady) return;
    wish.n = this.#host.count();
    wish.id = `u${wish.n}`;
    this.#timers.set(field, SETTLED, () => this.#take(this.#wishes, field).resolve());
    this.#host.link().send({ action: "presence_update", id: wish.id, n: wish.n, ...wish.change });
  }

  #ask(userIds) {
    const id = `q${this.#host.count()}`;
    const query = waiting();
    this.#queries.set(id, query);
    const late = new PresenceError({ code: "timeout", message: "no answer", id });
    this.#timers.set(id, PATIENCE, () => this.#take(this.#queries, id).reject(late));
    this.#host.link().send({ action: "get_presence", id, userIds });
    return query.promise;
  }

  #take(waitingOnes, key) {
    const found = waitingOnes.get(key);
    if (!found) return undefined;
    waitingOnes.delete(key);
    this.#timers.clear(key);
    return found;
  }
}

/** A promise with its ends. Whoever does not look at it hears of a failure by the `error` event. */
function waiting() {
  const ends = {};
  ends.promise = new Promise((resolve, reject) => Object.assign(ends, { resolve, reject }));
  ends.promise.catch(() => {});
  return ends;
}

/** Users, in as many lists as fit a message each. */
function split(userIds) {
  const lists = [];
  let room = 0;
  for (const userId of userIds) {
    room -= userId.length + 3;
    if (room < 0 || lists.at(-1).length === MOST_USERS) {
      lists.push([]);
      room = ROOM - userId.length - 3;
    }
    lists.at(-1).push(userId);
  }
  return lists;
}
