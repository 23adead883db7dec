/** Which connections exist, on WebSockets alone: handshakes, losses, `reconnect()`, rotation, closing. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World } from "./world.js";

const MINUTE = 60_000;
const states = (world) => world.take("connection").map(({ state }) => state);

test("the handshake carries the token and describes the device", async () => {
  const world = await World.online({ deviceId: "d7", deviceType: "mobile", platform: "tests" });
  assert.equal(world.socket.url.origin + world.socket.url.pathname, "wss://host/live");
  const { token, ...query } = Object.fromEntries(world.socket.url.searchParams);
  assert.deepEqual(query, { v: "2", deviceId: "d7", deviceType: "mobile", platform: "tests", active: "true" });
  assert.equal(token.split(".").length, 3);
  assert.deepEqual(world.socket.protocols, []);
});

test("after a loss the state stays, stale, and the new connection resumes it and replaces the old one", async () => {
  const world = await World.online();
  world.broadcast(world.service.change("bob", "online"));
  world.take("change");
  world.socket.cut();
  assert.equal(world.client.connection, "connecting");
  assert.equal(world.client.stale, true);
  assert.deepEqual(world.statuses, { bob: "online", carol: "offline" });
  await world.clock.advance(12_500);
  const [sync] = world.socket.messages("sync");
  assert.deepEqual([sync.seq, sync.replaces], [world.service.feed, "C1="]);
  assert.deepEqual(world.take("change"), []);
  world.page.fire("online");
  assert.deepEqual(world.socket.messages("sync")[1].replaces, undefined); // the old connection is gone
  assert.equal(world.client.stale, false);
});

test("changes missed between two connections arrive as ordinary change events", async () => {
  const world = await World.online();
  world.take("change");
  world.socket.cut();
  world.service.change("bob", "online");
  world.service.remove("carol");
  await world.clock.advance(12_500);
  assert.deepEqual(
    world.take("change").map(({ userId, user }) => [userId, user?.status]),
    [
      ["carol", undefined],
      ["bob", "online"],
    ],
  );
});

test("a frame on a new connection that overtakes its snapshot drops nothing of it", async () => {
  const world = await World.online();
  world.socket.cut();
  world.service.change("carol", "busy");
  world.take("self");
  const delay = ({ type }) => (type === "presence_snapshot" ? 100 : 0);
  world.route = (frame, deliver) => world.clock.setTimeout(() => deliver(frame), delay(frame));
  await world.clock.advance(12_500);
  world.broadcast(world.service.change("bob", "online"));
  await world.clock.advance(99);
  assert.equal(world.client.connection, "connecting");
  await world.clock.advance(1);
  assert.equal(world.client.connection, "online");
  assert.deepEqual(world.statuses, { bob: "online", carol: "busy" });
  assert.deepEqual(
    world.take("self").map(({ connectionId }) => connectionId),
    ["C2="],
  );
});

test("reconnect() moves to a new connection with a new token, and contacts see nothing", async () => {
  const world = await World.online({ httpUrl: "https://host" });
  for (const type of ["change", "connection"]) world.take(type);
  world.client.reconnect();
  assert.equal(world.client.stale, false);
  await world.clock.advance(0);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
  assert.equal(world.socket.messages("sync")[0].replaces, "C1=");
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
  assert.deepEqual([...world.take("change"), ...world.take("connection"), ...world.calls], []);
  await world.clock.advance(6_600_000 * 0.95);
  assert.equal(world.sockets.length, 3); // rotation continues
});

test("a failed reconnect() keeps the old connection and is retried", async () => {
  const world = await World.online();
  world.take("connection");
  world.handshakes = "refuse";
  world.client.reconnect();
  await world.clock.advance(3_500);
  assert.deepEqual([world.sockets.length, world.sockets[0].readyState], [4, 1]);
  world.handshakes = "accept";
  await world.clock.advance(30_000);
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
  assert.deepEqual([...world.take("connection"), ...world.take("error")], []);
});

test("reconnect() during a handshake starts another one with the new token", async () => {
  const world = new World();
  world.handshakes = "hang";
  world.client.open();
  await world.clock.advance(0);
  world.handshakes = "accept";
  world.client.reconnect();
  await world.clock.advance(0);
  assert.equal(world.sockets[0].closedWith, 1000);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
  assert.equal(world.client.connection, "online");
});

test("reconnect() while a token is pending asks for a newer one", async () => {
  const given = [];
  const token = ({ renew }) => new Promise((resolve) => given.push([renew, resolve]));
  const world = new World({ token });
  world.client.open();
  world.client.reconnect();
  given[0][1]("the.old.one");
  given[1][1]("the.new.one");
  await world.clock.advance(0);
  assert.deepEqual(
    world.sockets.map(({ url }) => url.searchParams.get("token")),
    ["the.new.one"],
  );
});

test("reconnect() opens a closed client with a new token", async () => {
  const world = await World.online();
  world.client.close();
  world.client.reconnect();
  await world.clock.advance(0);
  assert.equal(world.client.connection, "online");
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
});

test("a handshake without a response times out", async () => {
  const world = new World();
  world.handshakes = "hang"; // no response
  world.client.open();
  await world.clock.advance(15_000);
  assert.equal(world.socket.closedWith, 1000);
  world.handshakes = "accept";
  await world.clock.advance(25_000);
  assert.equal(world.client.connection, "online");
});

test("it moves to a new connection before rotateAt, without a gap and without events", async () => {
  const world = await World.online();
  for (const type of ["change", "connection"]) world.take(type);
  world.service.connections.get("C1=").status = "busy";
  await world.clock.advance(6_600_000 * 0.95 - 1);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(1);
  const [old, next] = world.sockets;
  assert.deepEqual(
    next.messages("sync").map(({ seq, replaces }) => [seq, replaces]),
    [[world.service.feed, "C1="]],
  );
  assert.equal(old.closedWith, 1000);
  assert.equal(next.readyState, 1);
  assert.deepEqual([...world.service.connections.keys()], ["C2="]);
  assert.deepEqual([...world.take("change"), ...world.take("connection")], []);
  assert.deepEqual(world.tokens, [{ renew: false }, { renew: true }]);
});

test("rotation does not depend on this machine's clock being right", async () => {
  const world = new World();
  world.service.now = () => world.clock.now() + 3_600_000;
  world.client.open();
  await world.clock.advance(6_600_000 * 0.95 - 1);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(1);
  assert.equal(world.sockets.length, 2);
});

test("the old connection serves until the new one is ready, and while rotation fails", async () => {
  const world = await World.online();
  world.take("connection");
  world.handshakes = "hang";
  await world.clock.advance(6_600_000 * 0.95);
  assert.equal(world.sockets.length, 2);
  world.sockets[0].deliver(world.service.change("bob", "online"));
  assert.equal(world.statuses.bob, "online");
  await world.clock.advance(15_000);
  assert.equal(world.sockets[1].closedWith, 1000);
  assert.equal(world.sockets[0].readyState, 1);
  world.handshakes = "accept";
  await world.clock.advance(30_000);
  assert.equal(world.sockets[0].closedWith, 1000);
  assert.equal(world.sockets[2].messages("sync")[0].replaces, "C1=");
  assert.deepEqual(world.take("connection"), []);
});

test("a successor that does not respond is lost like any connection", async () => {
  const world = await World.online();
  await world.clock.advance(6_600_000 * 0.95 - 1);
  world.route = () => {};
  await world.clock.advance(5_000);
  assert.deepEqual([world.sockets.length, world.client.connection], [2, "online"]);
  await world.clock.advance(1);
  assert.equal(world.client.connection, "connecting");
});

test("a pending update of the old connection is sent again on the new one", async () => {
  const world = await World.online();
  await world.clock.advance(6_600_000 * 0.95 - 1_000);
  world.socket.isSilent = true;
  world.client.setClaim("busy");
  await world.clock.advance(1_000);
  assert.equal(world.socket.messages("presence_update").length, 1);
  assert.equal(world.client.self.claim.status, "busy");
});

test("the next connection is rotated too", async () => {
  const world = await World.online();
  await world.clock.advance(3 * 6_600_000 * 0.95);
  assert.equal(world.sockets.length, 4);
  assert.deepEqual(states(world), ["connecting", "online"]);
});

test("the old connection may be lost while its successor opens", async () => {
  const world = await World.online();
  world.route = (frame, deliver) => world.clock.setTimeout(() => deliver(frame), 1_000);
  await world.clock.advance(6_600_000 * 0.95 + 500);
  world.sockets[0].cut();
  await world.clock.advance(2_000);
  assert.equal(world.client.connection, "online");
  assert.equal(world.sockets.length, 2);
});

test("close() leaves no timers or sockets, and open() resumes", async () => {
  const world = await World.online();
  world.client.close();
  assert.equal(world.socket.closedWith, 1000);
  assert.deepEqual(states(world), ["connecting", "online", "closed"]);
  assert.equal(world.clock.pending, 0);
  assert.deepEqual(world.statuses, { bob: "offline", carol: "offline" });
  world.page.fire("online");
  world.socket.deliver(world.service.change("bob", "online"));
  await world.clock.advance(MINUTE);
  assert.equal(world.sockets.length, 1);
  world.client.open();
  await world.clock.advance(0);
  assert.deepEqual(world.statuses, { bob: "online", carol: "offline" });
});

test("close() during the first handshake leaves no timers or sockets", async () => {
  const world = new World();
  world.client.open();
  world.client.close();
  await world.clock.advance(MINUTE);
  assert.equal(world.sockets.length, 0);
  assert.equal(world.clock.pending, 0);
});

test("leave() sends leave before it closes", async () => {
  const world = await World.online();
  world.client.leave();
  assert.equal(world.socket.messages("leave").length, 1);
  assert.equal(world.client.connection, "closed");
});

test("all tabs of a browser share a device id", async () => {
  const one = await World.online();
  const other = await World.online({ window: one.page });
  const stranger = await World.online();
  const device = (world) => world.socket.url.searchParams.get("deviceId");
  assert.match(device(one), /^[0-9a-f]{32}$/);
  assert.equal(device(one), device(other));
  assert.notEqual(device(one), device(stranger));
});

test("without storage a page has a device id of its own", async () => {
  const world = new World();
  Object.defineProperty(world.page, "localStorage", {
    get() {
      throw new Error("denied");
    },
  });
  const other = await World.online({ window: world.page });
  assert.match(other.socket.url.searchParams.get("deviceId"), /^[0-9a-f]{32}$/);
});
