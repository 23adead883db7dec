/**
 * When to open the next connection: backoff with jitter, rotation, and the limits that keep many clients from returning
 * in the same second. Only numbers: timers and connections are in connections.js.
 */

const HOLD_WITHIN = 8_000; // ms: the HTTP API takes 1,000 calls/s, and the service's grace is 10 s
const SOON = 2_000; // ms: for failures that do not affect thousands of clients at the same time
const MOST_REFUSALS = 3; // consecutive refused handshakes after which WebSockets count as blocked
const WAKE_PERIOD = 10_000; // ms after a return of the network or the page: a loss in it is this machine's alone
const LONGEST_DELAY = 60_000; // ms between two attempts
const STABLE_AFTER = 5_000; // ms that a connection must be ready before its loss counts as the first failure
const ROTATE_AFTER = 3_600_000; // ms, if the service sets no `rotateAt`: well below API Gateway's limit of two hours

export class RetryPolicy {
  #clock;
  #random;
  #reconnectWithin;
  #failures = 0; // consecutive failed attempts
  #refusals = 0; // consecutive WebSockets that were refused or never became ready
  #lostWithOthers = false; // the last connection may have been lost together with thousands of others
  #wokeAt = -Infinity; // when the network or the page last returned, in ms of the clock

  /** @param {object} options `{clock, random, reconnectWithin}`; `reconnectWithin` in ms */
  constructor({ clock, random, reconnectWithin }) {
    this.#clock = clock;
    this.#random = random;
    this.#reconnectWithin = reconnectWithin;
  }

  /** Whether WebSockets fail so often that the client has to poll. */
  get webSocketsFail() {
    return this.#refusals >= MOST_REFUSALS;
  }

  /** Whether an attempt may be made before its time because the person is active. */
  get mayRetryEarly() {
    return this.#failures <= 1;
  }

  /** Forget failed attempts: the next one is the first again. */
  forgetFailures() {
    this.#failures = this.#refusals = 0;
  }

  /** The client is opened, or the network is back: no earlier loss or failure counts. */
  reset() {
    this.forgetFailures();
    this.#lostWithOthers = false;
  }

  /** The network or the page returned. */
  woke() {
    this.#wokeAt = this.#clock.now();
  }

  /** An attempt failed, or a connection was lost. */
  failed() {
    this.#failures += 1;
  }

  /** A handshake was refused. */
  refused() {
    this.#refusals += 1;
  }

  /** WebSockets are unusable: polling starts without further handshakes. */
  giveUpWebSockets() {
    this.#refusals = MOST_REFUSALS;
  }

  /** A WebSocket became ready. */
  webSocketReady() {
    this.#refusals = 0;
  }

  /** A connection that had been ready since `readySince` was lost. */
  lost(readySince) {
    const now = this.#clock.now();
    if (now - readySince >= STABLE_AFTER) this.#failures = 0;
    this.#lostWithOthers = now - this.#wokeAt >= WAKE_PERIOD;
  }

  /**
   * Milliseconds until the next WebSocket is opened: instead of the lost one, instead of polling, or before the current
   * one ends.
   *
   * @param {import("./connection.js").Connection | null} current
   * @param {boolean} mustReplace whether the application wants another connection
   */
  nextDelay(current, mustReplace) {
    if (current?.isReady && current.kind === "online" && !mustReplace) {
      const remaining = (current.rotateAt ?? this.#clock.now() + ROTATE_AFTER) - this.#clock.now();
      return remaining > 0 ? remaining : 1_000 + this.#random() * 29_000; // the last rotation failed
    }
    if (current?.isReady && current.kind === "polling" && this.webSocketsFail) return 30_000 + this.#random() * 90_000;
    const first = this.#lostWithOthers ? this.#reconnectWithin : Math.min(SOON, this.#reconnectWithin);
    const delay = this.#random() * Math.min(LONGEST_DELAY, first * 2 ** Math.max(0, this.#failures - 1));
    const withNewToken = this.#refusals === 1 && !current?.isReady;
    return withNewToken ? Math.min(delay, this.#random() * SOON) : delay;
  }

  /**
   * Milliseconds until polling starts so that contacts do not see the user offline; null if the next WebSocket is early
   * enough or the loss may not be a common one.
   *
   * @param {boolean} wasReady whether the lost connection had been ready
   * @param {number} untilWebSocket ms until the next WebSocket is opened
   */
  holdDelay(wasReady, untilWebSocket) {
    if (!this.#lostWithOthers) return null;
    if (!wasReady) return this.#random() * SOON;
    return untilWebSocket > HOLD_WITHIN ? this.#random() * HOLD_WITHIN : null;
  }
}
