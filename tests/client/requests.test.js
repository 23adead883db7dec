/** What the application wants of the service: wishes are told until they hold, queries are asked once. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { PresenceError } from "../../client/presence.js";
import { World } from "./world.js";

/** What became of a promise so far. */
function watched(promise) {
  const outcome = { is: "pending" };
  promise.then(
    (value) => Object.assign(outcome, { is: "kept", value }),
    (error) => Object.assign(outcome, { is: "broken", error }),
  );
  return outcome;
}

const updates = (socket) => socket.said("presence_update").map(({ id, seq, action, ...rest }) => rest);

test("a status is told, and holds when one's own state shows it", async () => {
  const world = await World.online();
  await world.client.setStatus("busy");
  const [{ n, ...said }] = updates(world.socket);
  assert.deepEqual(said, { status: "busy" });
  assert.ok(n >= 1);
  assert.equal(world.client.self.status, "busy");
});

test("a claim and a custom status are said as the protocol has them", async () => {
  const world = await World.online();
  await world.client.setClaim("busy", 1_764_003_600_000);
  await world.client.setClaim(null);
  await world.client.setCustomStatus({ text: "Lunch", emoji: "🍜" });
  await world.client.setCustomStatus(null);
  assert.deepEqual(
    updates(world.socket).map(({ n, ...said }) => said),
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

test("an update that changes nothing has no answer, and holds after five seconds without a word against it", async () => {
  const world = await World.online();
  const wish = watched(world.client.setStatus("online"));
  await world.clock.pass(4_999);
  assert.equal(wish.is, "pending");
  await world.clock.pass(1);
  assert.equal(wish.is, "kept");
  assert.equal(updates(world.socket).length, 1);
});

test("what is wished without a connection is told when there is one, the newest alone", async () => {
  const world = new World();
  const first = watched(world.client.setStatus("away"));
  const second = watched(world.client.setStatus("busy"));
  const custom = watched(world.client.setCustomStatus({ text: "Lunch" }));
  world.client.open();
  assert.equal(second.is, "pending");
  await world.clock.pass(0);
  assert.deepEqual([first.is, custom.is], ["kept", "kept"]);
  assert.deepEqual(
    updates(world.socket).map(({ n, ...said }) => said),
    [{ status: "busy" }, { customStatus: { text: "Lunch" } }],
  );
  await world.clock.pass(5_000);
  assert.equal(second.is, "kept"); // the handshake had said it already, so nothing changed
});

test("what may not have arrived is told again on the next connection, with a higher number", async () => {
  const world = await World.online();
  world.socket.isSilent = true; // and what was said is lost
  const wish = watched(world.client.setCustomStatus({ text: "Lunch" }));
  await world.clock.pass(1_000);
  world.socket.cut();
  await world.clock.pass(12_500);
  const [[lost], [told]] = world.sockets.map(updates);
  assert.deepEqual(told.customStatus, { text: "Lunch" });
  assert.ok(told.n > lost.n);
  assert.equal(wish.is, "kept");
  world.socket.cut();
  await world.clock.pass(25_000);
  assert.deepEqual(updates(world.socket), []); // once it holds it is not told again
});

test("what the service could not take is told again when it serves again", async () => {
  const world = await World.online();
  world.service.isAvailable = false;
  const wish = watched(world.client.setClaim("busy"));
  assert.equal(world.client.connection, "stale");
  await world.clock.pass(10_000);
  assert.equal(wish.is, "pending");
  world.service.isAvailable = true;
  await world.clock.pass(30_000);
  assert.equal(wish.is, "kept");
  assert.equal(world.client.self.claim.status, "busy");
  assert.equal(updates(world.socket).length, 2);
});

test("what the service refuses is told to who asked for it, and to whoever listens", async () => {
  const world = await World.online();
  const wish = world.client.setCustomStatus({ text: "x".repeat(141) });
  await assert.rejects(wish, (error) => {
    assert.ok(error instanceof PresenceError);
    assert.deepEqual([error.code, error.field, error.message], ["invalid_message", "customStatus.text", "too long"]);
    return true;
  });
  assert.equal(world.take("error").length, 1);
  await world.clock.pass(60_000);
  assert.equal(updates(world.socket).length, 1);
  assert.equal(world.client.connection, "online");
});

test("a refusal that nobody waits for harms nothing", async () => {
  const world = await World.online();
  world.client.setCustomStatus({ text: "x".repeat(141) });
  await world.clock.pass(0);
  assert.equal(world.take("error")[0].code, "invalid_message");
});

test("too many messages: the same is told again when the service wants to hear it", async () => {
  const world = await World.online();
  const answer = world.service.answer.bind(world.service);
  world.service.answer = (connection, message) => {
    world.service.answer = answer;
    return [{ type: "error", code: "rate_limited", message: "too many", id: message.id, retryAfter: 200 }];
  };
  const wish = watched(world.client.setStatus("busy"));
  await world.clock.pass(699);
  assert.equal(wish.is, "pending");
  await world.clock.pass(1);
  assert.equal(wish.is, "kept");
  assert.equal(world.client.connection, "online");
});

test("a chosen status goes with handshakes and heartbeats, for a service that lost it", async () => {
  const world = await World.online();
  await world.client.setStatus("busy");
  await world.clock.pass(30_000);
  assert.equal(world.socket.said("heartbeat")[0].status, "busy");
  world.socket.cut();
  await world.clock.pass(12_500);
  assert.equal(world.socket.url.searchParams.get("status"), "busy");
});

test("a status that does not exist spoils no handshake", async () => {
  const world = await World.online();
  world.client.setStatus("sleeping");
  world.socket.cut();
  await world.clock.pass(12_500);
  assert.equal(world.socket.url.searchParams.get("status"), null);
});

test("a query gives what may be seen of each, in the same order", async () => {
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
  assert.equal(world.statuses.carol, "busy"); // it is news of a contact as well
});

test("many users take several messages of at most 4 KB and 100 users", async () => {
  const world = await World.online();
  const short = Array.from({ length: 250 }, (_, number) => `u${number}`);
  const long = Array.from({ length: 60 }, (_, number) => String(number).padStart(128, "x"));
  const users = await world.client.query([...short, ...long]);
  assert.deepEqual(
    users.map(({ userId }) => userId),
    [...short, ...long],
  );
  const messages = world.socket.said("get_presence");
  assert.ok(messages.every((message) => message.userIds.length <= 100 && JSON.stringify(message).length <= 4_096));
  assert.deepEqual(await world.client.query([]), []);
});

test("a query without a connection, without an answer, or cut off is broken", async () => {
  const world = new World();
  await assert.rejects(world.client.query(["bob"]), { code: "offline" });
  world.client.open();
  await world.clock.pass(0);
  world.socket.isSilent = true;
  const late = watched(world.client.query(["bob"]));
  await world.clock.pass(10_000);
  assert.equal(late.error.code, "timeout");
  const cut = watched(world.client.query(["bob"]));
  world.socket.cut();
  await world.clock.pass(0);
  assert.equal(cut.error.code, "offline");
});

test("what is wished of a client that was closed is refused, and is not told later", async () => {
  for (const end of ["close", "leave"]) {
    const world = new World();
    const early = watched(world.client.setStatus("busy"));
    world.client[end](); // it was never opened
    await world.clock.pass(0);
    assert.equal(early.error.code, "closed");
    world.client.open();
    await world.clock.pass(0);
    world.client[end]();
    const wishes = [
      world.client.setStatus("away"),
      world.client.setClaim("busy"),
      world.client.setCustomStatus({ text: "Lunch" }),
    ];
    for (const wish of wishes) await assert.rejects(wish, { name: "PresenceError", code: "closed" });
    world.client.open();
    await world.clock.pass(0);
    assert.deepEqual(updates(world.socket), []);
    assert.notEqual(world.socket.url.searchParams.get("status"), "away");
    await world.client.setStatus("away");
    assert.equal(world.client.self.status, "away");
  }
});

test("what is no claim and what is no custom status is refused at once", async () => {
  const world = await World.online();
  for (const wrong of [undefined, "online", "offline", ""]) {
    await assert.rejects(world.client.setClaim(wrong), {
      name: "TypeError",
      message: /^the claim must be one of busy, away, or null, which ends it: not /,
    });
  }
  for (const wrong of [undefined, "Lunch"]) {
    await assert.rejects(world.client.setCustomStatus(wrong), {
      name: "TypeError",
      message: /^customStatus must be \{text, emoji, until\} or null: not /,
    });
  }
  assert.deepEqual(updates(world.socket), []);
});

test("closing breaks whatever is still waited for", async () => {
  const world = await World.online();
  world.socket.isSilent = true;
  const [query, wish] = [watched(world.client.query(["bob"])), watched(world.client.setStatus("busy"))];
  world.client.close();
  await world.clock.pass(0);
  assert.deepEqual([query.error.code, wish.error.code], ["closed", "closed"]);
});
