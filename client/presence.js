/**
 * The client of the presence service: stays connected by itself, and tells who is online. Types: presence.d.ts;
 * documentation: docs/client.md. Here is decided when to open which connection, and what the application is told. What
 * frames mean is in reducer.js, what a connection owes the service in link.js, how messages travel in transports.js.
 */

import { Http } from "./http.js";
import { Link, Timers } from "./link.js";
import { checkUser, checkUsers, checked, mistake } from "./options.js";
import { Page, deviceId, hadToPoll, rememberToPoll } from "./page.js";
import { changes, initial, reduce } from "./reducer.js";
import { PresenceError, Requests } from "./requests.js";
import { Token } from "./token.js";
import { Polling, Socket } from "./transports.js";

export { PresenceError, changes, initial, reduce };

const HANDSHAKE_PATIENCE = 15_000; // ms until a new connection is of use: two functions may have to start
const RECONNECT_WITHIN = 25_000; // ms: 10,000 clients come back with 400 handshakes/s, below API Gateway's 500
const HOLD_WITHIN = 8_000; // ms: the HTTP side takes 1,000 calls/s, and the service's grace is 10 s
const PROMPT = 2_000; // ms: for what did not happen to thousands at once
const SEVERAL = 3; // handshakes in a row that were refused: there is no WebSocket to be had here
const AWAKE = 10_000; // ms after the network or the page came back, in which what is lost was lost before
const LONGEST_WAIT = 60_000; // ms: nobody waits longer for the next attempt
const LONG_LIFE = 5_000; // ms that a connection has to be of use before the next attempt counts as the first one
const ROTATE_AFTER = 3_600_000; // ms, where the service does not say: well below the two hours after which it is cut

const STATUSES = ["online", "busy", "away"];
const CLAIMS = ["busy", "away"];

export class Presence extends EventTarget {
  #options;
  #timers;
  #page;
  #host; // what connections and requests know of this
  #requests;
  #state = initial;
  #isOpen = false;
  #hasEnded = false; // it was closed, and not opened again
  #told = "closed"; // the state of the connection that the application knows
  #link = null; // the connection that is used
  #next = null; // a WebSocket that is being opened beside it
  #poller = null; // polling that is not of use yet
  #lastId = null; // the last connection's id, which a new one replaces
  #lostId = null; // that of the last WebSocket, if polling came after it
  #failures = 0; // attempts in a row that led nowhere
  #refusals = 0; // WebSockets in a row that were refused, or of no use
  #hasToldRefusal = false;
  #troubles = new Set(); // what was told, since there last was a connection of use, of why there is none
  #wasCut = false; // the last connection was lost, perhaps with thousands of others
  #awokeAt = -Infinity; // when network or page came back
  #hasLeft = false; // the page was left, and may come back
  #mayHurry = false;
  #mustMove = false; // the application wants another connection
  #token;
  #http;
  #chosen = null; // the device's status, where one was chosen
  #count = 0;

  /** @param {import("./presence.d.ts").PresenceOptions} options */
  constructor(options) {
    super();
    const { document, WebSocket, navigator } = globalThis;
    this.#options = checked(options, {
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
    this.#timers = new Timers(clock);
    this.#token = new Token(token, clock);
    this.#http = new Http(this.#options, { take: this.#token.takeForCall, failed: this.#token.failed });
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
    this.#hasEnded = false;
    this.#troubles.clear();
    this.#failures = this.#refusals = 0;
    this.#wasCut = this.#hasLeft = false;
    this.#page.watch();
    this.#connect();
    if (hadToPoll(this.#options.window)) this.#polls();
    this.#tell();
  }

  /** Disconnect; contacts see it after the service's grace. The picture stays as it was. */
  close() {
    this.#farewell(); // a socket's end is seen
    this.#end();
  }

  #end() {
    this.#hasEnded = true;
    this.#requests.refuseAll(closed());
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#page.unwatch();
    this.#timers.clearAll();
    for (const link of this.#links) link.end();
    this.#link = this.#next = this.#poller = null;
    this.#tell("closed by the application");
  }

  /** Sign out: contacts see it at once, unless another tab or device is there. */
  leave() {
    for (const link of this.#links) link.send({ action: "leave" });
    const left = this.#link ? this.#lostId : this.#lastId;
    if (left && this.#options.httpUrl) {
      this.#http.request("POST", "/v1/me/leave", { connectionId: left }).catch(() => {}); // else its grace ends it
    }
    this.#end();
  }

  /**
   * Go over to a new connection with a new token. What there is serves until the new one does, contacts see nothing, and
   * where that fails it is tried again. A client that was closed is opened.
   */
  reconnect() {
    this.#token.failed();
    if (!this.#isOpen) return this.open();
    this.#mustMove = true;
    this.#failures = this.#refusals = 0;
    this.#dropNext();
    this.#timers.clear("connect");
    this.#connect();
  }

  /** The person used the device. In a page this is noticed by itself. */
  touch() {
    this.#page.touch();
    this.#link?.touched();
    if (this.#failures <= 1) this.#hurry(); // what failed more than once has its reasons to wait
  }

  /** Choose this connection's status. Resolves when it is applied, or a newer choice has taken its place. */
  setStatus(status) {
    const isKnown = STATUSES.includes(status); // any other would spoil handshakes; the service refuses it
    if (isKnown && !this.#hasEnded) this.#chosen = status;
    return this.#wish("status", { status });
  }

  /** Claim a status over all of the user's devices, until a time (ms) or for good; null ends the claim. */
  setClaim(status, until) {
    const isClaim = status === null || CLAIMS.includes(status);
    if (!isClaim) return mistake("the claim", `one of ${CLAIMS.join(", ")}, or null, which ends it`, status);
    const claim = { status: status ?? "online", scope: "user", ...(status && until && { until }) };
    return this.#wish("claim", claim);
  }

  /** Say something in one's own words, `{text, emoji, until}`; null clears it. */
  setCustomStatus(customStatus) {
    if (typeof customStatus !== "object") return mistake("customStatus", "{text, emoji, until} or null", customStatus);
    return this.#wish("customStatus", { customStatus });
  }

  /** Before the client is first opened a wish waits for that; after its end there is nothing to wait for. */
  #wish(field, change) {
    const promise = this.#requests.wish(field, change);
    if (this.#hasEnded) this.#requests.refuseAll(closed());
    return promise;
  }

  /** Ask about some users, contacts or not; gives their records in the same order. */
  async query(userIds) {
    checkUsers(userIds, "userIds");
    return this.#requests.ask(userIds);
  }

  // The HTTP API, as the user

  /** One's own real state, what one hides, and why the status is what it is. */
  me() {
    return this.#http.call("GET", "/v1/me");
  }

  /** Change what one hides, `{invisible, lastSeen, hideFrom}`: what is given replaces what was, the rest stays. */
  async setPrivacy(change) {
    if (change?.hideFrom !== undefined) checkUsers(change.hideFrom, "hideFrom");
    await this.#http.call("PUT", "/v1/me/privacy", change);
  }

  /** Neither sees the other any more, and whoever is blocked is not told. */
  async block(userId) {
    checkUser(userId);
    await this.#http.call("PUT", `/v1/me/blocks/${encodeURIComponent(userId)}`);
  }

  async unblock(userId) {
    checkUser(userId);
    await this.#http.call("DELETE", `/v1/me/blocks/${encodeURIComponent(userId)}`);
  }

  // Connections

  get #links() {
    return [this.#link, this.#next, this.#poller].filter((link) => link !== null);
  }

  /** Open a WebSocket, beside whatever there is. */
  #connect() {
    if (this.#next || !this.#isOpen) return;
    let hasToken = false;
    const handshake = async () => {
      const made = await this.#handshake();
      hasToken = true;
      return made;
    };
    const link = this.#begin((told) => new Socket(handshake, this.#options.WebSocket, told));
    this.#next = link;
    this.#timers.set("handshake", HANDSHAKE_PATIENCE, () => {
      if (!hasToken) this.#token.late();
      else this.#refusals = SEVERAL; // a token that is not good is refused at once
      this.#lost(link, "no answer to the handshake");
    });
  }

  /** Begin to poll, unless there is something better: it is used once it has brought a picture. */
  #polls() {
    if (this.#link || this.#poller || !this.#options.httpUrl) return;
    const request = (...call) => this.#http.request(...call, this.#token.take);
    this.#poller = this.#begin((told) => new Polling(() => this.#device(), request, told));
    this.#poller.begin();
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
    const replaces = new Set([this.#link?.connectionId ?? this.#lastId].filter(Boolean));
    // Polling came between: the service may not know yet that the WebSocket before it is lost.
    const isThere = this.#state.self?.devices.some(({ connectionId }) => connectionId === this.#lostId);
    const older = isThere && !replaces.has(this.#lostId) ? [this.#lostId] : [];
    if (!this.#link) this.#adopt(link); // else what there is serves until the new one does
    link.begin(...older, ...replaces);
  }

  #adopt(link) {
    this.#link?.end();
    this.#link = link;
    if (link === this.#poller) {
      this.#poller = null;
      return;
    }
    this.#next = null;
    this.#mustMove = false;
    this.#timers.clear("handshake");
    this.#timers.clear("hold");
    this.#dropPoller();
  }

  /** Give up the WebSocket that is being opened. */
  #dropNext() {
    this.#timers.clear("handshake");
    this.#next?.end();
    this.#next = null;
  }

  /** Give up polling before it is of use. */
  #dropPoller() {
    this.#poller?.end();
    this.#poller = null;
  }

  #lost(link, reason) {
    link.end();
    if (link === this.#poller) {
      this.#dropPoller(); // a WebSocket is on its way, and what fails there polls again
      return this.#tellUnreachable();
    }
    if (link === this.#link && link.isReady && this.#next?.hasBegun) {
      this.#next.succeed(link);
      return this.#adopt(this.#next);
    }
    const wasRefused = link === this.#next;
    const wasOfUse = link.usefulSince !== null;
    if (wasRefused) this.#dropNext();
    else this.#gone(link, reason);
    if (wasRefused && !this.#link?.isReady) this.#token.failed(); // perhaps: a page is not told why
    if (this.#token.trouble) this.#tellTrouble(this.#token.trouble);
    else if (link.kind === "online" && !wasOfUse) this.#refusals = wasRefused ? this.#refusals + 1 : SEVERAL;
    this.#failures += 1;
    this.#schedule(link.kind === "polling");
    this.#stay(wasOfUse);
    this.#tellRefusal();
    this.#tell(reason);
  }

  /** The connection that was used is none any more; its id is kept, for the service may not know that. */
  #gone(link, reason) {
    const now = this.#options.clock.now();
    this.#link = null;
    this.#requests.disconnected();
    this.#requests.refuseQueries(new PresenceError({ code: "offline", message: reason }));
    if (link.usefulSince === null) return;
    if (now - link.usefulSince >= LONG_LIFE) this.#failures = 0;
    this.#wasCut = now - this.#awokeAt >= AWAKE; // else it was this machine alone
    if (link.kind === "online") this.#lostId = link.connectionId;
  }

  /** Contacts are to see nothing: what a WebSocket will be late for, or cannot be had for, goes over HTTP meanwhile. */
  #stay(wasOfUse) {
    if (this.#link || !this.#options.httpUrl) return;
    if (this.#refusals >= SEVERAL) return this.#polls();
    if (!this.#wasCut || this.#timers.has("hold")) return;
    const { random } = this.#options;
    if (!wasOfUse) this.#timers.set("hold", random() * PROMPT, () => this.#polls());
    else if (this.#timers.wait("connect") > HOLD_WITHIN) {
      this.#timers.set("hold", random() * HOLD_WITHIN, () => this.#polls());
    }
  }

  /**
   * When to open the next WebSocket: to have one again, to have one instead of polling, or before this one is cut.
   * With `sooner` not later than planned.
   */
  #schedule(sooner = false) {
    const { clock, random, reconnectWithin } = this.#options;
    const longest = this.#wasCut ? reconnectWithin : Math.min(PROMPT, reconnectWithin);
    let wait = random() * Math.min(LONGEST_WAIT, longest * 2 ** Math.max(0, this.#failures - 1));
    if (this.#refusals === 1 && !this.#link?.isReady) wait = Math.min(wait, random() * PROMPT); // with a new token
    if (this.#link?.isReady && this.#link.kind === "polling" && this.#refusals >= SEVERAL) {
      wait = 30_000 + random() * 90_000;
    }
    if (this.#link?.isReady && this.#link.kind === "online" && !this.#mustMove) {
      const left = (this.#link.rotateAt ?? clock.now() + ROTATE_AFTER) - clock.now();
      wait = left > 0 ? left : 1_000 + random() * 29_000; // a rotation that failed; the old one lasts a little longer
    }
    this.#mayHurry = true;
    if (sooner) this.#timers.hasten("connect", wait, () => this.#connect());
    else this.#timers.set("connect", wait, () => this.#connect());
  }

  /** Try as good as now, once: something says that it may work again. */
  #hurry() {
    if (!this.#mayHurry || !this.#timers.has("connect") || this.#link?.kind === "online") return;
    this.#mayHurry = false;
    this.#timers.hasten("connect", this.#options.random() * 1_000, () => this.#connect());
  }

  async #handshake() {
    const { url, tokenSource } = this.#options;
    const isNew = this.#link?.kind === "online"; // a connection ends with its token
    const token = await this.#token.take(isNew);
    const query = new URLSearchParams({ v: "1", ...this.#device() });
    if (tokenSource === "query") query.set("token", token);
    return { url: `${url}?${query}`, protocols: tokenSource === "subprotocol" ? ["presence.v1", token] : [] };
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
    if (link !== this.#link && link.isReady) this.#adopt(link);
    if (link === this.#link) this.#lastId = link.connectionId ?? this.#lastId;
    this.#settle(frame, link);
    if (link.isReady && !wasReady) this.#isOfUse(link);
    if (link.isReady && !(wasReady && link.rotateAt === rotateAt)) {
      if (link.kind === "online") this.#schedule(); // polling leaves the next attempt as it is
      this.#requests.tellAgain();
    }
    for (const change of changes(before.users, this.#state.users)) this.#emit("change", change);
    if (JSON.stringify(before.self) !== JSON.stringify(this.#state.self)) this.#emit("self", this.#state.self);
    this.#tell(frame.message);
  }

  #isOfUse({ kind }) {
    this.#troubles.clear();
    if (kind === "online") {
      this.#refusals = 0;
      this.#lostId = null;
      this.#hasToldRefusal = false;
    }
    if (kind === "online" || this.#refusals >= SEVERAL) rememberToPoll(this.#options.window, kind === "polling");
    this.#tellRefusal();
  }

  #settle(frame, link) {
    this.#requests.settle(frame);
    if (frame.type === "done") this.#link?.sync(); // nothing else tells what became of one's own state
    if (frame.type !== "error" && frame.type !== undefined) return;
    const { trouble } = this.#token;
    const isTokens = trouble !== null && frame.message === trouble.message;
    const error = isTokens ? trouble : new PresenceError(frame);
    if (link === this.#poller) return error.code === "unavailable" ? this.#tellUnreachable() : this.#tellTrouble(error);
    this.#requests.fail(frame, error);
    if (isTokens) this.#tellTrouble(error);
    else this.#emit("error", error);
  }

  // The page

  #shown() {
    this.#awokeAt = this.#options.clock.now();
    this.touch();
    this.#hurry();
    if (this.#hasLeft && this.#link?.kind === "polling") this.#link.sync();
    else this.#link?.check();
    this.#hasLeft = false;
  }

  /** Perhaps another network: what failed on the old one does not count, and what is being opened leads nowhere. */
  #online() {
    this.#awokeAt = this.#options.clock.now();
    this.#failures = this.#refusals = 0;
    this.#wasCut = false;
    this.#link?.sync();
    if (this.#link?.kind === "online") return;
    if (!this.#next?.hasBegun) this.#dropNext();
    this.#timers.hasten("connect", this.#options.random() * 1_000, () => this.#connect());
  }

  /** The page goes, or is loaded anew: a socket closes by itself. */
  #left() {
    this.#hasLeft = true;
    this.#farewell();
  }

  #farewell() {
    if (this.#link?.kind === "polling") this.#link.send({ action: "leave", grace: true });
  }

  // What the application is told

  /** What keeps the client from connecting is told once, not at each attempt. */
  #tellTrouble(error) {
    if (this.#troubles.has(error.message)) return;
    this.#troubles.add(error.message);
    this.#emit("error", error);
  }

  /** The HTTP side gave nothing to poll: if there is no WebSocket either, nothing is left. */
  #tellUnreachable() {
    if (this.#refusals < SEVERAL || this.#token.trouble) return;
    const message =
      "no WebSocket can be opened, and the HTTP API does not serve either: is there a network, are url and httpUrl " +
      "those of the deployment, does it allow this page's origin, or is it away?";
    this.#tellTrouble(new PresenceError({ code: "unreachable", message }));
  }

  /** Once, when it is clear that no WebSocket is to be had. */
  #tellRefusal() {
    const { httpUrl, tokenSource } = this.#options;
    if (this.#refusals < SEVERAL || !this.#failures || this.#hasToldRefusal || this.#token.trouble) return;
    const isPolling = this.#link?.isReady && this.#link.kind === "polling";
    if (httpUrl ? !isPolling : this.#link) return; // it may be something else
    this.#hasToldRefusal = true;
    const deployment = `are url and tokenSource ("${tokenSource}") those of the deployment`;
    const message = httpUrl
      ? `no WebSocket can be opened, though the HTTP API takes the token: ${deployment}`
      : `no WebSocket can be opened, also with a new token: is the token good, ${deployment}, is there a network`;
    const refusal = { code: "no_websocket", message: `${message}, or does something on the way refuse WebSockets?` };
    this.#emit("error", new PresenceError({ ...refusal, ...(httpUrl && { field: "tokenSource" }) }));
  }

  #tell(reason = "") {
    if (this.connection === this.#told) return;
    this.#told = this.connection;
    this.#emit("connection", { state: this.#told, reason });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const closed = () => new PresenceError({ code: "closed", message: "the client was closed" });
