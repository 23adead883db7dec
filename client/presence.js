/**
 * The client of the presence service: stays connected by itself, and tells who is online. Types: presence.d.ts;
 * documentation: docs/client.md. Here is decided when to open which connection, and what the application is told. What
 * frames mean is in reducer.js, what a connection owes the service in link.js, how messages travel in transports.js.
 */

import { Link, Timers } from "./link.js";
import { Page, deviceId } from "./page.js";
import { changes, initial, reduce } from "./reducer.js";
import { PresenceError, Requests } from "./requests.js";
import { Polling, Socket } from "./transports.js";

export { PresenceError, changes, initial, reduce };

const HANDSHAKE_PATIENCE = 15_000; // ms until a new connection is of use: two functions may have to start
const RECONNECT_WITHIN = 25_000; // ms: 10,000 clients come back with 400 handshakes/s, below API Gateway's 500
const LONGEST_WAIT = 60_000; // ms: nobody waits longer for the next attempt
const LONG_LIFE = 5_000; // ms that a connection has to be of use before the next attempt counts as the first one
const ROTATE_AFTER = 3_600_000; // ms, where the service does not say: well below the two hours after which it is cut
const TOKEN_MARGIN = 60_000; // ms before its end, from which on a token is not used for anything new

const STATUSES = ["online", "busy", "away"];

export class Presence extends EventTarget {
  #options;
  #timers;
  #page;
  #host; // what connections and requests know of this
  #requests;
  #state = initial;
  #isOpen = false;
  #told = "closed"; // the state of the connection that the application knows
  #link = null; // the connection that is used
  #next = null; // one that is being opened beside it
  #lastId = null; // the last connection's id, which a new one replaces
  #failures = 0; // attempts in a row that led nowhere
  #mayHurry = false;
  #token = null;
  #renew = false; // the token was perhaps what a handshake failed for
  #chosen = null; // the device's status, where one was chosen
  #count = 0;

  /** @param {import("./presence.d.ts").PresenceOptions} options */
  constructor(options) {
    super();
    const { document, WebSocket, navigator } = globalThis;
    this.#options = {
      deviceType: "web",
      platform: navigator?.platform ?? "",
      tokenSource: "query",
      reconnectWithin: RECONNECT_WITHIN,
      window: document && globalThis,
      WebSocket,
      fetch: (...call) => globalThis.fetch(...call),
      clock: { now: Date.now, setTimeout: (...args) => setTimeout(...args), clearTimeout: (id) => clearTimeout(id) },
      random: Math.random,
      ...options,
    };
    const { window, clock, random } = this.#options;
    this.#options.deviceId ??= deviceId(window);
    this.#timers = new Timers(clock);
    this.#page = new Page(window, clock, {
      used: () => this.touch(),
      shown: () => this.#shown(),
      online: () => this.#online(),
      left: () => this.#left(),
    });
    this.#host = {
      clock,
      random,
      state: () => this.#state,
      chosen: () => this.#chosen,
      active: () => this.#page.wasUsed(),
      count: () => ++this.#count,
      link: () => this.#link,
      over: (link, reason) => this.#lost(link, reason),
    };
    this.#requests = new Requests(this.#host, this.#timers);
  }

  /** Everybody in the picture: user id → record. Never changed in place: it can be kept and compared. */
  get users() {
    return this.#state.users;
  }

  /** One's own real state, or null before it is known. */
  get self() {
    return this.#state.self;
  }

  /** `closed`, `connecting`, `online`, `polling`, or `stale`: connected, but the service cannot say. */
  get connection() {
    if (!this.#isOpen) return "closed";
    if (this.#link?.failing) return "stale";
    return this.#link?.isReady ? this.#link.kind : "connecting";
  }

  /** Whether the picture may be old: show it greyed. */
  get stale() {
    return !this.#link?.isReady;
  }

  /** Connect, and stay connected. */
  open() {
    if (this.#isOpen) return;
    this.#isOpen = true;
    this.#page.watch();
    this.#connect();
    this.#tell();
  }

  /** Disconnect; contacts see it after the service's grace. The picture stays as it was. */
  close() {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#page.unwatch();
    this.#timers.clearAll();
    this.#link?.end();
    this.#next?.end();
    this.#link = this.#next = null;
    this.#requests.refuseAll(new PresenceError({ code: "closed", message: "the client was closed" }));
    this.#tell("closed by the application");
  }

  /** Sign out: contacts see it at once, unless another tab or device is there. */
  leave() {
    for (const link of [this.#link, this.#next]) link?.send({ action: "leave" });
    if (!this.#link && this.#lastId && this.#options.httpUrl) {
      this.#request("POST", "/v1/me/leave", { connectionId: this.#lastId }).catch(() => {}); // else its grace ends it
    }
    this.close();
  }

  /** The person used the device. In a page this is noticed by itself. */
  touch() {
    this.#page.touch();
    this.#link?.touched();
    if (!this.#link && this.#failures <= 1) this.#hurry(); // what failed more than once has its reasons to wait
  }

  /** Choose this connection's status. Resolves when it is applied, or a newer choice has taken its place. */
  setStatus(status) {
    if (STATUSES.includes(status)) this.#chosen = status; // any other would spoil handshakes; the service refuses it
    return this.#requests.wish("status", { status });
  }

  /** Claim a status over all of the user's devices, until a time (ms) or for good; null ends the claim. */
  setClaim(status, until) {
    const claim = { status: status ?? "online", scope: "user", ...(status && until && { until }) };
    return this.#requests.wish("claim", claim);
  }

  /** Say something in one's own words, `{text, emoji, until}`; null clears it. */
  setCustomStatus(customStatus) {
    return this.#requests.wish("customStatus", { customStatus });
  }

  /** Ask about some users, contacts or not; gives their records in the same order. */
  query(userIds) {
    return this.#requests.ask(userIds);
  }

  // Connections

  /** Open a WebSocket, beside whatever there is. */
  #connect() {
    if (this.#next || !this.#isOpen) return;
    const link = this.#begin((told) => new Socket(() => this.#handshake(), this.#options.WebSocket, told));
    this.#next = link;
    this.#timers.set("handshake", HANDSHAKE_PATIENCE, () => this.#lost(link, "no answer to the handshake"));
  }

  #poll() {
    this.#link = this.#begin(
      (told) =>
        new Polling(
          () => this.#device(),
          (...call) => this.#request(...call),
          told,
        ),
    );
    this.#link.begin();
  }

  #begin(transport) {
    const told = {
      opened: () => this.#opened(link),
      frame: (frame) => this.#receive(link, frame),
      closed: (reason) => this.#lost(link, reason),
    };
    const link = new Link(this.#host, transport(told));
    return link;
  }

  #opened(link) {
    const replaces = this.#link?.connectionId ?? this.#lastId;
    if (!this.#link) this.#adopt(link); // else what there is serves until the new one does
    link.begin(replaces);
  }

  #adopt(link) {
    this.#link?.end();
    this.#link = link;
    this.#next = null;
    this.#timers.clear("handshake");
  }

  #lost(link, reason) {
    const { clock, httpUrl } = this.#options;
    link.end();
    if (link === this.#link && link.isReady && this.#next?.hasBegun) {
      this.#next.succeed(link);
      return this.#adopt(this.#next);
    }
    if (link === this.#next) {
      this.#timers.clear("handshake");
      this.#next = null;
      this.#renew ||= !this.#link?.isReady; // a page is not told why; a token that serves elsewhere was not it
    } else {
      this.#link = null;
      this.#requests.disconnected();
      this.#requests.refuseQueries(new PresenceError({ code: "offline", message: reason }));
      if (link.usefulSince !== null && clock.now() - link.usefulSince >= LONG_LIFE) this.#failures = 0;
    }
    this.#failures += 1;
    if (!this.#link && httpUrl && link.kind === "online" && link.usefulSince === null) this.#poll();
    this.#schedule();
    this.#tell(reason);
  }

  /** When to open the next WebSocket: to have one again, to have one instead of polling, or before this one is cut. */
  #schedule() {
    const { clock, random, reconnectWithin } = this.#options;
    let wait = random() * Math.min(LONGEST_WAIT, reconnectWithin * 2 ** Math.max(0, this.#failures - 1));
    if (this.#link?.isReady && this.#link.kind === "polling") wait = 30_000 + random() * 90_000;
    if (this.#link?.isReady && this.#link.kind === "online") {
      const left = (this.#link.rotateAt ?? clock.now() + ROTATE_AFTER) - clock.now();
      wait = left > 0 ? left : 1_000 + random() * 29_000; // a rotation that failed; the old one lasts a little longer
    }
    this.#mayHurry = true;
    this.#timers.set("connect", wait, () => this.#connect());
  }

  /** Try as good as now, once: something says that it may work again. */
  #hurry() {
    if (!this.#mayHurry || !this.#timers.has("connect") || this.#link?.kind === "online") return;
    this.#mayHurry = false;
    this.#timers.set("connect", this.#options.random() * 1_000, () => this.#connect());
  }

  async #handshake() {
    const { url, tokenSource } = this.#options;
    const token = await this.#freshToken(this.#link?.kind === "online"); // a connection ends with its token
    const query = new URLSearchParams({ v: "1", ...this.#device() });
    if (tokenSource === "query") query.set("token", token);
    return { url: `${url}?${query}`, protocols: tokenSource === "subprotocol" ? ["presence.v1", token] : [] };
  }

  /** The token; a new one where that is asked for, or the old one failed or is at its end. */
  async #freshToken(renew) {
    const { token, clock } = this.#options;
    const must = renew || this.#renew;
    if (must || this.#token === null || expiry(this.#token) - clock.now() < TOKEN_MARGIN) {
      this.#token = await token({ renew: must });
      this.#renew = false;
    }
    return this.#token;
  }

  /** Call the HTTP API as the user. */
  async #request(method, path, body) {
    const { fetch, httpUrl } = this.#options;
    const headers = { Authorization: `Bearer ${await this.#freshToken()}`, "Content-Type": "application/json" };
    const keepalive = path === "/v1/me/leave"; // it outlives the page
    const response = await fetch(httpUrl + path, { method, headers, body: JSON.stringify(body), keepalive });
    this.#renew ||= response.status === 401 || response.status === 403;
    return response;
  }

  /** What a device says about itself when it comes. */
  #device() {
    const { deviceId, deviceType, platform } = this.#options;
    const status = this.#chosen && { status: this.#chosen };
    return { deviceId, deviceType, platform, active: this.#page.isUsed(), ...status };
  }

  // Frames

  #receive(link, frame) {
    const before = this.#state;
    const { isReady: wasReady, rotateAt } = link;
    this.#state = reduce(before, frame, link.askedWith(frame));
    link.hear(frame);
    if (link === this.#next && link.isReady) this.#adopt(link);
    if (link === this.#link) this.#lastId = link.connectionId ?? this.#lastId;
    this.#settle(frame);
    if (link.isReady && !(wasReady && link.rotateAt === rotateAt)) {
      this.#schedule();
      this.#requests.tellAgain();
    }
    for (const change of changes(before.users, this.#state.users)) this.#emit("change", change);
    if (JSON.stringify(before.self) !== JSON.stringify(this.#state.self)) this.#emit("self", this.#state.self);
    this.#tell(frame.message);
  }

  #settle(frame) {
    this.#requests.settle(frame);
    if (frame.type === "done") this.#link?.sync(); // nothing else tells what became of one's own state
    if (frame.type !== "error" && frame.type !== undefined) return;
    const error = new PresenceError(frame);
    this.#requests.fail(frame, error);
    this.#emit("error", error);
  }

  // The page

  #shown() {
    this.touch();
    this.#hurry();
    this.#link?.check();
  }

  #online() {
    this.#hurry();
    this.#link?.sync(); // it may have been another network
  }

  #left() {
    if (this.#link?.kind === "polling") this.#link.send({ action: "leave" }); // a socket closes by itself
  }

  // What the application is told

  #tell(reason = "") {
    if (this.connection === this.#told) return;
    this.#told = this.connection;
    this.#emit("connection", { state: this.#told, reason });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** When a JWT ends, in ms; never, where it does not say. */
function expiry(jwt) {
  try {
    return JSON.parse(atob(jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).exp * 1_000 || Infinity;
  } catch {
    return Infinity;
  }
}
