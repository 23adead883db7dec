/** When the application is asked for a token, and which errors it gets for a wrong one. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World, jwt } from "./world.js";

const MINUTE = 60_000;

test('with tokenSource "subprotocol" the token is sent as a subprotocol', async () => {
  const world = await World.online({ tokenSource: "subprotocol" });
  assert.equal(world.socket.url.searchParams.get("token"), null);
  assert.equal(world.socket.protocols[0], "presence.v2");
  assert.equal(world.socket.protocols[1].split(".").length, 3);
});

test("a token of another user is an error, and the connection does not change users", async () => {
  let sub = "alice";
  const world = await World.online({ token: async () => jwt({ sub }) });
  sub = "bob";
  world.client.reconnect();
  await world.clock.advance(0);
  assert.deepEqual([world.sockets.length, world.client.connection], [1, "online"]);
  const [{ code, field, message }] = world.take("error");
  assert.deepEqual([code, field], ["unauthorized", "token"]);
  assert.match(message, /belongs to bob, but this client to alice/);
});

test("a token is requested once and used until shortly before it expires", async () => {
  const world = await World.online();
  world.socket.cut();
  await world.clock.advance(12_500);
  assert.equal(world.tokens.length, 1);
  assert.equal(world.sockets[0].url.searchParams.get("token"), world.sockets[1].url.searchParams.get("token"));
});

test("after a failed handshake the token is renewed", async () => {
  const world = new World();
  world.handshakes = "refuse";
  world.client.open();
  await world.clock.advance(0);
  world.handshakes = "accept";
  await world.clock.advance(25_000);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
  assert.equal(world.client.connection, "online");
});

test("a token that expires within a minute is not used for a new connection", async () => {
  const world = new World({ token: async () => tokens.push(1) && jwt({ exp: (world.clock.now() + 70_000) / 1_000 }) });
  const tokens = [];
  world.client.open();
  await world.clock.advance(5_000);
  world.socket.cut();
  await world.clock.advance(12_500);
  assert.equal(world.client.connection, "online");
  assert.equal(tokens.length, 2);
});

test("a token() that fails is one error event, and is retried", async () => {
  const cause = new Error("signed out");
  let fails = true;
  let asked = 0;
  const world = new World({
    httpUrl: "https://host",
    token: async () => {
      asked += 1;
      if (fails) throw cause;
      return jwt({ sub: "me" });
    },
  });
  world.client.open();
  await world.clock.advance(5 * MINUTE);
  assert.ok(asked > 5, `${asked} times`);
  assert.deepEqual([world.sockets.length, world.calls.length], [0, 0]);
  const [error, ...more] = world.take("error");
  assert.deepEqual([error.code, error.field, error.cause, more], ["unauthorized", "token", cause, []]);
  assert.equal(error.message, "no token: token() failed: signed out");
  fails = false;
  await world.clock.advance(MINUTE);
  assert.equal(world.client.connection, "online"); // not polling: no WebSocket was refused
  fails = true;
  world.client.reconnect();
  await world.clock.advance(MINUTE);
  assert.equal(world.take("error").length, 1);
});

test("a token must be a JWT, and the error does not quote it", async () => {
  for (const [given, reason] of [
    [undefined, "returned undefined, not a string"],
    [null, "returned null, not a string"],
    [{ token: "a.b.c" }, "returned object, not a string"],
    ["", "returned a string that is not a JWT"],
    ["<!doctype html>", "returned a string that is not a JWT"],
    ["a.b.c\n", "returned a string that is not a JWT"],
  ]) {
    const world = new World({ token: () => given });
    world.client.open();
    await world.clock.advance(MINUTE);
    const [error, ...more] = world.take("error");
    assert.deepEqual([error.code, error.field, more], ["unauthorized", "token", []]);
    assert.equal(error.message, `no token: token() ${reason}`);
    assert.equal(world.sockets.length, 0);
  }
});

test("each token error is reported once", async () => {
  const troubles = ["signed out", "no network"];
  let asked = 0;
  const world = new World({ token: () => Promise.reject(new Error(troubles[asked++ % 2])) });
  world.client.open();
  await world.clock.advance(5 * MINUTE);
  assert.deepEqual(
    world.take("error").map(({ message }) => message.split(": ").at(-1)),
    troubles,
  );
});

test("token() may return a string instead of a promise", async () => {
  const world = await World.online({ token: () => jwt({ sub: "me" }) });
  assert.equal(world.client.connection, "online");
});

test("a token() that never resolves is an error", async () => {
  let asked = 0;
  const world = await World.online({ token: () => new Promise(() => (asked += 1)) });
  await world.clock.advance(14_999);
  assert.deepEqual(world.take("error"), []);
  await world.clock.advance(5 * MINUTE);
  assert.ok(asked > 2, `${asked} times`);
  assert.deepEqual(
    world.take("error").map(({ code, message }) => [code, message]),
    [["unauthorized", "no token: token() did not resolve in time"]],
  );
});
