/**
 * The client of the presence service: stays connected, and notifies the application of who is online. This file is the
 * entrance: the class `Presence` with its methods and events. Types: presence.d.ts; documentation: docs/client.md.
 *
 * What frames mean is in reducer.js, which connections exist in connections.js, and when the next one is opened in
 * retry.js.
 */

import { Connections } from "./connections.js";
import { Diagnostics } from "./diagnostics.js";
import { PresenceError } from "./errors.js";
import { HttpApi } from "./http.js";
import { checkOptions, checkUserId, checkUserIds, invalid } from "./options.js";
import { Page } from "./page.js";
import { changes, initial, isSeqRefused, nextTick, receive, tick } from "./reducer.js";
import { Requests } from "./requests.js";
import { deviceId } from "./storage.js";
import { Timers } from "./timers.js";
import { TokenProvider } from "./token.js";

export { PresenceError, changes, initial, nextTick, receive, tick };

const RECONNECT_WITHIN = 25_000; // ms: 10,000 clients open 400 WebSockets/s, below API Gateway's 500
const STATUSES = ["online", "busy", "away"];
const CLAIMS = ["busy", "away"];

export class Presence extends EventTarget {
  #options;
  #token;
  #http;
  #page;
  #timers;
  #connections;
  #requests;
  #diagnostics;
  #state = initial;
  #announced = "closed"; // the `connection` of the last event
  #wasClosed = false; // `close` or `leave` was called after the last `open`
  #chosenStatus = null; // this device's status; null if none was chosen
  #lastNumber = 0;

  /** @param {import("./presence.d.ts").PresenceOptions} options */
  constructor(options) {
    super();
    const { document, WebSocket, navigator } = globalThis;
    this.#options = checkOptions(options, {
      deviceType: "web",
      platform: navigator?.platform ?? "",
      tokenSource: "query",
      reconnectWithin: RECONNECT_WITHIN,
      window: document && globalThis,
      WebSocket,
      fetch: (...call) => globalThis.fetch(...call),
      clock: { now: Date.now, setTimeout: (...args) => setTimeout(...args), clearTimeout: (id) => clearTimeout(id) },
      random: Math.random,
    });
    const { window, clock, random, token } = this.#options;
    this.#options.deviceId ??= deviceId(window);
    this.#token = new TokenProvider(token, clock);
    this.#http = new HttpApi(this.#options, this.#token);
    this.#timers = new Timers(clock);
    this.#page = new Page(window, clock, {
      active: () => this.touch(),
      shown: () => this.#pageShown(),
      networkBack: () => this.#connections.networkBack(),
      left: () => this.#connections.pageLeft(),
    });
    const context = {
      clock,
      random,
      state: () => this.#state,
      chosenStatus: () => this.#chosenStatus,
      takeActivity: () => this.#page.takeActivity(),
      nextNumber: () => ++this.#lastNumber,
      connection: () => this.#connections.current,
    };
    const dependencies = { token: this.#token, http: this.#http, context, device: () => this.#device() };
    this.#connections = new Connections(this.#options, dependencies, {
      frame: (connection, frame) => this.#receive(connection, frame),
      disconnected: (reason) => this.#disconnected(reason),
      failed: (reason) => this.#connectionFailed(reason),
      pollFailed: () => this.#diagnostics.pollFailed(),
    });
    this.#requests = new Requests(context);
    const report = (error) => this.#emit("error", error);
    this.#diagnostics = new Diagnostics(this.#options, this.#connections, this.#token, report);
  }

  /** The known users: user id → record. A user who is absent is offline. Never changed in place. */
  get users() {
    return this.#state.users;
  }

  /** The user's own real state; null until it is known. */
  get self() {
    return this.#state.self;
  }

  /** What is known, as one value that is never changed in place: `changes(before, after)` compares two of them. */
  get state() {
    return this.#state;
  }

  /** `closed`, `connecting`, `online`, `polling`, or `stale`: connected, but the service is unavailable. */
  get connection() {
    const { isRunning, current } = this.#connections;
    if (!isRunning) return "closed";
    if (current?.isFailing) return "stale";
    return current?.isReady ? current.kind : "connecting";
  }

  /** Whether `users` and `self` may be out of date: show them grayed out. */
  get stale() {
    return !this.#connections.current?.isReady;
  }

  /** Connect, and stay connected. */
  open() {
    if (this.#connections.isRunning) return;
    this.#wasClosed = false;
    this.#diagnostics.reset();
    this.#page.watch();
    this.#watchHole();
    this.#connections.start();
    this.#announceConnection();
  }

  /** Disconnect. Contacts see it after the service's grace. `users` and `self` keep their values. */
  close() {
    this.#connections.leaveWithGrace();
    this.#end();
  }

  /** Sign out. Contacts see it immediately, unless another tab or device is connected. */
  leave() {
    this.#connections.leave();
    this.#end();
  }

  #end() {
    this.#wasClosed = true;
    this.#requests.rejectAll(closed());
    if (!this.#connections.isRunning) return;
    this.#page.unwatch();
    this.#timers.clearAll();
    this.#connections.stop();
    this.#announceConnection("closed by the application");
  }

  /**
   * Move to a new connection with a new token. The old connection serves until the new one is ready, and contacts see
   * nothing. If this fails, it is retried. A closed client is opened.
   */
  reconnect() {
    this.#token.invalidate();
    if (this.#connections.isRunning) this.#connections.replace();
    else this.open();
  }

  /** Report that the person uses the device. In a page this happens automatically. */
  touch() {
    this.#page.touch();
    this.#connections.active();
  }

  /** Choose this device's status. Resolves when it is applied or replaced by a newer one. */
  setStatus(status) {
    const isKnown = STATUSES.includes(status); // the service rejects others; a handshake with one would fail
    if (isKnown && !this.#wasClosed) this.#chosenStatus = status;
    return this.#update("status", { status });
  }

  /** Claim a status for all of the user's devices, until a time (ms) or until changed; null ends the claim. */
  setClaim(status, until) {
    const isClaim = status === null || CLAIMS.includes(status);
    if (!isClaim) return invalid("the claim", `one of ${CLAIMS.join(", ")}, or null to end it`, status);
    return this.#update("claim", { status: status ?? "online", scope: "user", ...(status && until && { until }) });
  }

  /** Set a custom status, `{text, emoji, until}`; null clears it. */
  setCustomStatus(customStatus) {
    if (typeof customStatus !== "object") return invalid("customStatus", "{text, emoji, until} or null", customStatus);
    return this.#update("customStatus", { customStatus });
  }

  /** Send an update. Before the first `open` it waits; after `close` or `leave` it is rejected. */
  #update(field, change) {
    const promise = this.#requests.update(field, change);
    if (this.#wasClosed) this.#requests.rejectAll(closed());
    return promise;
  }

  /** The records of users, contacts or not, in the same order. */
  async query(userIds) {
    checkUserIds(userIds, "userIds");
    return this.#requests.query(userIds);
  }

  // Calls of the HTTP API as the user

  /** The user's own real state, whom the user hides from and blocks, and why the status is what it is. */
  me() {
    return this.#http.call("GET", "/v1/me");
  }

  /** Change `{invisible, lastSeen, hideFrom}`. Given fields replace their old values; others stay. */
  async setPrivacy(change) {
    if (change?.hideFrom !== undefined) checkUserIds(change.hideFrom, "hideFrom");
    await this.#http.call("PUT", "/v1/me/privacy", change);
  }

  /** Block a user: neither sees the other. The blocked user is not notified of the reason. */
  async block(userId) {
    checkUserId(userId);
    await this.#http.call("PUT", `/v1/me/blocks/${encodeURIComponent(userId)}`);
  }

  async unblock(userId) {
    checkUserId(userId);
    await this.#http.call("DELETE", `/v1/me/blocks/${encodeURIComponent(userId)}`);
  }

  // What happens

  /** Apply a frame: to the state first, then to the connection and to pending requests; then notify the application. */
  #receive(connection, frame) {
    const before = this.#state;
    const { state, sync } = receive(before, frame, this.#options.clock.now());
    this.#state = state;
    const { isFirst, isRenewed } = this.#connections.receive(connection, frame);
    this.#settle(connection, frame);
    if (isFirst) this.#diagnostics.ready(connection.kind);
    if (isRenewed) this.#requests.resend();
    if (sync) connection.recover();
    this.#watchHole();
    for (const change of changes(before, state)) this.#emit("change", change);
    if (JSON.stringify(before.self) !== JSON.stringify(state.self)) this.#emit("self", state.self);
    this.#announceConnection(frame.message);
  }

  /** A frame is missing: it may only be late. */
  #watchHole() {
    const at = nextTick(this.#state);
    if (at === null) this.#timers.clear("hole");
    else this.#timers.set("hole", Math.max(0, at - this.#options.clock.now()), () => this.#tick());
  }

  #tick() {
    const { state, sync } = tick(this.#state, this.#options.clock.now());
    this.#state = state;
    if (sync) this.#connections.current?.recover();
    this.#watchHole();
  }

  /** Resolve or reject what a frame answers, and report errors. */
  #settle(connection, frame) {
    this.#requests.settle(frame);
    if (frame.type === "done") this.#connections.current?.sync(); // no frame reports the user's own changes to a poller
    if ((frame.type !== "error" && frame.type !== undefined) || isSeqRefused(frame)) return;
    const isTokenError = this.#token.error !== null && frame.message === this.#token.error.message;
    const error = isTokenError ? this.#token.error : new PresenceError(frame);
    if (this.#connections.isPoller(connection)) {
      if (error.code === "unavailable") this.#diagnostics.pollFailed();
      else this.#diagnostics.report(error);
      return;
    }
    this.#requests.fail(frame, error);
    if (isTokenError) this.#diagnostics.report(error);
    else this.#emit("error", error);
  }

  #disconnected(reason) {
    this.#requests.disconnected();
    this.#requests.rejectQueries(new PresenceError({ code: "offline", message: reason }));
  }

  #connectionFailed(reason) {
    this.#diagnostics.connectionFailed();
    this.#announceConnection(reason);
  }

  #pageShown() {
    this.#page.touch();
    this.#connections.pageShown();
  }

  /** This device's fields in a handshake or a poll. */
  #device() {
    const { deviceId, deviceType, platform } = this.#options;
    const status = this.#chosenStatus && { status: this.#chosenStatus };
    return { deviceId, deviceType, platform, active: this.#page.isActive, ...status };
  }

  #announceConnection(reason = "") {
    if (this.connection === this.#announced) return;
    this.#announced = this.connection;
    this.#emit("connection", { state: this.#announced, reason });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const closed = () => new PresenceError({ code: "closed", message: "the client is closed" });
