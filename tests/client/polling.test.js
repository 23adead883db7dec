/** Polling: where WebSockets fail, the HTTP API carries the same messages until one opens again. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World, jwt } from "./world.js";

const REFUSED = 3_000; // ms: three handshakes with waits of 1 s and 2 s between them
const states = (world) => world.take("connection").map(({ state }) => state);

async function polling(options = {}) {
  const world = new World({ httpUrl: "https://host", deviceId: "d1", platform: "tests", ...options });
  world.handshakes = "refuse";
  world.client.open();
  await world.clock.advance(REFUSED);
  return world;
}

test("three refused handshakes start polling, and no fewer", async () => {
  const world = new World({ httpUrl: "https://host", deviceId: "d1", platform: "tests" });
  world.handshakes = "refuse";
  world.client.open();
  await world.clock.advance(REFUSED - 1);
  assert.deepEqual([world.sockets.length, world.calls.length], [2, 0]);
  await world.clock.advance(1);
  assert.deepEqual(states(world), ["connecting", "polling"]);
  assert.deepEqual(world.statuses, { bob: "offline", carol: "offline" });
  const [{ method, path, body, authorization, keepalive }] = world.calls;
  assert.deepEqual([method, path, keepalive], ["POST", "/v1/me/heartbeat", false]);
  assert.deepEqual(body, { deviceId: "d1", deviceType: "web", platform: "tests", active: true });
  assert.match(authorization, /^Bearer [^.]+\.[^.]+\.signature$/);
  assert.deepEqual(world.tokens[0], { renew: false });
  assert.ok(world.tokens.slice(1).every(({ renew }) => renew));
});

test("without httpUrl it only retries", async () => {
  const world = await polling({ httpUrl: undefined });
  assert.deepEqual(states(world), ["connecting"]);
  assert.deepEqual(world.calls, []);
});

test("it polls at the heartbeat interval and emits the same changes", async () => {
  const world = await polling();
  world.take("change");
  const { feed } = world.service;
  world.service.change("bob", "online");
  world.page.fire("keydown");
  await world.clock.advance(30_000);
  assert.deepEqual(
    world.take("change").map(({ userId, user }) => [userId, user.status]),
    [["bob", "online"]],
  );
  assert.equal(world.calls.length, 2);
  const { body } = world.calls[1];
  assert.deepEqual([body.active, body.seq], [true, feed]);
  await world.clock.advance(60_000);
  assert.deepEqual(
    world.calls.map((call) => call.path),
    Array(4).fill("/v1/me/heartbeat"),
  );
  assert.equal(world.calls[3].body.seq, world.service.feed);
});

test("a WebSocket is retried in the background and takes over without a gap", async () => {
  const world = await polling();
  world.take("connection");
  await world.clock.advance(5_000);
  const [tokens, sockets] = [world.tokens.length, world.sockets.length];
  await world.clock.advance(70_000);
  assert.equal(world.sockets.length, sockets);
  await world.clock.advance(30_000);
  assert.equal(world.sockets.length, sockets + 1);
  assert.deepEqual(states(world), []);
  assert.equal(world.tokens.length, tokens); // HTTP accepts the token, so it is not renewed
  world.handshakes = "accept";
  await world.clock.advance(60_000);
  assert.equal(world.sockets.length, sockets + 2);
  assert.deepEqual(states(world), ["online"]);
  const [sync] = world.socket.messages("sync");
  assert.deepEqual([sync.replaces, sync.seq], ["Pd1", world.service.feed]);
  const calls = world.calls.length;
  await world.clock.advance(120_000);
  assert.equal(world.calls.length, calls);
});

test("a connection that never becomes ready counts as refused", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.service.handle = () => []; // a proxy lets only handshakes through
  world.respond = () => new Response(null, { status: 404 });
  world.client.open();
  await world.clock.advance(5_000);
  assert.equal(world.calls.length, 1);
});

test("a handshake that times out starts polling, because a refused token fails faster", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.handshakes = "hang";
  world.client.open();
  await world.clock.advance(14_999);
  assert.equal(world.calls.length, 0);
  await world.clock.advance(1);
  assert.deepEqual(states(world), ["connecting", "polling"]);
});

test("a refused handshake is retried within two seconds with a new token", async () => {
  const world = new World({ httpUrl: "https://host", random: () => 0.999 });
  world.handshakes = "refuse";
  world.client.open();
  await world.clock.advance(0);
  world.handshakes = "accept";
  await world.clock.advance(2_000);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
  assert.deepEqual([states(world), world.calls], [["connecting", "online"], []]);
});

test("after a loss too, a refused handshake is retried early with a new token", async () => {
  const world = await World.online({ reconnectWithin: 4_000 });
  world.socket.cut();
  world.handshakes = "refuse";
  await world.clock.advance(2_000);
  assert.equal(world.sockets.length, 2);
  world.handshakes = "accept";
  await world.clock.advance(1_000);
  assert.equal(world.client.connection, "online");
  assert.deepEqual(world.tokens.at(-1), { renew: true });
});

test("the browser's online event causes a WebSocket attempt, whatever polling does", async () => {
  const world = await polling();
  world.httpWorks = false;
  await world.clock.advance(60_000);
  const [before, calls] = [world.sockets.length, world.calls.length];
  world.handshakes = "accept";
  world.httpWorks = true;
  world.page.fire("online");
  await world.clock.advance(499);
  assert.deepEqual([world.calls.length, world.client.connection], [calls + 1, "polling"]);
  await world.clock.advance(501);
  assert.equal(world.sockets.length, before + 1);
  assert.equal(world.client.connection, "online");
});

test("a handshake that hangs on the old network does not delay that attempt", async () => {
  const world = await polling();
  world.handshakes = "hang";
  for (let before = world.sockets.length; world.sockets.length === before; ) await world.clock.advance(1_000);
  const hanging = world.socket;
  world.handshakes = "accept";
  world.page.fire("online");
  await world.clock.advance(1_000);
  assert.equal(hanging.closedWith, 1000);
  assert.equal(world.client.connection, "online");
});

test("a lost connection is held by polling if the next WebSocket would be too late", async () => {
  const world = await World.online({ httpUrl: "https://host", deviceId: "d1" });
  for (const type of ["change", "connection"]) world.take(type);
  world.service.keepsLost = true;
  world.socket.cut();
  world.service.change("bob", "online");
  await world.clock.advance(3_999);
  assert.deepEqual([states(world), world.calls.length], [["connecting"], 0]);
  await world.clock.advance(1);
  assert.deepEqual(states(world), ["polling"]);
  assert.equal(world.statuses.bob, "online");
  await world.clock.advance(8_500); // the WebSocket opens at the time planned before
  assert.deepEqual(states(world), ["online"]);
  assert.deepEqual(
    world.socket.messages("sync").map(({ replaces }) => replaces),
    ["C1=", "Pd1"],
  );
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
});

test("a connection that returns soon is not held by polling, and neither is a closed client", async () => {
  const world = await World.online({ httpUrl: "https://host", reconnectWithin: 8_000 });
  world.socket.cut();
  await world.clock.advance(4_000);
  assert.deepEqual([world.client.connection, world.calls], ["online", []]);
  const other = await World.online({ httpUrl: "https://host" });
  other.socket.cut();
  other.client.close();
  await other.clock.advance(60_000);
  assert.deepEqual(other.calls, []);
});

test("a poll overtaken by a WebSocket leaves no device behind", async () => {
  const world = await World.online({ httpUrl: "https://host", deviceId: "d1" });
  const respond = world.respond.bind(world);
  world.respond = (call) => new Promise((resolve) => world.clock.setTimeout(() => resolve(respond(call)), 4_900));
  world.socket.cut();
  await world.clock.advance(4_000);
  world.page.fire("pointermove"); // activity: a WebSocket within a second
  await world.clock.advance(2_000);
  assert.equal(world.client.connection, "online");
  await world.clock.advance(10_000);
  assert.deepEqual(
    world.calls.map(({ path, body }) => [path, body.grace]),
    [
      ["/v1/me/heartbeat", undefined],
      ["/v1/me/leave", true],
    ],
  );
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
});

test("no_websocket is reported once when HTTP accepts the token, and names tokenSource", async () => {
  const world = await polling({ tokenSource: "subprotocol" });
  await world.clock.advance(300_000);
  const [{ code, field, message }, ...more] = world.take("error");
  assert.deepEqual([code, field, more], ["no_websocket", "tokenSource", []]);
  assert.match(message, /tokenSource \("subprotocol"\)/);
});

test("without httpUrl no_websocket names the token as a possible cause", async () => {
  const alone = await polling({ httpUrl: undefined });
  await alone.clock.advance(300_000);
  const [{ code, field, message }, ...more] = alone.take("error");
  assert.deepEqual([code, field, more], ["no_websocket", undefined, []]);
  assert.match(message, /check the token, the network, that url and tokenSource \("query"\) match the deployment/);
});

test("unreachable is reported once per outage, and attempts continue", async () => {
  const world = new World({ httpUrl: "https://host" });
  for (let time = 0; time < 2; time += 1) {
    world.handshakes = "refuse";
    world.httpWorks = false;
    world.client.open();
    await world.clock.advance(300_000);
    assert.deepEqual(
      world.take("error").map(({ code, field }) => [code, field]),
      [["unreachable", undefined]],
    );
    world.handshakes = "accept";
    world.httpWorks = true;
    await world.clock.advance(300_000);
    assert.deepEqual([world.client.connection, world.take("error")], ["online", []]);
    world.client.close();
  }
});

test("an HTTP API that does not respond is unreachable too", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.handshakes = "refuse";
  world.respond = () => new Promise(() => {});
  world.client.open();
  await world.clock.advance(300_000);
  assert.deepEqual(
    world.take("error").map(({ code }) => code),
    ["unreachable"],
  );
});

test("an HTTP API that refuses the token, or is not the service's, is reported once", async () => {
  for (const [status, code, message] of [
    [401, "unauthorized", /^Title$/],
    [404, "not_found", /^Title: check that httpUrl belongs to this deployment$/],
  ]) {
    const world = new World({ httpUrl: "https://host" });
    world.handshakes = "refuse";
    world.respond = () => Response.json({ title: "Title" }, { status });
    world.client.open();
    await world.clock.advance(300_000);
    assert.ok(world.calls.length > 5);
    const [error, ...more] = world.take("error");
    assert.deepEqual([error.code, more], [code, []]);
    assert.match(error.message, message);
  }
});

test("a token() that fails while polling is reported once, and polling continues afterwards", async () => {
  let fails = false;
  const world = await polling({
    token: async () => {
      if (fails) throw new Error("signed out");
      return jwt({ sub: "me", exp: 1_764_000_000 }); // expires too soon to be kept
    },
  });
  fails = true;
  world.take("error");
  await world.clock.advance(240_000);
  assert.equal(world.client.connection, "stale");
  assert.deepEqual(
    world.take("error").map(({ code, field }) => [code, field]),
    [["unauthorized", "token"]],
  );
  fails = false;
  await world.clock.advance(60_000);
  assert.equal(world.client.connection, "polling");
});

test("while HTTP fails too the state is stale, and both transports are retried", async () => {
  const world = await polling();
  world.take("connection");
  world.httpWorks = false;
  await world.clock.advance(30_000);
  assert.deepEqual(states(world), ["stale"]);
  assert.deepEqual(world.statuses, { bob: "offline", carol: "offline" });
  await world.clock.advance(120_000);
  const [calls, handshakes] = [world.calls.length, world.sockets.length];
  assert.ok(calls > 5 && calls < 25, `${calls} calls`);
  assert.ok(handshakes > 2 && handshakes < 10, `${handshakes} handshakes`);
  world.httpWorks = true;
  await world.clock.advance(60_000);
  assert.deepEqual(states(world), ["polling"]);
});

test("polls without a response time out and back off", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.handshakes = "refuse";
  world.respond = () => new Promise(() => {});
  world.client.open();
  await world.clock.advance(60_000);
  assert.ok(world.calls.length >= 2 && world.calls.length <= 4, `${world.calls.length} calls`);
  assert.equal(world.client.connection, "connecting");
});

test("an unavailable service's retryAfter is in the error", async () => {
  const world = await polling();
  world.service.isAvailable = false;
  await world.clock.advance(30_000);
  const { code, retryAfter, message } = world.take("error").at(-1);
  assert.deepEqual([code, retryAfter, message], ["unavailable", 1_000, "Redis is away"]);
});

test("a chosen status is sent with every poll, in case the service lost the device", async () => {
  const world = await polling();
  await world.client.setStatus("busy");
  await world.clock.advance(30_000);
  const { status, n } = world.calls.at(-1).body;
  assert.deepEqual([status, n], ["busy", undefined]); // all tabs poll as one device: a number of one says nothing
});

test("a poll whose seq is refused is repeated without it, and the state stays until then", async () => {
  const world = await polling();
  await world.runAhead(() => {
    world.service.change("bob", "online");
    return world.clock.advance(30_000);
  });
  for (const type of ["connection", "error"]) world.take(type);
  const calls = world.calls.length;
  await world.clock.advance(30_000);
  assert.deepEqual(
    world.calls.slice(calls).map(({ body }) => body.seq > world.clock.now()),
    [true, false],
  );
  assert.equal(world.calls.at(-1).body.seq, undefined);
  assert.deepEqual([...world.take("error"), ...states(world)].length, 0);
  assert.equal(world.statuses.bob, "online");
});

test("a token refused by a poll is renewed", async () => {
  const world = await polling();
  const respond = world.respond.bind(world);
  world.respond = () => Response.json({ status: 401, title: "Unauthorized" }, { status: 401 });
  await world.clock.advance(30_000);
  assert.equal(world.take("error").at(-1).code, "unauthorized");
  world.respond = respond;
  await world.clock.advance(30_000);
  assert.equal(world.client.connection, "polling");
  assert.deepEqual(world.tokens.at(-1), { renew: true });
});

test("updates and queries work while polling", async () => {
  const world = await polling();
  await world.client.setCustomStatus({ text: "Lunch" });
  const { method, path, body } = world.calls.find((call) => call.path === "/v1/me/status");
  assert.deepEqual([method, path, body], ["PUT", "/v1/me/status", { deviceId: "d1", customStatus: { text: "Lunch" } }]);
  await world.clock.advance(0);
  assert.deepEqual(world.client.self.customStatus, { text: "Lunch" });
  assert.deepEqual(
    (await world.client.query(["eve", "bob"])).map(({ userId }) => userId),
    ["eve", "bob"],
  );
  await assert.rejects(world.client.setCustomStatus({ text: "x".repeat(141) }), {
    code: "invalid_message",
    field: "customStatus.text",
  });
});

test("a page that is left asks for the grace with a keepalive request, because it may be a reload", async () => {
  const world = await polling();
  world.page.fire("pagehide");
  await world.clock.advance(0);
  const { path, body, keepalive } = world.calls.find((call) => call.path === "/v1/me/leave");
  assert.deepEqual([path, body, keepalive], ["/v1/me/leave", { deviceId: "d1", grace: true }, true]);
  const other = await World.online({ httpUrl: "https://host" });
  other.page.fire("pagehide");
  assert.deepEqual(other.socket.messages("leave"), []);
});

test("a page that polled before a reload polls immediately and tries a WebSocket as well", async () => {
  const world = await polling();
  world.page.fire("pagehide");
  await world.clock.advance(0);
  const again = new World({ httpUrl: "https://host", deviceId: "d1", window: world.page });
  again.handshakes = "refuse";
  again.client.open();
  await again.clock.advance(0);
  assert.equal(again.client.connection, "polling");
  assert.deepEqual([again.sockets.length, again.calls[0].body.seq], [1, undefined]);
  again.handshakes = "accept";
  await again.clock.advance(1_000);
  assert.equal(again.client.connection, "online");
  const later = new World({ httpUrl: "https://host", window: world.page });
  later.handshakes = "refuse";
  later.client.open();
  await later.clock.advance(0);
  assert.deepEqual(later.calls, []); // WebSockets work here
});

test("a page restored from the back/forward cache polls immediately", async () => {
  const world = await polling();
  world.page.fire("pagehide");
  await world.clock.advance(0);
  world.page.fire("pageshow");
  await world.clock.advance(0);
  assert.deepEqual(
    world.calls.map(({ path }) => path.split("/").at(-1)),
    ["heartbeat", "leave", "heartbeat"],
  );
});

test("close() while polling asks for the grace that a closed socket has", async () => {
  const world = await polling();
  world.client.close();
  await world.clock.advance(0);
  assert.deepEqual(world.calls.at(-1).body, { deviceId: "d1", grace: true });
});

test("leave() while polling, or without a connection, is sent over HTTP", async () => {
  const world = await polling();
  world.client.leave();
  await world.clock.advance(0);
  assert.deepEqual(world.calls.at(-1).body, { deviceId: "d1" });
  assert.equal(world.client.connection, "closed");
  const other = await World.online({ httpUrl: "https://host" });
  other.socket.cut();
  other.client.leave();
  await other.clock.advance(0);
  assert.deepEqual([other.calls.at(-1).path, other.calls.at(-1).body], ["/v1/me/leave", { connectionId: "C1=" }]);
});
