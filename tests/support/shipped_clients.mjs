// Many clients of client/presence.js in one process, under a clock that only commands move. Their sockets, HTTP
// calls, tokens and random numbers are controlled from outside: tests/support/shipped_clients.py.
//
// Each line on stdin is a command, `[name, ...arguments]`, and gets one line on stdout:
//
//   {"did": [[kind, at, client, ...], …], "next": ms or null, "gives": …}
//
// `did` is what the clients did since the last line, in order; `next` is when the first timer fires; `gives` is the
// command's own answer. Nothing happens between two commands: standard input is read synchronously.

import { createHmac } from "node:crypto";
import { readSync, writeSync } from "node:fs";

import { Presence } from "../../client/presence.js";

const EVENTS = ["change", "self", "connection", "error"];
const TOKEN_LIFETIME = 3_600; // s

let now = 0;
let did = [];
let clients = new Map(); // name → {presence, page}
let timers = new Map(); // number → {at, client, action}
let sockets = new Map(); // number → FakeSocket
let requests = new Map(); // number → {client, resolve, reject}
let made = 0; // timers, sockets and requests

function report(kind, client, ...rest) {
  did.push([kind, now, client, ...rest]);
}

/** The clock of a client. Like a browser's, its timers fire at whole milliseconds, and never too early. */
function clockOf(client) {
  return {
    now: () => now,
    setTimeout(action, wait) {
      made += 1;
      timers.set(made, { at: now + Math.max(0, Math.ceil(wait)), client, action });
      return made;
    },
    clearTimeout: (number) => timers.delete(number),
  };
}

/** The number and the timer that fires first; undefined without timers. Of two at the same time, the older one. */
function firstTimer() {
  let first;
  for (const entry of timers) if (!first || entry[1].at < first[1].at) first = entry;
  return first;
}

/** Random numbers, at least 0 and below 1, the same for the same seed (mulberry32). */
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** A token of a user, signed with HS256, as the service's authorizer accepts it. */
function signed(user, secret, lifetime) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const issued = Math.floor(now / 1_000);
  made += 1;
  const claims = { sub: user, iat: issued, exp: issued + lifetime, jti: String(made) };
  const text = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

/** The WebSocket class of a client. */
function socketOf(client) {
  return class FakeSocket extends EventTarget {
    readyState = 0;
    client = client;

    constructor(url, protocols = []) {
      super();
      made += 1;
      this.number = made;
      sockets.set(made, this);
      report("opening", client, made, url, protocols);
    }

    send(data) {
      report("sent", client, this.number, data);
    }

    close(code) {
      if (sockets.delete(this.number)) report("closed", client, this.number, code);
      this.readyState = 3;
    }

    opened() {
      this.readyState = 1;
      this.dispatchEvent(new Event("open"));
    }

    deliver(data) {
      this.dispatchEvent(new MessageEvent("message", { data }));
    }

    lost(code) {
      sockets.delete(this.number);
      this.readyState = 3;
      this.dispatchEvent(Object.assign(new Event("close"), { code }));
    }
  };
}

/** The HTTP calls of a client. */
function fetchOf(client) {
  return (url, { method, headers, body }) =>
    new Promise((resolve, reject) => {
      made += 1;
      requests.set(made, { client, resolve, reject });
      report("requested", client, made, method, url, headers, body ?? null);
    });
}

/** What the client reads of a response. */
const responseOf = (status, headers, body) => ({
  ok: status >= 200 && status < 300,
  status,
  headers: new Headers(headers),
  json: async () => JSON.parse(body),
});

class Page extends EventTarget {
  document = { visibilityState: "visible" };
  #kept = new Map();
  localStorage = {
    getItem: (name) => this.#kept.get(name) ?? null,
    setItem: (name, value) => this.#kept.set(name, value),
    removeItem: (name) => this.#kept.delete(name),
  };
  sessionStorage = this.localStorage;
}

const plain = (detail) =>
  detail instanceof Error ? { name: detail.name, message: detail.message, ...detail, cause: undefined } : detail;

const commands = {
  /** Forget all clients, and start at a time. */
  reset(at) {
    now = at;
    clients = new Map();
    timers = new Map();
    sockets = new Map();
    requests = new Map();
    did = [];
    made = 0;
  },

  /** Make a client, which is not open yet. */
  create(name, seed, { user, secret, tokenLifetime = TOKEN_LIFETIME, ...options }) {
    const page = new Page();
    const presence = new Presence({
      deviceId: name,
      platform: "",
      clock: clockOf(name),
      random: randomFrom(seed),
      window: page,
      WebSocket: socketOf(name),
      fetch: fetchOf(name),
      token: () => signed(user, secret, tokenLifetime),
      ...options,
    });
    clients.set(name, { presence, page });
    for (const type of EVENTS) {
      presence.addEventListener(type, ({ detail }) => report("emitted", name, type, plain(detail)));
    }
  },

  /** The machine of a client is gone: nothing is sent, and nobody closes its sockets. */
  drop(name) {
    clients.delete(name);
    for (const pending of [timers, sockets, requests]) {
      for (const [number, { client }] of pending) if (client === name) pending.delete(number);
    }
  },

  /** Call a method; what its promise gives is reported with the number of the call. */
  call(name, call, method, values) {
    const settled = (value, error) => report("settled", name, call, value ?? null, error ? plain(error) : null);
    Promise.resolve(clients.get(name).presence[method](...values)).then(
      (value) => settled(value),
      (error) => settled(null, error),
    );
  },

  /** Something happens in the page of a client. */
  page(name, event, visibility) {
    const { page } = clients.get(name);
    page.document.visibilityState = visibility ?? page.document.visibilityState;
    page.dispatchEvent(new Event(event));
  },

  /** Move the clock, and fire the timers that are due, in order. */
  async advance(to) {
    for (let first = firstTimer(); first && first[1].at <= to; first = firstTimer()) {
      const [number, { at, action }] = first;
      timers.delete(number);
      now = Math.max(now, at);
      action();
      await quiet();
    }
    now = Math.max(now, to);
  },

  /** The handshake of a socket succeeded. */
  opened: (socket) => sockets.get(socket)?.opened(),

  /** Frames arrive on a socket, as text. */
  deliver(socket, frames) {
    for (const frame of frames) sockets.get(socket)?.deliver(frame);
  },

  /** The service or the network closes a socket, or refuses its handshake. */
  lose: (socket, code) => sockets.get(socket)?.lost(code),

  /** The response to an HTTP call. */
  respond(request, status, headers, body) {
    requests.get(request)?.resolve(responseOf(status, headers, body));
    requests.delete(request);
  },

  /** An HTTP call gets no response. */
  fail(request) {
    requests.get(request)?.reject(new TypeError("fetch failed"));
    requests.delete(request);
  },

  /** What a client shows. */
  picture(name) {
    const { users, self, connection, stale, state } = clients.get(name).presence;
    return { users: [...users.values()], self, connection, stale, seq: state.seq };
  },
};

/** Resolves when nothing happens any more without a timer, a frame or a response. */
async function quiet() {
  for (let before = -1; before !== did.length; ) {
    before = did.length;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The lines of standard input. */
function* lines() {
  const chunk = Buffer.alloc(1 << 16);
  let rest = Buffer.alloc(0);
  for (let length = readSync(0, chunk); length > 0; length = readSync(0, chunk)) {
    rest = Buffer.concat([rest, chunk.subarray(0, length)]);
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      yield rest.toString("utf8", 0, end);
      rest = rest.subarray(end + 1);
    }
  }
}

function write(text) {
  for (let bytes = Buffer.from(text); bytes.length > 0; ) bytes = bytes.subarray(writeSync(1, bytes));
}

for (const line of lines()) {
  const [name, ...values] = JSON.parse(line);
  const gives = await commands[name](...values);
  await quiet();
  write(JSON.stringify({ did, next: firstTimer()?.[1].at ?? null, gives }) + "\n");
  did = [];
}
