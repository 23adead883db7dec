/** Updates, which are sent until they are applied, and queries, which are sent once. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { PresenceError } from "../../client/presence.js";
import { World } from "./world.js";

/** The state of a promise so far: `{state, value, error}`. */
function track(promise) {
  const outcome = { state: "pending" };
  promise.then(
    (value) => Object.assign(outcome, { state: "resolved", value }),
    (error) => Object.assign(outcome, { state: "rejected", error }),
  );
  return outcome;
}

const updates = (socket) => socket.messages("presence_update").map(({ id, action, ...rest }) => rest);

test("a status is sent, and resolves when self shows it", async () => {
  const world = await World.online();
  await world.client.setStatus("busy");
  const [{ n, ...fields }] = updates(world.socket);
  assert.deepEqual(fields, { status: "busy" });
  assert.ok(n >= 1);
  assert.equal(world.client.self.status, "busy");
});

test("a claim and a custom status are sent as in the protocol", async () => {
  const world = await World.online();
  await world.client.setClaim("busy", 1_764_003_600_000);
  await world.client.setClaim(null);
  await world.client.setCustomStatus({ text: "Lunch", emoji: "🍜" });
  await world.client.setCustomStatus(null);
  assert.deepEqual(
    updates(world.socket).map(({ n, ...fields }) => fields),
    [
      { status: "busy", scope: "user", until: 1_764_003_600_000 },
      { status: "online", scope: "user" },
      { customStatus: { text: "Lunch", emoji: "🍜" } },
      { customStatus: null },
    ],
  );
  const numbers = updates(world.socket).map(({ n }) => n);
  assert.deepEqual(
    numbers,
    [...numbers].sort((a, b) => a - b),
  );
});

test("an update whose presence_self is lost resolves after five seconds without an error", async () => {
  const world = await World.online();
  world.route = () => {};
  const update = track(world.client.setStatus("online"));
  await world.clock.advance(4_999);
  assert.equal(update.state, "pending");
  await world.clock.advance(1);
  assert.equal(update.state, "resolved");
  assert.equal(updates(world.socket).length, 1);
});

test("an update resolves when its number arrives, even in a frame that is not in its turn", async () => {
  const world = await World.online();
  const missing = world.service.change("bob", "online");
  const update = track(world.client.setStatus("busy"));
  await world.clock.advance(0);
  assert.deepEqual([update.state, world.client.self.status], ["resolved", "online"]);
  world.broadcast(missing);
  assert.equal(world.client.self.status, "busy");
});

test("without a connection only the newest update of a field waits for one", async () => {
  const world = new World();
  const first = track(world.client.setStatus("away"));
  const second = track(world.client.setStatus("busy"));
  const custom = track(world.client.setCustomStatus({ text: "Lunch" }));
  world.client.open();
  assert.equal(second.state, "pending");
  await world.clock.advance(0);
  assert.deepEqual([first.state, custom.state], ["resolved", "resolved"]);
  assert.deepEqual(
    updates(world.socket).map(({ n, ...fields }) => fields),
    [{ status: "busy" }, { customStatus: { text: "Lunch" } }],
  );
  assert.equal(second.state, "resolved");
});

test("an update that may be lost is sent again on the next connection with a higher n", async () => {
  const world = await World.online();
  world.socket.isSilent = true; // the update is lost
  const update = track(world.client.setCustomStatus({ text: "Lunch" }));
  await world.clock.advance(1_000);
  world.socket.cut();
  await world.clock.advance(12_500);
  const [[lost], [resent]] = world.sockets.map(updates);
  assert.deepEqual(resent.customStatus, { text: "Lunch" });
  assert.ok(resent.n > lost.n);
  assert.equal(update.state, "resolved");
  world.socket.cut();
  await world.clock.advance(25_000);
  assert.deepEqual(updates(world.socket), []); // an applied update is not sent again
});

test("an update during an outage is sent again after it", async () => {
  const world = await World.online();
  world.service.isAvailable = false;
  const update = track(world.client.setClaim("busy"));
  assert.equal(world.client.connection, "stale");
  await world.clock.advance(10_000);
  assert.equal(update.state, "pending");
  world.service.isAvailable = true;
  await world.clock.advance(30_000);
  assert.equal(update.state, "resolved");
  assert.equal(world.client.self.claim.status, "busy");
  assert.equal(updates(world.socket).length, 2);
});

test("a rejected update rejects its promise and emits an error event", async () => {
  const world = await World.online();
  const update = world.client.setCustomStatus({ text: "x".repeat(141) });
  await assert.rejects(update, (error) => {
    assert.ok(error instanceof PresenceError);
    assert.deepEqual([error.code, error.field, error.message], ["invalid_message", "customStatus.text", "too long"]);
    return true;
  });
  assert.equal(world.take("error").length, 1);
  await world.clock.advance(60_000);
  assert.equal(updates(world.socket).length, 1);
  assert.equal(world.client.connection, "online");
});

test("a rejected promise that is ignored is not an unhandled rejection", async () => {
  const world = await World.online();
  world.client.setCustomStatus({ text: "x".repeat(141) });
  await world.clock.advance(0);
  assert.equal(world.take("error")[0].code, "invalid_message");
});

test("a rate-limited update is sent again after retryAfter", async () => {
  const world = await World.online();
  const answer = world.service.handle.bind(world.service);
  world.service.handle = (connection, message) => {
    world.service.handle = answer;
    return [{ type: "error", code: "rate_limited", message: "too many", id: message.id, retryAfter: 200 }];
  };
  const update = track(world.client.setStatus("busy"));
  await world.clock.advance(699);
  assert.equal(update.state, "pending");
  await world.clock.advance(1);
  assert.equal(update.state, "resolved");
  assert.equal(world.client.connection, "online");
});

test("a chosen status is sent with handshakes and heartbeats, in case the service lost it", async () => {
  const world = await World.online();
  await world.client.setStatus("busy");
  await world.clock.advance(30_000);
  assert.equal(world.socket.messages("heartbeat")[0].status, "busy");
  world.socket.cut();
  await world.clock.advance(12_500);
  assert.equal(world.socket.url.searchParams.get("status"), "busy");
});

test("a heartbeat's status has the number of its connection's last update of it", async () => {
  const world = await World.online();
  const beats = (socket) => socket.messages("heartbeat").map(({ status, n }) => [status, n]);
  await world.client.setClaim("busy");
  await world.clock.advance(30_000);
  await world.client.setStatus("away");
  await world.client.setStatus("busy");
  await world.client.setCustomStatus({ text: "Lunch" });
  const [, , { n }] = updates(world.socket);
  await world.clock.advance(30_000);
  assert.deepEqual(beats(world.socket), [
    [undefined, undefined],
    ["busy", n],
  ]);
  world.socket.cut();
  await world.clock.advance(60_000);
  assert.deepEqual(beats(world.socket)[0], ["busy", undefined]); // none was sent on this connection
});

test("a status that the store lost comes back with the next heartbeat", async () => {
  const world = await World.online();
  const saved = world.service.save();
  await world.client.setStatus("busy");
  world.service.loseTail(saved);
  await world.clock.advance(30_000);
  assert.equal(world.service.connections.get("C1=").status, "busy");
  assert.equal(world.client.self.status, "busy");
});

test("an unknown status is not sent with handshakes", async () => {
  const world = await World.online();
  world.client.setStatus("sleeping");
  world.socket.cut();
  await world.clock.advance(12_500);
  assert.equal(world.socket.url.searchParams.get("status"), null);
});

test("a query returns the records in the same order", async () => {
  const world = await World.online();
  world.service.change("carol", "busy");
  const users = await world.client.query(["stranger", "carol"]);
  assert.deepEqual(
    users.map(({ userId, status }) => [userId, status]),
    [
      ["stranger", "offline"],
      ["carol", "busy"],
    ],
  );
  assert.equal(world.client.users.has("stranger"), false);
  assert.equal(world.statuses.carol, "offline"); // only frames and snapshots change what is shown
});

test("the response to a query may come in parts, in any order and twice", async () => {
  const world = await World.online();
  world.service.partSize = 2;
  const frames = [];
  world.route = (frame) => frames.push(frame);
  const userIds = ["eve", "carol", "mallory", "bob", "dave"];
  const query = track(world.client.query(userIds));
  const [one, two, three] = frames;
  for (const frame of [three, one, one]) world.socket.deliver(frame);
  await world.clock.advance(0);
  assert.equal(query.state, "pending");
  world.socket.deliver(two);
  world.socket.deliver(two);
  await world.clock.advance(0);
  assert.deepEqual(
    query.value.map(({ userId }) => userId),
    userIds,
  );
});

test("a large query is split into messages of at most 4 KB and 100 users", async () => {
  const world = await World.online();
  const short = Array.from({ length: 250 }, (_, number) => `u${number}`);
  const long = Array.from({ length: 60 }, (_, number) => String(number).padStart(128, "x"));
  const users = await world.client.query([...short, ...long]);
  assert.deepEqual(
    users.map(({ userId }) => userId),
    [...short, ...long],
  );
  const messages = world.socket.messages("get_presence");
  assert.ok(messages.every((message) => message.userIds.length <= 100 && JSON.stringify(message).length <= 4_096));
  assert.deepEqual(await world.client.query([]), []);
});

test("a query rejects without a connection, without a response, and when the connection is lost", async () => {
  const world = new World();
  await assert.rejects(world.client.query(["bob"]), { code: "offline" });
  world.client.open();
  await world.clock.advance(0);
  world.socket.isSilent = true;
  const late = track(world.client.query(["bob"]));
  await world.clock.advance(10_000);
  assert.equal(late.error.code, "timeout");
  const cut = track(world.client.query(["bob"]));
  world.socket.cut();
  await world.clock.advance(0);
  assert.equal(cut.error.code, "offline");
});

test("updates of a closed client are rejected and not sent later", async () => {
  for (const end of ["close", "leave"]) {
    const world = new World();
    const early = track(world.client.setStatus("busy"));
    world.client[end](); // never opened
    await world.clock.advance(0);
    assert.equal(early.error.code, "closed");
    world.client.open();
    await world.clock.advance(0);
    world.client[end]();
    const updated = [
      world.client.setStatus("away"),
      world.client.setClaim("busy"),
      world.client.setCustomStatus({ text: "Lunch" }),
    ];
    for (const update of updated) await assert.rejects(update, { name: "PresenceError", code: "closed" });
    world.client.open();
    await world.clock.advance(0);
    assert.deepEqual(updates(world.socket), []);
    assert.notEqual(world.socket.url.searchParams.get("status"), "away");
    await world.client.setStatus("away");
    assert.equal(world.client.self.status, "away");
  }
});

test("an invalid claim or custom status is a TypeError", async () => {
  const world = await World.online();
  for (const wrong of [undefined, "online", "offline", ""]) {
    await assert.rejects(world.client.setClaim(wrong), {
      name: "TypeError",
      message: /^the claim must be one of busy, away, or null to end it, not /,
    });
  }
  for (const wrong of [undefined, "Lunch"]) {
    await assert.rejects(world.client.setCustomStatus(wrong), {
      name: "TypeError",
      message: /^customStatus must be \{text, emoji, until\} or null, not /,
    });
  }
  assert.deepEqual(updates(world.socket), []);
});

test("close() rejects pending queries and updates", async () => {
  const world = await World.online();
  world.socket.isSilent = true;
  const [query, update] = [track(world.client.query(["bob"])), track(world.client.setStatus("busy"))];
  world.client.close();
  await world.clock.advance(0);
  assert.deepEqual([query.error.code, update.error.code], ["closed", "closed"]);
});
