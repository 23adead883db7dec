/**
 * One connection: what it sends (`sync`, heartbeats) and when, and whether it is ready. It keeps no contacts: state is
 * in reducer.js. Transports carry its messages; connections.js decides which connection to open, use and close.
 */

import { isFailure } from "./errors.js";
import { isComplete, isSeqRefused } from "./reducer.js";
import { Timers } from "./timers.js";

const HEARTBEAT_EVERY = 30_000; // ms between heartbeats, until the service sets `heartbeatEvery`
const SILENCE_TIMEOUT = 120_000; // ms without any frame, after which a `sync` checks the connection
const SYNC_TIMEOUT = 5_000; // ms that the response to a `sync` may take
const LONGEST_BACKOFF = 30_000; // ms before the next `sync` after a failed one, plus the service's `retryAfter`
const SHORTEST_LIFE = 1_000; // ms that a connection is used at least, however soon its token ends

export class Connection {
  /** This connection's id; null until the service has sent it. */
  connectionId = null;
  /** When it became ready, in ms of the clock: its first snapshot arrived. Null before. */
  readySince = null;
  /** Whether the service failed to process the last message: known contacts may be out of date. */
  isFailing = false;
  /** When to open its successor, in ms of the clock: before the service or the token's end closes this one. */
  rotateAt = null;

  #context;
  #transport;
  #timers;
  #openedAt = null;
  #lastFrameAt;
  #pendingSyncs = new Set(); // ids of the `sync`s without a response, oldest first
  #statusNumber; // `n` of the last update of the device's status that was sent
  #replaces = null; // the id of the connection that this one replaces
  #heartbeatEvery = HEARTBEAT_EVERY;
  #failures = 0; // consecutive failed `sync`s
  #sentActive = true; // what the last heartbeat reported

  /**
   * @param {object} context
   *   `clock`, `random`; `state()`: the current state; `takeActivity()`: whether the device was used since the last
   *   call; `chosenStatus()`: the device's status, or null if none was chosen; `nextNumber()`: a rising number for
   *   message ids; `lost(connection, reason)`: called when this connection does not respond
   * @param {object} transport `{kind, send(message), close()}`
   */
  constructor(context, transport) {
    this.#context = context;
    this.#transport = transport;
    this.#timers = new Timers(context.clock);
  }

  /** `online` or `polling`. */
  get kind() {
    return this.#transport.kind;
  }

  get isReady() {
    return this.readySince !== null && !this.isFailing;
  }

  get isOpen() {
    return this.#openedAt !== null;
  }

  /** The service closed the connection that this one replaces: count as ready until this one's snapshot arrives. */
  takeOverFrom(connection) {
    this.readySince = connection.readySince;
  }

  /** The transport is open. This connection replaces the connections with these ids, the last one of them last. */
  start(...replaces) {
    this.#openedAt = this.#lastFrameAt = this.#context.clock.now();
    this.#replaces = replaces.pop();
    this.#scheduleHeartbeat();
    for (const older of replaces) this.#sendWithSeq({ action: "sync", replaces: older });
    this.sync();
  }

  /** Send a message. A heartbeat repeats the device's status with the number of its last update. */
  send(message) {
    if (message.action === "presence_update" && message.status && message.scope !== "user") {
      this.#statusNumber = message.n;
    }
    this.#transport.send(message);
  }

  /** Ask for a snapshot, or for confirmation that nothing was missed. */
  sync() {
    const id = `s${this.#context.nextNumber()}`;
    this.#pendingSyncs.add(id);
    this.#timers.set(id, SYNC_TIMEOUT, () => this.#context.lost(this, "no response within 5 seconds"));
    this.#sendWithSeq({ action: "sync", id, ...(this.#replaces && { replaces: this.#replaces }) });
  }

  /** The numbers of frames show a loss: send a `sync`, unless one is planned because the service is failing. */
  recover() {
    if (!this.isFailing || !this.#timers.has("sync")) this.sync();
  }

  /** The device is used: report it immediately if the service considers the user away. */
  active() {
    if (!this.#sentActive && this.isReady && this.#context.state().self?.status === "away") this.#heartbeat();
  }

  /** Check the connection unless a frame arrived recently: this machine may have been suspended. */
  check() {
    const silence = this.#context.clock.now() - this.#lastFrameAt;
    if (this.#pendingSyncs.size === 0 && silence > this.#heartbeatEvery) this.sync();
  }

  /** A frame arrived and has been applied to the state. */
  receive(frame) {
    this.#lastFrameAt = this.#context.clock.now();
    this.#timers.set("silence", SILENCE_TIMEOUT, () => this.sync());
    if (frame.self) this.#configure(frame.self);
    if (frame.type === "presence_snapshot" && isComplete(this.#context.state(), frame)) this.#snapshotReceived(frame);
    if (isSeqRefused(frame)) this.#answered(frame.id);
    else if (isFailure(frame) || (frame.type === "error" && this.#pendingSyncs.has(frame.id))) this.#failed(frame);
  }

  close() {
    this.#timers.clearAll();
    this.#transport.close();
  }

  #sendWithSeq(message) {
    const { seq } = this.#context.state();
    this.send(seq === null ? message : { ...message, seq });
  }

  #snapshotReceived(frame) {
    this.isFailing = false;
    this.#failures = 0;
    this.readySince ??= this.#lastFrameAt;
    if (this.#answered(frame.id)) this.#replaces = null;
  }

  /** A `sync` has a response, and no earlier one needs any. Returns whether the id is that of a pending one. */
  #answered(id) {
    if (!this.#pendingSyncs.has(id)) return false;
    for (const pending of this.#pendingSyncs) {
      this.#pendingSyncs.delete(pending);
      this.#timers.clear(pending);
      if (pending === id) break;
    }
    return true;
  }

  /** The service failed to process a message: send another `sync`, with backoff. */
  #failed({ retryAfter = 0 }) {
    this.isFailing = true;
    this.#answered([...this.#pendingSyncs].at(-1));
    const backoff = Math.min(LONGEST_BACKOFF, 1_000 * 2 ** this.#failures++);
    this.#timers.set("sync", retryAfter + this.#context.random() * backoff, () => this.sync());
  }

  /** Take the connection's settings from one's own state. */
  #configure({ connectionId, heartbeatEvery, rotateAt, devices }) {
    if (heartbeatEvery && heartbeatEvery !== this.#heartbeatEvery) {
      this.#heartbeatEvery = heartbeatEvery;
      this.#scheduleHeartbeat();
    }
    this.connectionId = connectionId ?? this.connectionId;
    if (!rotateAt || this.rotateAt !== null) return;
    // The difference of two times of the service: this machine's clock may be wrong.
    const began = devices.find((device) => device.connectionId === connectionId)?.connectedAt ?? this.#openedAt;
    const life = (rotateAt - began) * (0.9 + 0.1 * this.#context.random());
    this.rotateAt = this.#openedAt + Math.max(SHORTEST_LIFE, life);
  }

  #heartbeat() {
    const [active, status] = [this.#context.takeActivity(), this.#context.chosenStatus()];
    this.#sentActive = active;
    this.#scheduleHeartbeat();
    this.#sendWithSeq({ action: "heartbeat", active, ...(status && { status, n: this.#statusNumber }) });
  }

  #scheduleHeartbeat() {
    const wait = this.#heartbeatEvery * (0.9 + 0.2 * this.#context.random());
    this.#timers.set("heartbeat", wait, () => this.#heartbeat());
  }
}
