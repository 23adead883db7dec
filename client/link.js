/**
 * What one connection owes the service, and when: a first `sync`, heartbeats, a `sync` after a hole or a long silence.
 * It does not open or close anything, and keeps no picture: the transport carries, `presence.js` decides.
 */

import { hasHole, isWhole } from "./reducer.js";

const FIRST_BEAT = 30_000; // ms between heartbeats, until the service has said how often it wants them
const HOLE_PATIENCE = 2_000; // ms that a missing frame may be late
const SILENCE = 120_000; // ms without any frame, after which we ask whether anybody is there
const ANSWER_PATIENCE = 5_000; // ms that the answer to `sync` may take
const LONGEST_WAIT = 30_000; // ms, at most, before another `sync` after one that failed
const SHORTEST_LIFE = 1_000; // ms that a connection is used at least, however short its token's life is

/** What the same message may succeed after: `not_found` too, while a deployment is being made anew. */
const FAILURES = ["unavailable", "unauthorized", "not_found", "conflict"];

/** Whether the service, or the gateway before it, could not do what it was asked; the gateway's frames have no type. */
export const isFailure = ({ type, code }) => type === undefined || FAILURES.includes(code);

/** Timers with names: setting one again moves it. */
export class Timers {
  #clock;
  #running = new Map();

  constructor(clock) {
    this.#clock = clock;
  }

  set(name, wait, action) {
    this.clear(name);
    const fire = () => {
      this.#running.delete(name);
      action();
    };
    this.#running.set(name, { timer: this.#clock.setTimeout(fire, wait), at: this.#clock.now() + wait });
  }

  has(name) {
    return this.#running.has(name);
  }

  /** Set it, unless it is set for an earlier time. */
  hasten(name, wait, action) {
    const running = this.#running.get(name);
    if (!running || running.at > this.#clock.now() + wait) this.set(name, wait, action);
  }

  /** The ms until it fires; none that is not set ever does. */
  wait(name) {
    return (this.#running.get(name)?.at ?? Infinity) - this.#clock.now();
  }

  clear(name) {
    this.#clock.clearTimeout(this.#running.get(name)?.timer);
    this.#running.delete(name);
  }

  clearAll() {
    for (const name of [...this.#running.keys()]) this.clear(name);
  }
}

export class Link {
  /** This connection's id, once the service has told it. */
  connectionId = null;
  /** Since when it is of use, in ms of the clock: its first snapshot has come. Null before. */
  usefulSince = null;
  /** Whether the service could not do what it was asked last: what is known may be old. */
  failing = false;
  /** When to go over to a new connection: before the service or the token's end cuts this one. */
  rotateAt = null;

  #host;
  #transport;
  #timers;
  #openedAt = null;
  #heardAt;
  #asked = null; // the `sync` that is not answered yet: its id, and the `seq` that it carried
  #beaten = null; // the last heartbeat, likewise
  #replaces = null;
  #every = FIRST_BEAT;
  #failures = 0;
  #saidActive = true;

  /**
   * @param {object} host `{clock, random, state(), active(), chosen(), count(), over(link, reason)}`: what is known,
   *   whether the person has used the device since that was last asked, the status that was chosen on it, a number that
   *   rises, and whom to tell that this connection is of no more use
   * @param {object} transport `{kind, send(message), close()}`
   */
  constructor(host, transport) {
    this.#host = host;
    this.#transport = transport;
    this.#timers = new Timers(host.clock);
  }

  get kind() {
    return this.#transport.kind;
  }

  get isReady() {
    return this.usefulSince !== null && !this.failing;
  }

  get hasBegun() {
    return this.#openedAt !== null;
  }

  /** The service has closed the connection that this one replaces: its picture holds until this one brings its own. */
  succeed(link) {
    this.usefulSince = link.usefulSince;
  }

  /** The transport is open. This connection is to take the place of those that `replaces` names, the last one last. */
  begin(...replaces) {
    this.#openedAt = this.#heardAt = this.#host.clock.now();
    this.#replaces = replaces.pop();
    this.#beatLater();
    for (const older of replaces) this.send({ action: "sync", replaces: older });
    this.sync();
  }

  send(message) {
    const { seq } = this.#host.state();
    this.#transport.send(seq === null ? message : { ...message, seq });
  }

  sync() {
    this.#asked = { id: `s${this.#host.count()}`, seq: this.#host.state().seq };
    this.#timers.set("answer", ANSWER_PATIENCE, () => this.#host.over(this, "nobody answers"));
    this.send({ action: "sync", id: this.#asked.id, ...(this.#replaces && { replaces: this.#replaces }) });
  }

  /** The person is back: tell at once if the service takes them to be away. */
  touched() {
    if (!this.#saidActive && this.isReady && this.#host.state().self?.status === "away") this.#beat();
  }

  /** Make sure that somebody is there, unless we have heard so lately: this machine may have slept. */
  check() {
    if (this.#asked === null && this.#host.clock.now() - this.#heardAt > this.#every) this.sync();
  }

  /** The `seq` that the request carried which this frame answers, if it is ours. */
  askedWith(frame) {
    return [this.#asked, this.#beaten].find((sent) => sent && sent.id === frame.id)?.seq ?? null;
  }

  /** A frame came, and the state knows it already. */
  hear(frame) {
    this.#heardAt = this.#host.clock.now();
    this.#timers.set("silence", SILENCE, () => this.sync());
    if (frame.self) this.#know(frame.self);
    if (frame.type === "presence_snapshot" && isWhole(this.#host.state(), frame)) this.#answered(frame);
    if (isFailure(frame) || this.#isAnswer(frame, "error")) this.#failed(frame);
    this.#watchHole();
  }

  end() {
    this.#timers.clearAll();
    this.#transport.close();
  }

  #isAnswer(frame, type) {
    return frame.type === type && this.#asked !== null && frame.id === this.#asked.id;
  }

  #answered(frame) {
    this.failing = false;
    this.#failures = 0;
    this.usefulSince ??= this.#heardAt;
    if (!this.#isAnswer(frame, frame.type)) return;
    this.#asked = this.#replaces = null;
    this.#timers.clear("answer");
  }

  /** The service could not: ask again, and less and less often. */
  #failed({ retryAfter = 0 }) {
    this.failing = true;
    this.#asked = null;
    this.#timers.clear("answer");
    const longest = Math.min(LONGEST_WAIT, 1_000 * 2 ** this.#failures++);
    this.#timers.set("sync", retryAfter + this.#host.random() * longest, () => this.sync());
  }

  #know({ connectionId, heartbeatEvery, rotateAt, devices }) {
    if (heartbeatEvery && heartbeatEvery !== this.#every) {
      this.#every = heartbeatEvery;
      this.#beatLater();
    }
    this.connectionId = connectionId ?? this.connectionId;
    if (!rotateAt || this.rotateAt !== null) return;
    // By the service's own times, so that this machine's clock may be wrong.
    const began = devices.find((device) => device.connectionId === connectionId)?.connectedAt ?? this.#openedAt;
    const life = (rotateAt - began) * (0.9 + 0.1 * this.#host.random());
    this.rotateAt = this.#openedAt + Math.max(SHORTEST_LIFE, life);
  }

  #beat() {
    const [id, active, status] = [`h${this.#host.count()}`, this.#host.active(), this.#host.chosen()];
    this.#saidActive = active;
    this.#beaten = { id, seq: this.#host.state().seq };
    this.#beatLater();
    this.send({ action: "heartbeat", id, active, ...(status && { status }) });
  }

  #beatLater() {
    this.#timers.set("beat", this.#every * (0.9 + 0.2 * this.#host.random()), () => this.#beat());
  }

  #watchHole() {
    if (!hasHole(this.#host.state())) this.#timers.clear("hole");
    else if (!this.#timers.has("hole")) this.#timers.set("hole", HOLE_PATIENCE, this.#mend(this.#host.state().seq));
  }

  /** Sync if the same frame is still missing; a later one has its own time. */
  #mend(seq) {
    return () => {
      if (this.#host.state().seq === seq && this.#asked === null) this.sync();
      else this.#watchHole();
    };
  }
}
