/** What one connection sends and when: `sync`, heartbeats, activity; and how it detects gaps, silence and outages. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World } from "./world.js";

const MINUTE = 60_000;
const activity = (world) => world.socket.messages("heartbeat").map(({ active }) => active);
const states = (world) => world.take("connection").map(({ state }) => state);

test("the first message is a sync, and its response sets users, self and connection", async () => {
  const world = await World.online();
  assert.deepEqual(
    world.socket.sent.map(({ action, seq, replaces }) => [action, seq, replaces]),
    [["sync", undefined, undefined]],
  );
  assert.deepEqual(
    world.take("change").map(({ userId, previous }) => [userId, previous]),
    [
      ["bob", null],
      ["carol", null],
    ],
  );
  assert.equal(world.take("self")[0].connectionId, "C1=");
  assert.deepEqual(states(world), ["connecting", "online"]);
  assert.equal(world.client.stale, false);
});

test("a change event has the records before and after", async () => {
  const world = await World.online();
  world.take("change");
  world.broadcast(world.service.change("bob", "busy"));
  const [{ userId, user, previous }] = world.take("change");
  assert.deepEqual([userId, user.status, previous.status], ["bob", "busy", "offline"]);
  assert.equal(world.client.users.get("bob"), user);
});

test("heartbeats follow the service's interval with jitter and carry the latest seq", async () => {
  const world = await World.online({ random: () => 0.999 });
  const first = world.service.feed;
  await world.clock.advance(32_000);
  assert.equal(world.socket.messages("heartbeat").length, 0);
  await world.clock.advance(1_000);
  world.broadcast(world.service.change("bob", "online"));
  await world.clock.advance(33_000);
  assert.deepEqual(
    world.socket.messages("heartbeat").map(({ seq }) => seq),
    [first, world.service.feed],
  );
});

test("only sync and heartbeat carry seq", async () => {
  const world = await World.online();
  await world.client.setStatus("busy");
  await world.client.query(["bob"]);
  await world.clock.advance(30_000);
  world.client.leave();
  assert.deepEqual(
    world.socket.sent.map(({ action, seq }) => [action, seq !== undefined]),
    [
      ["sync", false], // there is none yet
      ["presence_update", false],
      ["get_presence", false],
      ["heartbeat", true],
      ["leave", false],
    ],
  );
});

test("a record that says the same again raises no change event", async () => {
  const world = await World.online();
  world.broadcast(world.service.change("bob", "online"));
  world.take("change");
  world.broadcast(world.service.change("bob", "online"));
  assert.deepEqual(world.take("change"), []);
  world.page.fire("online"); // it syncs
  assert.deepEqual([world.take("change"), world.client.users.size], [[], 2]);
});

test("a heartbeat that reveals a lost frame is answered with a snapshot", async () => {
  const world = await World.online();
  world.service.change("bob", "online"); // the frame is lost
  await world.clock.advance(30_000);
  assert.deepEqual(world.statuses, { bob: "online", carol: "offline" });
  assert.equal(world.socket.messages("sync").length, 1);
});

test("after the store lost its last changes, the next heartbeat brings what is left", async () => {
  const world = await World.online();
  world.broadcast(world.service.change("bob", "online"));
  const saved = world.service.save();
  for (const status of ["busy", "online", "offline"]) world.broadcast(world.service.change("bob", status));
  world.broadcast(world.service.change("dave", "online"));
  world.service.loseTail(saved);
  await world.clock.advance(30_000);
  assert.deepEqual(world.statuses, { bob: "online", carol: "offline" });
  world.broadcast(world.service.change("carol", "online"));
  assert.equal(world.statuses.carol, "online");
});

test("frames of another branch of numbers cause a sync without delay", async () => {
  const world = await World.online();
  await world.clock.advance(1_000);
  world.broadcast(world.service.change("bob", "online"));
  world.service.change("carol", "busy"); // lost
  const branched = { ...world.service.change("bob", "busy"), prev: world.service.feed - 500 };
  world.broadcast(branched);
  assert.equal(world.socket.messages("sync").length, 2);
  assert.deepEqual(world.statuses, { bob: "busy", carol: "busy" });
});

test("when the service refuses seq, the client syncs without it and keeps what it shows", async () => {
  const world = await World.online();
  await world.runAhead(() => world.broadcast(world.service.change("bob", "online")));
  for (const type of ["change", "connection"]) world.take(type);
  world.service.contacts.delete("carol");
  await world.clock.advance(30_000);
  const [, sync, ...more] = world.socket.messages("sync");
  assert.deepEqual([sync.seq, more], [undefined, []]);
  assert.deepEqual(
    world.take("change").map(({ userId, user }) => [userId, user]),
    [["carol", null]],
  );
  assert.deepEqual([...world.take("error"), ...states(world)], []);
  world.broadcast(world.service.change("bob", "busy"));
  assert.equal(world.statuses.bob, "busy");
});

test("a refused seq of the first sync delays nothing", async () => {
  const world = await World.online();
  await world.runAhead(() => world.broadcast(world.service.change("bob", "online")));
  world.socket.cut();
  await world.clock.advance(12_500);
  assert.deepEqual(
    world.socket.messages("sync").map(({ seq, replaces }) => [seq > 0, replaces]),
    [
      [true, "C1="],
      [false, "C1="],
    ],
  );
  assert.deepEqual([world.client.connection, world.take("error")], ["online", []]);
});

test("a heartbeat reports whether the device was used since the last one", async () => {
  const world = await World.online();
  await world.clock.advance(30_000);
  world.page.fire("keydown");
  await world.clock.advance(60_000);
  assert.deepEqual(activity(world), [true, true, false]);
});

test("only the first use after being away is reported immediately", async () => {
  const world = await World.online();
  await world.clock.advance(60_000);
  world.page.fire("pointermove");
  assert.equal(world.socket.messages("heartbeat").length, 2); // not away yet: the next heartbeat is soon enough
  await world.clock.advance(60_000);
  world.service.connections.get("C1=").status = "away";
  world.broadcast(world.service.selfFrame("C1="));
  world.page.fire("pointermove");
  world.page.fire("pointermove");
  assert.deepEqual(activity(world), [true, false, true, false, true]);
});

test("a hidden page is inactive, and becomes active when it is shown", async () => {
  const world = new World();
  world.page.document.visibilityState = "hidden";
  world.client.open();
  await world.clock.advance(0);
  assert.equal(world.socket.url.searchParams.get("active"), "false");
  await world.clock.advance(30_000);
  world.page.show("visible");
  await world.clock.advance(30_000);
  assert.deepEqual(activity(world), [false, true]);
});

test("a page that was just hidden is inactive in heartbeats and in a new connection", async () => {
  const world = await World.online();
  await world.clock.advance(30_000);
  world.page.show("hidden");
  await world.clock.advance(30_000);
  assert.deepEqual(activity(world), [true, false]);
  world.page.show("visible");
  world.page.show("hidden");
  world.socket.cut();
  await world.clock.advance(12_500);
  assert.equal(world.socket.url.searchParams.get("active"), "false");
});

test("a gap that lasts two seconds causes a sync; one that closes earlier does not", async () => {
  const world = await World.online();
  const [late, next] = [world.service.change("bob", "online"), world.service.change("bob", "busy")];
  world.broadcast(next);
  await world.clock.advance(1_999);
  world.broadcast(late);
  await world.clock.advance(1_000);
  assert.equal(world.socket.messages("sync").length, 1);
  world.service.change("carol", "online"); // lost
  world.broadcast(world.service.change("bob", "away"));
  await world.clock.advance(1_999);
  assert.equal(world.socket.messages("sync").length, 1);
  await world.clock.advance(1);
  assert.equal(world.socket.messages("sync").length, 2);
  assert.equal(world.socket.messages("sync")[1].seq, next.seq);
  assert.deepEqual(world.statuses, { bob: "away", carol: "online" });
});

test("a sync on its way neither delays the next one nor counts as lost once that has a response", async () => {
  const world = await World.online();
  world.route = (frame, deliver) => world.clock.setTimeout(() => deliver(frame), 2_000);
  world.service.change("carol", "online"); // lost
  world.broadcast(world.service.change("bob", "away"));
  await world.clock.advance(2_300);
  world.broadcast(world.service.change("bob", "busy"));
  world.route = (frame, deliver) => frame.id !== "s2" && world.clock.setTimeout(() => deliver(frame), 2_000);
  await world.clock.advance(20_000);
  assert.deepEqual(
    world.socket.messages("sync").map(({ id }) => id),
    ["s1", "s2", "s3"],
  );
  assert.deepEqual(world.statuses, { bob: "busy", carol: "online" });
  assert.equal(world.sockets.length, 1);
});

test("each gap has its own two seconds", async () => {
  const world = await World.online();
  const [first, second, third, fourth] = ["online", "busy", "away", "online"].map((to) =>
    world.service.change("bob", to),
  );
  world.broadcast(second);
  await world.clock.advance(1_000);
  world.broadcast(fourth);
  world.broadcast(first);
  await world.clock.advance(1_999);
  world.broadcast(third);
  await world.clock.advance(5_000);
  assert.equal(world.socket.messages("sync").length, 1);
});

test("it syncs after two minutes without a frame, and reconnects after five seconds without a response", async () => {
  const world = await World.online();
  await world.clock.advance(2 * MINUTE - 1);
  assert.equal(world.socket.messages("sync").length, 1);
  await world.clock.advance(1);
  assert.equal(world.socket.messages("sync").length, 2); // the service answered
  world.socket.isSilent = true;
  await world.clock.advance(2 * MINUTE + 4_999);
  assert.deepEqual(states(world), ["connecting", "online"]);
  await world.clock.advance(1);
  assert.deepEqual(states(world), ["connecting"]);
  assert.equal(world.sockets[0].closedWith, 1000);
  await world.clock.advance(12_500);
  assert.deepEqual(states(world), ["online"]);
  assert.equal(world.sockets.length, 2);
});

test("a page that is shown again, or changes its network, checks its connection", async () => {
  const world = await World.online();
  await world.clock.advance(10_000);
  world.page.show("visible");
  assert.equal(world.socket.messages("sync").length, 1); // a frame arrived a moment ago
  await world.clock.advance(30_000);
  world.page.show("visible");
  assert.equal(world.socket.messages("sync").length, 2);
  world.page.fire("online");
  assert.equal(world.socket.messages("sync").length, 3);
  world.socket.isSilent = true;
  await world.clock.advance(31_000);
  world.page.show("visible");
  await world.clock.advance(4_000);
  world.page.show("visible");
  await world.clock.advance(1_000);
  assert.equal(world.socket.messages("sync").length, 4);
  assert.equal(world.client.connection, "connecting");
});

test("while the service is unavailable the state stays, stale, and syncs back off", async () => {
  const world = await World.online();
  world.broadcast(world.service.change("bob", "online"));
  world.take("connection");
  world.service.isAvailable = false;
  await world.clock.advance(30_000);
  assert.deepEqual(states(world), ["stale"]);
  assert.equal(world.client.stale, true);
  assert.deepEqual(world.statuses, { bob: "online", carol: "offline" });
  const { code, retryAfter, message } = world.take("error")[0];
  assert.deepEqual([code, retryAfter, message], ["unavailable", 1_000, "Redis is away"]);
  await world.clock.advance(10 * MINUTE);
  assert.equal(world.sockets.length, 1);
  const asked = world.socket.messages("sync").length;
  assert.ok(asked > 20 && asked < 50, `${asked} in ten minutes`);
  world.service.isAvailable = true;
  await world.clock.advance(20_000);
  world.socket.deliver({ message: "Internal server error" });
  await world.clock.advance(500); // the backoff was reset
  assert.deepEqual(states(world), ["online", "stale", "online"]);
});

test("a frame without a type is an API Gateway error, and the state is stale", async () => {
  const world = await World.online();
  world.take("connection");
  world.socket.deliver({ message: "Internal server error", connectionId: "C1=", requestId: "r" });
  assert.deepEqual(states(world), ["stale"]);
  assert.equal(world.take("error")[0].message, "Internal server error");
  await world.clock.advance(1_000);
  assert.deepEqual(states(world), ["online"]);
});

test("a first connection during an outage stays open and becomes ready after it", async () => {
  const world = new World();
  world.service.isAvailable = false;
  world.client.open();
  await world.clock.advance(60_000);
  assert.deepEqual(states(world), ["connecting", "stale"]);
  world.service.isAvailable = true;
  await world.clock.advance(30_000);
  assert.deepEqual(states(world), ["online"]);
  assert.equal(world.sockets.length, 1);
});
