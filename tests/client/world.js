/**
 * The world around a client, controlled by the tests: a clock that only moves by `advance`, a network of WebSockets and
 * HTTP calls to a model of the service, and a page with a person at it.
 */

import { Presence } from "../../client/presence.js";
import { Service } from "./service.js";

export class Clock {
  #now = 1_764_000_000_000;
  #timers = new Map();
  #made = 0;
  now = () => this.#now;
  setTimeout = (action, wait) => {
    this.#made += 1;
    this.#timers.set(this.#made, { at: this.#now + Math.max(0, wait), action });
    return this.#made;
  };
  clearTimeout = (timer) => this.#timers.delete(timer);

  /** How many timers are set. */
  get pending() {
    return this.#timers.size;
  }

  /** When the next timer fires. */
  get nextAt() {
    return Math.min(...[...this.#timers.values()].map(({ at }) => at));
  }

  /** Advance by `ms`: fire due timers in order, and settle promises after each. */
  async advance(ms) {
    const end = this.#now + ms;
    await settled();
    for (let due = this.#next(end); due; due = this.#next(end)) {
      const [timer, { at, action }] = due;
      this.#timers.delete(timer);
      this.#now = at;
      action();
      await settled();
    }
    this.#now = end;
  }

  #next(end) {
    const due = [...this.#timers].filter(([, { at }]) => at <= end);
    return due.sort(([one, a], [other, b]) => a.at - b.at || one - other)[0];
  }
}

/** Resolves after all promises that can settle now. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

export class Page extends EventTarget {
  document = { visibilityState: "visible" };
  #kept = new Map();
  localStorage = {
    getItem: (name) => this.#kept.get(name) ?? null,
    setItem: (name, value) => this.#kept.set(name, value),
  };
  sessionStorage = { ...this.localStorage, removeItem: (name) => this.#kept.delete(name) };

  fire(name) {
    this.dispatchEvent(new Event(name));
  }

  show(visibilityState) {
    this.document.visibilityState = visibilityState;
    this.fire("visibilitychange");
  }
}

/** A client and everything around it. `options` are the client's. */
export class World {
  clock = new Clock();
  page = new Page();
  service = new Service({ now: this.clock.now, users: ["bob", "carol"] });
  sockets = []; // all that were ever created
  calls = []; // of the HTTP API: {method, path, body, authorization, keepalive}
  tokens = []; // the arguments of token()
  events = []; // [type, detail]
  privacy = { hideFrom: [], blocks: [] }; // as stored by the HTTP API
  /** What happens to handshakes: `accept`, `refuse`, or `hang`. */
  handshakes = "accept";
  /** Whether HTTP calls reach the service. */
  httpWorks = true;
  /** How a frame travels: by default it is delivered immediately. */
  route = (frame, deliver) => deliver(frame);

  constructor(options = {}) {
    this.service.post = (connectionId, frame) => {
      for (const socket of this.sockets) if (socket.connectionId === connectionId) this.route(frame, socket.deliver);
    };
    this.client = new Presence({
      url: "wss://host/live",
      token: async (wanted) => {
        this.tokens.push(wanted);
        return jwt({ sub: "me", exp: this.clock.now() / 1_000 + 3_600, jti: this.tokens.length });
      },
      clock: this.clock,
      random: () => 0.5,
      window: this.page,
      WebSocket: socketsOf(this),
      fetch: (url, init) => this.#fetch(url, init),
      ...options,
    });
    for (const type of ["change", "self", "connection", "error"]) {
      this.client.addEventListener(type, ({ detail }) => this.events.push([type, detail]));
    }
  }

  /** An open client that has its first snapshot. */
  static async online(options) {
    const world = new World(options);
    world.client.open();
    await world.clock.advance(0);
    return world;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Remove and return the details of the events of one type. */
  take(type) {
    const found = this.events.filter(([name]) => name === type).map(([, detail]) => detail);
    this.events = this.events.filter(([name]) => name !== type);
    return found;
  }

  get statuses() {
    return Object.fromEntries([...this.client.users].map(([userId, { status }]) => [userId, status]));
  }

  /** Send a frame on every open connection; null is none. */
  broadcast(frame) {
    if (frame === null) return;
    for (const socket of this.sockets) if (socket.readyState === 1) this.route(frame, socket.deliver);
  }

  /** A store whose clock was far ahead, in which `work` happens, is replaced: it does not know the numbers it gave. */
  async runAhead(work) {
    this.service.now = () => this.clock.now() + 2_000_000;
    await work();
    this.service.now = this.clock.now;
    this.service.feed = this.clock.now();
  }

  async #fetch(url, { method, body, headers, keepalive }) {
    const call = {
      at: this.clock.now(),
      method,
      path: new URL(url).pathname,
      body: body && JSON.parse(body),
      authorization: headers.Authorization,
      keepalive,
    };
    this.calls.push(call);
    await null;
    if (!this.httpWorks) throw new TypeError("fetch failed");
    return this.respond(call);
  }

  /** The HTTP API's response to a call. */
  respond({ method, path, body }) {
    if (!this.service.isAvailable) {
      const problem = { type: "about:blank", title: "Service Unavailable", status: 503, detail: "Redis is away" };
      return Response.json(problem, { status: 503, headers: { "Retry-After": "1" } });
    }
    if (path === "/v1/me") return Response.json({ ...this.service.self(), ...this.privacy });
    if (path === "/v1/me/privacy") Object.assign(this.privacy, body);
    if (path.startsWith("/v1/me/blocks/")) {
      const userId = decodeURIComponent(path.slice("/v1/me/blocks/".length));
      const others = this.privacy.blocks.filter((other) => other !== userId);
      this.privacy.blocks = method === "PUT" ? [...others, userId] : others;
    }
    if (body === undefined) return new Response(null, { status: 204 });
    const id = `P${body.deviceId ?? ""}`;
    if (path === "/v1/me/heartbeat") {
      const [frame] = this.service.handle(id, { ...body, action: "sync" });
      if (frame.type !== "error") return Response.json(frame);
      const errors = [{ field: frame.field, message: frame.message }];
      return Response.json({ title: "Bad Request", status: 400, detail: frame.message, errors }, { status: 400 });
    }
    if (path === "/v1/presence/query")
      return Response.json(this.service.handle(id, { ...body, action: "get_presence" })[0]);
    if (path === "/v1/me/leave") this.service.connections.delete(body.connectionId ?? id);
    if (path === "/v1/me/status" && body.customStatus?.text?.length > 140) {
      const errors = [{ field: "customStatus.text", message: "too long" }];
      return Response.json(
        { title: "Bad Request", status: 400, detail: "customStatus.text: too long", errors },
        { status: 400 },
      );
    }
    if (path === "/v1/me/status") this.service.handle(id, { ...body, action: "presence_update" });
    return new Response(null, { status: 204 });
  }
}

/** The same random numbers on every run (MINSTD), at least 0 and below 1. */
export function randomFrom(seed) {
  let last = seed;
  return () => (last = (last * 48_271) % 2_147_483_647) / 2_147_483_647;
}

export function jwt(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  return [part({ alg: "HS256" }), part(claims), "signature"].join(".");
}

/** The WebSocket class of a world. */
function socketsOf(world) {
  return class FakeSocket extends EventTarget {
    readyState = 0;
    sent = [];

    constructor(url, protocols) {
      super();
      Object.assign(this, { url: new URL(url), protocols, at: world.clock.now() });
      world.sockets.push(this);
      if (world.handshakes === "hang") return;
      world.clock.setTimeout(() => (world.handshakes === "accept" ? this.#open() : this.cut(1006)), 0);
    }

    /** The sent messages of one action. */
    messages(action) {
      return this.sent.filter((message) => message.action === action);
    }

    send(text) {
      const message = JSON.parse(text);
      this.sent.push(message);
      if (this.isSilent) return;
      if (message.replaces) world.sockets.find((socket) => socket.connectionId === message.replaces)?.cut(1000);
      for (const frame of world.service.handle(this.connectionId, message)) world.route(frame, this.deliver);
    }

    close(code) {
      this.closedWith = code;
      this.readyState = 3;
    }

    /** The network or the service closes it. */
    cut(code = 1006) {
      if (this.readyState === 3) return;
      this.readyState = 3;
      if (!world.service.keepsLost) world.service.disconnect(this.connectionId);
      this.dispatchEvent(Object.assign(new Event("close"), { code }));
    }

    deliver = (frame) => {
      if (this.readyState === 1) this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(frame) }));
    };

    #open() {
      if (this.readyState !== 0) return;
      this.readyState = 1;
      const query = this.url.searchParams;
      this.connectionId = world.service.connect(query.get("deviceId"), query.get("status") ?? undefined);
      this.dispatchEvent(new Event("open"));
    }
  };
}
