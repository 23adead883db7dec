/** Where no WebSocket is to be had: the HTTP API carries the same messages, until there is one again. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World, jwt } from "./world.js";

const REFUSED = 3_000; // ms: three handshakes with waits of 1 and 2 s between them
const states = (world) => world.take("connection").map(({ state }) => state);

async function polling(options = {}) {
  const world = new World({ httpUrl: "https://host", deviceId: "d1", platform: "tests", ...options });
  world.letsIn = false;
  world.client.open();
  await world.clock.pass(REFUSED);
  return world;
}

test("three handshakes that are refused make it poll, and no fewer", async () => {
  const world = new World({ httpUrl: "https://host", deviceId: "d1", platform: "tests" });
  world.letsIn = false;
  world.client.open();
  await world.clock.pass(REFUSED - 1);
  assert.deepEqual([world.sockets.length, world.calls.length], [2, 0]);
  await world.clock.pass(1);
  assert.deepEqual(states(world), ["connecting", "polling"]);
  assert.deepEqual(world.statuses, { bob: "offline", carol: "offline" });
  const [{ method, path, body, authorization, keepalive }] = world.calls;
  assert.deepEqual([method, path, keepalive], ["POST", "/v1/me/heartbeat", false]);
  assert.deepEqual(body, { deviceId: "d1", deviceType: "web", platform: "tests", active: true });
  assert.match(authorization, /^Bearer [^.]+\.[^.]+\.signature$/);
  assert.deepEqual(world.tokens[0], { renew: false });
  assert.ok(world.tokens.slice(1).every(({ renew }) => renew));
});

test("without an HTTP side it only tries again", async () => {
  const world = await polling({ httpUrl: undefined });
  assert.deepEqual(states(world), ["connecting"]);
  assert.deepEqual(world.calls, []);
});

test("it polls as often as the service wants heartbeats, and tells the same changes", async () => {
  const world = await polling();
  world.take("change");
  world.service.change("bob", "online");
  world.page.happens("keydown");
  await world.clock.pass(30_000);
  assert.deepEqual(
    world.take("change").map(({ userId, user }) => [userId, user.status]),
    [["bob", "online"]],
  );
  assert.equal(world.calls.length, 2);
  const { body } = world.calls[1];
  assert.deepEqual([body.active, body.seq], [true, world.service.feed - 1]);
  await world.clock.pass(60_000);
  assert.deepEqual(
    world.calls.map((call) => call.path),
    Array(4).fill("/v1/me/heartbeat"),
  );
  assert.equal(world.calls[3].body.seq, world.service.feed);
});

test("a WebSocket is tried in the background, and takes over without a moment between", async () => {
  const world = await polling();
  world.take("connection");
  await world.clock.pass(5_000);
  const [tokens, sockets] = [world.tokens.length, world.sockets.length];
  await world.clock.pass(70_000);
  assert.equal(world.sockets.length, sockets);
  await world.clock.pass(30_000);
  assert.equal(world.sockets.length, sockets + 1);
  assert.deepEqual(states(world), []);
  assert.equal(world.tokens.length, tokens); // the token serves here: it was not what failed
  world.letsIn = true;
  await world.clock.pass(60_000);
  assert.equal(world.sockets.length, sockets + 2);
  assert.deepEqual(states(world), ["online"]);
  const [sync] = world.socket.said("sync");
  assert.deepEqual([sync.replaces, sync.seq], ["Pd1", world.service.feed]);
  const calls = world.calls.length;
  await world.clock.pass(120_000);
  assert.equal(world.calls.length, calls);
});

test("a connection that is never of use counts as none", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.service.answer = () => []; // a proxy lets handshakes through, and nothing after them
  world.respond = () => new Response(null, { status: 404 });
  world.client.open();
  await world.clock.pass(5_000);
  assert.equal(world.calls.length, 1);
});

test("a handshake that nobody answers is not a token that is refused: it polls at once", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.letsIn = null;
  world.client.open();
  await world.clock.pass(14_999);
  assert.equal(world.calls.length, 0);
  await world.clock.pass(1);
  assert.deepEqual(states(world), ["connecting", "polling"]);
});

test("one handshake that was refused for its token is made again within two seconds with a new one", async () => {
  const world = new World({ httpUrl: "https://host", random: () => 0.999 });
  world.letsIn = false;
  world.client.open();
  await world.clock.pass(0);
  world.letsIn = true;
  await world.clock.pass(2_000);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
  assert.deepEqual([states(world), world.calls], [["connecting", "online"], []]);
});

test("the same after a loss, though the first attempt may come late and the back-off is long", async () => {
  const world = await World.online({ reconnectWithin: 4_000 });
  world.socket.cut();
  world.letsIn = false;
  await world.clock.pass(2_000);
  assert.equal(world.sockets.length, 2);
  world.letsIn = true;
  await world.clock.pass(1_000);
  assert.equal(world.client.connection, "online");
  assert.deepEqual(world.tokens.at(-1), { renew: true });
});

test("a browser that says that it is online has a WebSocket tried at once, whatever polling does", async () => {
  const world = await polling();
  world.answersHttp = false;
  await world.clock.pass(60_000);
  const [before, calls] = [world.sockets.length, world.calls.length];
  world.letsIn = world.answersHttp = true;
  world.page.happens("online");
  await world.clock.pass(499);
  assert.deepEqual([world.calls.length, world.client.connection], [calls + 1, "polling"]); // which is not enough
  await world.clock.pass(501);
  assert.equal(world.sockets.length, before + 1);
  assert.equal(world.client.connection, "online");
});

test("a handshake that hangs on the network that is gone does not hold that up", async () => {
  const world = await polling();
  world.letsIn = null;
  for (let before = world.sockets.length; world.sockets.length === before; ) await world.clock.pass(1_000);
  const hanging = world.socket;
  world.letsIn = true;
  world.page.happens("online");
  await world.clock.pass(1_000);
  assert.equal(hanging.closedWith, 1000);
  assert.equal(world.client.connection, "online");
});

test("a lost connection that a WebSocket will be late for is held over HTTP within the grace", async () => {
  const world = await World.online({ httpUrl: "https://host", deviceId: "d1" });
  for (const type of ["change", "connection"]) world.take(type);
  world.service.keepLost = true;
  world.socket.cut();
  world.service.change("bob", "online");
  await world.clock.pass(3_999);
  assert.deepEqual([states(world), world.calls.length], [["connecting"], 0]);
  await world.clock.pass(1);
  assert.deepEqual(states(world), ["polling"]);
  assert.equal(world.statuses.bob, "online");
  await world.clock.pass(8_500); // the WebSocket comes when it would have come without that
  assert.deepEqual(states(world), ["online"]);
  assert.deepEqual(
    world.socket.said("sync").map(({ replaces }) => replaces),
    ["C1=", "Pd1"],
  );
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
});

test("one that comes back soon is not, and neither is a closed one", async () => {
  const world = await World.online({ httpUrl: "https://host", reconnectWithin: 8_000 });
  world.socket.cut();
  await world.clock.pass(4_000);
  assert.deepEqual([world.client.connection, world.calls], ["online", []]);
  const other = await World.online({ httpUrl: "https://host" });
  other.socket.cut();
  other.client.close();
  await other.clock.pass(60_000);
  assert.deepEqual(other.calls, []);
});

test("a poll that a WebSocket has overtaken leaves no device behind", async () => {
  const world = await World.online({ httpUrl: "https://host", deviceId: "d1" });
  const respond = world.respond.bind(world);
  world.respond = (call) => new Promise((resolve) => world.clock.setTimeout(() => resolve(respond(call)), 4_900));
  world.socket.cut();
  await world.clock.pass(4_000);
  world.page.happens("pointermove"); // somebody is there: a WebSocket within a second
  await world.clock.pass(2_000);
  assert.equal(world.client.connection, "online");
  await world.clock.pass(10_000);
  assert.deepEqual(
    world.calls.map(({ path, body }) => [path, body.grace]),
    [
      ["/v1/me/heartbeat", undefined],
      ["/v1/me/leave", true],
    ],
  );
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
});

test("where WebSockets are refused though HTTP takes the token, it says once what may be wrong", async () => {
  const world = await polling({ tokenSource: "subprotocol" });
  await world.clock.pass(300_000);
  const [{ code, field, message }, ...more] = world.take("error");
  assert.deepEqual([code, field, more], ["no_websocket", "tokenSource", []]);
  assert.match(message, /tokenSource \("subprotocol"\)/);
});

test("without an HTTP side that vouches for the token, the token may be what is wrong as well", async () => {
  const alone = await polling({ httpUrl: undefined });
  await alone.clock.pass(300_000);
  const [{ code, field, message }, ...more] = alone.take("error");
  assert.deepEqual([code, field, more], ["no_websocket", undefined, []]);
  assert.match(message, /is the token good, are url and tokenSource \("query"\) those of the deployment/);
});

test("where neither side is to be had it says so once, goes on trying, and says so anew the next time", async () => {
  const world = new World({ httpUrl: "https://host" });
  for (let time = 0; time < 2; time += 1) {
    world.letsIn = world.answersHttp = false;
    world.client.open();
    await world.clock.pass(300_000);
    assert.deepEqual(
      world.take("error").map(({ code, field }) => [code, field]),
      [["unreachable", undefined]],
    );
    world.letsIn = world.answersHttp = true;
    await world.clock.pass(300_000);
    assert.deepEqual([world.client.connection, world.take("error")], ["online", []]);
    world.client.close();
  }
});

test("an HTTP side whose calls hang is not to be had either", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.letsIn = false;
  world.respond = () => new Promise(() => {});
  world.client.open();
  await world.clock.pass(300_000);
  assert.deepEqual(
    world.take("error").map(({ code }) => code),
    ["unreachable"],
  );
});

test("an HTTP side that refuses the token, or is another one, is told once", async () => {
  for (const [status, code, words] of [
    [401, "unauthorized", /^Words$/],
    [404, "not_found", /^Words: is httpUrl that of the deployment\?$/],
  ]) {
    const world = new World({ httpUrl: "https://host" });
    world.letsIn = false;
    world.respond = () => Response.json({ title: "Words" }, { status });
    world.client.open();
    await world.clock.pass(300_000);
    assert.ok(world.calls.length > 5);
    const [error, ...more] = world.take("error");
    assert.deepEqual([error.code, more], [code, []]);
    assert.match(error.message, words);
  }
});

test("an application that has no token while it polls is told once, and polls on when it has one", async () => {
  let fails = false;
  const world = await polling({
    token: async () => {
      if (fails) throw new Error("signed out");
      return jwt({ sub: "me", exp: 1_764_000_000 }); // so near its end that it is not kept
    },
  });
  fails = true;
  world.take("error");
  await world.clock.pass(240_000);
  assert.equal(world.client.connection, "stale");
  assert.deepEqual(
    world.take("error").map(({ code, field }) => [code, field]),
    [["unauthorized", "token"]],
  );
  fails = false;
  await world.clock.pass(60_000);
  assert.equal(world.client.connection, "polling");
});

test("while HTTP fails too the picture is stale, and both ways are tried", async () => {
  const world = await polling();
  world.take("connection");
  world.answersHttp = false;
  await world.clock.pass(30_000);
  assert.deepEqual(states(world), ["stale"]);
  assert.deepEqual(world.statuses, { bob: "offline", carol: "offline" });
  await world.clock.pass(120_000);
  const [calls, handshakes] = [world.calls.length, world.sockets.length];
  assert.ok(calls > 5 && calls < 25, `${calls} calls`);
  assert.ok(handshakes > 2 && handshakes < 10, `${handshakes} handshakes`);
  world.answersHttp = true;
  await world.clock.pass(60_000);
  assert.deepEqual(states(world), ["polling"]);
});

test("calls that hang are given up, and are not made again at once", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.letsIn = false;
  world.respond = () => new Promise(() => {});
  world.client.open();
  await world.clock.pass(60_000);
  assert.ok(world.calls.length >= 2 && world.calls.length <= 4, `${world.calls.length} calls`);
  assert.equal(world.client.connection, "connecting");
});

test("an unavailable service says when to ask again", async () => {
  const world = await polling();
  world.service.isAvailable = false;
  await world.clock.pass(30_000);
  const { code, retryAfter, message } = world.take("error").at(-1);
  assert.deepEqual([code, retryAfter, message], ["unavailable", 1_000, "Redis is away"]);
});

test("a chosen status goes with every poll, for a service that does not know the device", async () => {
  const world = await polling();
  await world.client.setStatus("busy");
  await world.clock.pass(30_000);
  assert.equal(world.calls.at(-1).body.status, "busy");
});

test("a refused token is renewed", async () => {
  const world = await polling();
  const respond = world.respond.bind(world);
  world.respond = () => Response.json({ status: 401, title: "Unauthorized" }, { status: 401 });
  await world.clock.pass(30_000);
  assert.equal(world.take("error").at(-1).code, "unauthorized");
  world.respond = respond;
  await world.clock.pass(30_000);
  assert.equal(world.client.connection, "polling");
  assert.deepEqual(world.tokens.at(-1), { renew: true });
});

test("wishes and queries work as ever", async () => {
  const world = await polling();
  await world.client.setCustomStatus({ text: "Lunch" });
  const { method, path, body } = world.calls.find((call) => call.path === "/v1/me/status");
  const { n, seq, ...said } = body;
  assert.deepEqual([method, path, said], ["PUT", "/v1/me/status", { deviceId: "d1", customStatus: { text: "Lunch" } }]);
  await world.clock.pass(0);
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

test("a page that goes asks for the grace, by a call that outlives it: it may be a reload", async () => {
  const world = await polling();
  world.page.happens("pagehide");
  await world.clock.pass(0);
  const { path, body, keepalive } = world.calls.find((call) => call.path === "/v1/me/leave");
  assert.deepEqual([path, body, keepalive], ["/v1/me/leave", { deviceId: "d1", grace: true }, true]);
  const other = await World.online({ httpUrl: "https://host" });
  other.page.happens("pagehide");
  assert.deepEqual(other.socket.said("leave"), []);
});

test("a page that had to poll does so at once when it is loaded anew, and tries a WebSocket beside", async () => {
  const world = await polling();
  world.page.happens("pagehide");
  await world.clock.pass(0);
  const again = new World({ httpUrl: "https://host", deviceId: "d1", window: world.page });
  again.letsIn = false;
  again.client.open();
  await again.clock.pass(0);
  assert.equal(again.client.connection, "polling");
  assert.deepEqual([again.sockets.length, again.calls[0].body.seq], [1, undefined]);
  again.letsIn = true;
  await again.clock.pass(1_000);
  assert.equal(again.client.connection, "online");
  const later = new World({ httpUrl: "https://host", window: world.page });
  later.letsIn = false;
  later.client.open();
  await later.clock.pass(0);
  assert.deepEqual(later.calls, []); // WebSockets work here
});

test("a page that comes back from the browser's memory polls at once", async () => {
  const world = await polling();
  world.page.happens("pagehide");
  await world.clock.pass(0);
  world.page.happens("pageshow");
  await world.clock.pass(0);
  assert.deepEqual(
    world.calls.map(({ path }) => path.split("/").at(-1)),
    ["heartbeat", "leave", "heartbeat"],
  );
});

test("closing while polling has the grace that a closed socket has", async () => {
  const world = await polling();
  world.client.close();
  await world.clock.pass(0);
  assert.deepEqual(world.calls.at(-1).body, { deviceId: "d1", grace: true });
});

test("a sign-out while polling, or between two connections, goes over HTTP", async () => {
  const world = await polling();
  world.client.leave();
  await world.clock.pass(0);
  assert.deepEqual(world.calls.at(-1).body, { deviceId: "d1" });
  assert.equal(world.client.connection, "closed");
  const other = await World.online({ httpUrl: "https://host" });
  other.socket.cut();
  other.client.leave();
  await other.clock.pass(0);
  assert.deepEqual([other.calls.at(-1).path, other.calls.at(-1).body], ["/v1/me/leave", { connectionId: "C1=" }]);
});
