/** Where no WebSocket is to be had: the HTTP API carries the same messages, until there is one again. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World } from "./world.js";

const states = (world) => world.take("connection").map(({ state }) => state);

async function polling(options = {}) {
  const world = new World({ httpUrl: "https://host", deviceId: "d1", platform: "tests", ...options });
  world.letsIn = false;
  world.client.open();
  await world.clock.pass(0);
  return world;
}

test("a handshake that fails makes it poll at once, with a new token", async () => {
  const world = await polling();
  assert.deepEqual(states(world), ["connecting", "polling"]);
  assert.deepEqual(world.statuses, { bob: "offline", carol: "offline" });
  const [{ method, path, body, authorization, keepalive }] = world.calls;
  assert.deepEqual([method, path, keepalive], ["POST", "/v1/me/heartbeat", false]);
  assert.deepEqual(body, { deviceId: "d1", deviceType: "web", platform: "tests", active: true });
  assert.match(authorization, /^Bearer [^.]+\.[^.]+\.signature$/);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
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
  for (let seconds = 0; world.sockets.length < 2; seconds += 10) await world.clock.pass(10_000);
  assert.deepEqual(states(world), []);
  await world.clock.pass(30_000);
  assert.equal(world.tokens.length, 2); // the token serves here: it was not what failed
  world.letsIn = true;
  for (let seconds = 0; world.sockets.length < 3; seconds += 10) await world.clock.pass(10_000);
  assert.deepEqual(states(world), ["online"]);
  const [sync] = world.socket.said("sync");
  assert.deepEqual([sync.replaces, sync.seq], ["Pd1", world.service.feed]);
  const calls = world.calls.length;
  await world.clock.pass(120_000);
  assert.equal(world.calls.length, calls);
});

test("a connection that never was of use counts as none, and one that was is waited for", async () => {
  const world = new World({ httpUrl: "https://host" });
  world.service.answer = () => []; // a proxy lets handshakes through, and nothing after them
  world.respond = () => new Response(null, { status: 404 });
  world.client.open();
  await world.clock.pass(5_000);
  assert.equal(world.calls.length, 1);
  const other = await World.online({ httpUrl: "https://host" });
  other.socket.cut();
  await other.clock.pass(12_000);
  assert.deepEqual(other.calls, []);
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
  const { code, retryAfter, message } = world.take("error")[0];
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
  assert.equal(world.take("error")[0].code, "unauthorized");
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

test("a page that goes says so, by a call that outlives it; a socket needs nothing", async () => {
  const world = await polling();
  world.page.happens("pagehide");
  await world.clock.pass(0);
  const { path, body, keepalive } = world.calls.find((call) => call.path === "/v1/me/leave");
  assert.deepEqual([path, body, keepalive], ["/v1/me/leave", { deviceId: "d1" }, true]);
  const other = await World.online({ httpUrl: "https://host" });
  other.page.happens("pagehide");
  assert.deepEqual(other.socket.said("leave"), []);
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
