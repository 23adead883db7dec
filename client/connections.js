/**
 * Which connections exist: the one in use, a WebSocket that is being opened beside it, and polling that is not ready
 * yet. Opens and replaces them, at the times that retry.js computes. What frames mean and what the application is
 * notified of does not belong here.
 */

import { Connection } from "./connection.js";
import { RetryPolicy } from "./retry.js";
import { rememberPolling, wasPolling } from "./storage.js";
import { Timers } from "./timers.js";
import { PollingTransport, WebSocketTransport } from "./transports.js";

const HANDSHAKE_TIMEOUT = 15_000; // ms until a new WebSocket must be ready: two functions may have to start
const EARLY_WITHIN = 1_000; // ms: an early attempt is made at a random moment within this

export class Connections {
  /** The connection in use, which may not be ready; null while there is none. @type {Connection | null} */
  current = null;
  /** Between `start` and `stop`. */
  isRunning = false;

  #options;
  #token;
  #http;
  #device;
  #timers;
  #context;
  #on;
  #retry;
  #next = null; // a WebSocket that is being opened
  #poller = null; // polling that is not ready yet
  #lastId = null; // the id of the connection that was last in use: a new one replaces it
  #lostId = null; // the id of the last WebSocket, if polling followed it
  #mustReplace = false; // the application wants another connection
  #mayHurry = false; // the planned attempt has not been moved yet
  #wasLeft = false; // the page was left, and may return

  /**
   * @param {object} options the client's
   * @param {object} dependencies
   *   `token`, a `TokenProvider`; `http`, an `HttpApi`; `context`: what a `Connection` needs, except `lost`;
   *   `device()`: the device's fields in a handshake or a poll
   * @param {object} on
   *   callbacks: `frame(connection, frame)`; `disconnected(reason)`: the connection in use was lost; `failed(reason)`:
   *   that, or a WebSocket could not be opened; `pollFailed()`: polling failed before it was ready
   */
  constructor(options, { token, http, context, device }, on) {
    this.#options = options;
    this.#token = token;
    this.#http = http;
    this.#device = device;
    this.#timers = new Timers(options.clock);
    this.#context = { ...context, lost: (connection, reason) => this.#lost(connection, reason) };
    this.#on = on;
    this.#retry = new RetryPolicy(options);
  }

  /** Whether WebSockets fail so often that the client has to poll. */
  get webSocketsFail() {
    return this.#retry.webSocketsFail;
  }

  /** Whether this polling connection is not in use yet. */
  isPoller(connection) {
    return connection === this.#poller;
  }

  /** Connect, and keep connected. */
  start() {
    this.isRunning = true;
    this.#retry.reset();
    this.#wasLeft = false;
    this.#openWebSocket();
    if (wasPolling(this.#options.window)) this.#poll();
  }

  stop() {
    this.isRunning = false;
    this.#timers.clearAll();
    for (const connection of this.#all) connection.close();
    this.current = this.#next = this.#poller = null;
  }

  /** Replace the current connection by a new WebSocket. */
  replace() {
    this.#mustReplace = true;
    this.#retry.forgetFailures();
    this.#dropNext();
    this.#timers.clear("connect");
    this.#openWebSocket();
  }

  /** Sign this device out, over HTTP as well if the service may still count a lost connection as live. */
  leave() {
    for (const connection of this.#all) connection.send({ action: "leave" });
    const connectionId = this.current ? this.#lostId : this.#lastId;
    if (!connectionId || !this.#options.httpUrl) return;
    // If this fails, the service ends the connection after its grace.
    this.#http.request("POST", "/v1/me/leave", { connectionId }).catch(() => {});
  }

  /** A polling device ends with the grace that a closed socket gets from the service. */
  leaveWithGrace() {
    if (this.current?.kind === "polling") this.current.send({ action: "leave", grace: true });
  }

  /** Somebody uses the device. */
  active() {
    this.current?.active();
    if (this.#retry.mayRetryEarly) this.#hurry();
  }

  /** The page is shown. */
  pageShown() {
    this.#retry.woke();
    this.active();
    this.#hurry();
    if (this.#wasLeft && this.current?.kind === "polling") this.current.sync();
    else this.current?.check();
    this.#wasLeft = false;
  }

  /** The page is closed, reloaded or navigated away from. A WebSocket closes by itself. */
  pageLeft() {
    this.#wasLeft = true;
    this.leaveWithGrace();
  }

  /** The network is back, perhaps another one: earlier failures do not count, and a pending handshake is given up. */
  networkBack() {
    this.#retry.woke();
    this.#retry.reset();
    this.current?.sync();
    if (this.current?.kind === "online") return;
    if (!this.#next?.isOpen) this.#dropNext();
    this.#openSoon();
  }

  /**
   * A frame of this connection has been applied to the state.
   *
   * @returns {{isFirst: boolean, isRenewed: boolean}} whether the connection became ready by it, and whether pending
   *   updates must be sent on it
   */
  receive(connection, frame) {
    const { isReady: wasReady, rotateAt } = connection;
    connection.receive(frame);
    if (connection !== this.current && connection.isReady) this.#use(connection);
    if (connection === this.current) this.#lastId = connection.connectionId ?? this.#lastId;
    const isFirst = connection.isReady && !wasReady;
    if (isFirst) this.#becameReady(connection);
    const isRenewed = connection.isReady && !(wasReady && connection.rotateAt === rotateAt);
    if (isRenewed && connection.kind === "online") this.#schedule(); // polling keeps the planned attempt
    return { isFirst, isRenewed };
  }

  get #all() {
    return [this.current, this.#next, this.#poller].filter((connection) => connection !== null);
  }

  /** Open a WebSocket, beside any connection there is. */
  #openWebSocket() {
    if (this.#next || !this.isRunning) return;
    let hasToken = false;
    const handshake = async () => {
      const request = await this.#handshake();
      hasToken = true;
      return request;
    };
    const connection = this.#create((on) => new WebSocketTransport(handshake, this.#options.WebSocket, on));
    this.#next = connection;
    this.#timers.set("handshake", HANDSHAKE_TIMEOUT, () => {
      if (!hasToken) this.#token.timedOut();
      else this.#retry.giveUpWebSockets(); // a bad token would have been refused immediately
      this.#lost(connection, "the handshake timed out");
    });
  }

  /** Start to poll unless a connection is in use. Polling is in use once its first snapshot has arrived. */
  #poll() {
    if (this.current || this.#poller || !this.#options.httpUrl) return;
    const request = (...call) => this.#http.request(...call, () => this.#token.get());
    this.#poller = this.#create((on) => new PollingTransport(this.#device, request, on));
    this.#poller.start();
  }

  #create(transport) {
    const on = {
      opened: () => this.#opened(connection),
      frame: (frame) => this.#on.frame(connection, frame),
      closed: (reason) => this.#lost(connection, reason),
    };
    const connection = new Connection(this.#context, transport(on));
    return connection;
  }

  #opened(connection) {
    const replaces = new Set([this.current?.connectionId ?? this.#lastId].filter(Boolean));
    // After polling: the service may not know yet that the WebSocket before it was lost.
    const devices = this.#context.state().self?.devices;
    const isListed = devices?.some(({ connectionId }) => connectionId === this.#lostId);
    const older = isListed && !replaces.has(this.#lostId) ? [this.#lostId] : [];
    if (!this.current) this.#use(connection); // otherwise the current one serves until this one is ready
    connection.start(...older, ...replaces);
  }

  #use(connection) {
    this.current?.close();
    this.current = connection;
    if (connection === this.#poller) {
      this.#poller = null;
      return;
    }
    this.#next = null;
    this.#mustReplace = false;
    this.#timers.clear("handshake");
    this.#timers.clear("hold");
    this.#dropPoller();
  }

  #dropNext() {
    this.#timers.clear("handshake");
    this.#next?.close();
    this.#next = null;
  }

  #dropPoller() {
    this.#poller?.close();
    this.#poller = null;
  }

  #becameReady({ kind }) {
    if (kind === "online") {
      this.#retry.webSocketReady();
      this.#lostId = null;
    }
    if (kind === "online" || this.webSocketsFail) rememberPolling(this.#options.window, kind === "polling");
  }

  #lost(connection, reason) {
    connection.close();
    if (connection === this.#poller) {
      this.#dropPoller(); // a WebSocket is being opened; if it fails, polling starts again
      return this.#on.pollFailed();
    }
    if (connection === this.current && connection.isReady && this.#next?.isOpen) {
      this.#next.takeOverFrom(connection);
      return this.#use(this.#next);
    }
    const wasReady = connection.readySince !== null;
    const wasRefused = connection === this.#next;
    if (wasRefused) this.#dropNext();
    else this.#currentLost(connection, reason);
    if (wasRefused && !this.current?.isReady) this.#token.invalidate(); // it may be the cause: a page cannot tell
    if (!this.#token.error && connection.kind === "online" && !wasReady) {
      if (wasRefused) this.#retry.refused();
      else this.#retry.giveUpWebSockets();
    }
    this.#retry.failed();
    this.#schedule(connection.kind === "polling");
    this.#hold(wasReady);
    this.#on.failed(reason);
  }

  #currentLost(connection, reason) {
    this.current = null;
    this.#on.disconnected(reason);
    if (connection.readySince === null) return;
    this.#retry.lost(connection.readySince);
    if (connection.kind === "online") this.#lostId = connection.connectionId;
  }

  /** Poll where the next WebSocket would be too late, or cannot be opened: contacts must not see the user offline. */
  #hold(wasReady) {
    if (this.current || !this.#options.httpUrl) return;
    if (this.webSocketsFail) return this.#poll();
    if (this.#timers.has("hold")) return;
    const wait = this.#retry.holdDelay(wasReady, this.#timers.remaining("connect"));
    if (wait !== null) this.#timers.set("hold", wait, () => this.#poll());
  }

  /** Plan the next WebSocket; with `keepEarlier` no later than it is already planned. */
  #schedule(keepEarlier = false) {
    const wait = this.#retry.nextDelay(this.current, this.#mustReplace);
    this.#mayHurry = true;
    if (keepEarlier) this.#timers.setSooner("connect", wait, () => this.#openWebSocket());
    else this.#timers.set("connect", wait, () => this.#openWebSocket());
  }

  /** Make the planned attempt early, once: there is a sign that it may succeed. */
  #hurry() {
    if (!this.#mayHurry || !this.#timers.has("connect") || this.current?.kind === "online") return;
    this.#mayHurry = false;
    this.#openSoon();
  }

  #openSoon() {
    this.#timers.setSooner("connect", this.#options.random() * EARLY_WITHIN, () => this.#openWebSocket());
  }

  async #handshake() {
    const { url, tokenSource } = this.#options;
    const isRotation = this.current?.kind === "online"; // a connection ends with its token
    const token = await this.#token.get(isRotation);
    const query = new URLSearchParams({ v: "2", ...this.#device() });
    if (tokenSource === "query") query.set("token", token);
    return { url: `${url}?${query}`, protocols: tokenSource === "subprotocol" ? ["presence.v2", token] : [] };
  }
}
