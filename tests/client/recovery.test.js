/** Random histories: whatever the network does, the client has the service's state soon after the network recovers. */

import assert from "node:assert/strict";
import { test } from "node:test";

import fc from "fast-check";

import { World } from "./world.js";

const RUNS = { numRuns: process.env.CI ? 1_000 : 200 };
const user = fc.constantFrom("bob", "carol", "__proto__");
const status = fc.constantFrom("online", "busy", "away", "offline");
const fate = fc.constantFrom("drop", "late", "twice", "arrive", "arrive");
const step = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant("change"), user, status, fate }) },
  fc.record({ do: fc.constant("remove"), user, fate }),
  fc.record({ do: fc.constant("update"), text: fc.constantFrom("one", "two", "three") }),
  fc.record({ do: fc.constant("choose"), status: fc.constantFrom("online", "busy", "away") }),
  fc.record({ do: fc.constantFrom("cut", "refuse", "hang", "accept", "fail", "serve", "touch") }),
  fc.record({ do: fc.constantFrom("online", "return", "reconnect", "forget", "save", "loseTail") }),
  { weight: 3, arbitrary: fc.record({ do: fc.constant("wait"), ms: fc.integer({ min: 1, max: 90_000 }) }) },
);

/** How each step changes the world. */
function doing(world) {
  let saved = world.service.save();
  const fates = {
    drop: () => {},
    late: (frame, deliver) => world.clock.setTimeout(() => deliver(frame), 5_000),
    twice: (frame, deliver) => [0, 1].forEach(() => deliver(frame)),
    arrive: (frame, deliver) => deliver(frame),
  };
  const broadcast = (how, frame) => {
    world.route = fates[how];
    world.broadcast(frame);
    world.route = fates.arrive;
  };
  return {
    change: ({ user: userId, status: to, fate: how }) => broadcast(how, world.service.change(userId, to)),
    remove: ({ user: userId, fate: how }) => broadcast(how, world.service.remove(userId)),
    update: ({ text }) => void world.client.setCustomStatus({ text }),
    choose: ({ status: to }) => void world.client.setStatus(to),
    cut: () => world.socket?.cut(),
    refuse: () => (world.handshakes = "refuse"),
    hang: () => (world.handshakes = "hang"),
    accept: () => (world.handshakes = "accept"),
    online: () => world.page.fire("online"),
    return: () => ["pagehide", "pageshow"].forEach((name) => world.page.fire(name)),
    reconnect: () => world.client.reconnect(),
    save: () => (saved = world.service.save()),
    loseTail: () => world.service.loseTail(saved),
    forget: () => (world.service.keepsLost = !world.service.keepsLost),
    fail: () => (world.service.isAvailable = world.httpWorks = false),
    serve: () => (world.service.isAvailable = world.httpWorks = true),
    touch: () => world.page.fire("pointermove"),
    wait: ({ ms }) => world.clock.advance(ms),
  };
}

async function live(steps, options) {
  const world = new World({ random: () => 0.5, ...options });
  const does = doing(world);
  let newest = null;
  world.client.open();
  for (const each of steps) {
    if (each.do === "update") newest = { text: each.text };
    if (each.do === "loseTail") newest = undefined; // it may be lost: the client repeats only the device's status
    await does[each.do](each);
  }
  does.accept();
  does.serve();
  await world.clock.advance(180_000);
  return { world, newest };
}

for (const [name, options] of [
  ["with WebSockets alone", {}],
  ["with httpUrl", { httpUrl: "https://host" }],
]) {
  test(`after any history of losses, delays and failures the client has the service's state, ${name}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const { world, newest } = await live(steps, options);
        assert.equal(world.client.connection, "online");
        for (const [userId, record] of world.service.contacts) assert.deepEqual(world.client.users.get(userId), record);
        for (const [userId, record] of world.client.users) {
          assert.ok(world.service.contacts.has(userId) || record.status === "offline");
        }
        assert.deepEqual(world.client.self.customStatus, world.service.customStatus);
        const chosen = steps.findLast(({ do: what }) => what === "choose")?.status ?? "online";
        const { connectionId, status: own } = world.client.self;
        assert.equal(world.service.connections.get(connectionId).status, chosen);
        assert.equal(own, world.service.self(connectionId).status);
        assert.equal(world.sockets.filter(({ readyState }) => readyState === 1).length, 1);
        if (newest !== undefined) assert.deepEqual(world.service.customStatus, newest);
        if (steps.every(({ do: what }) => what !== "loseTail")) {
          assert.deepEqual([...world.service.connections.keys()].filter((id) => id.startsWith("P")), []);
        }
        // The change events, applied in order, give the same users.
        const applied = new Map();
        for (const { userId, user: now, previous } of world.take("change")) {
          assert.deepEqual(applied.get(userId) ?? null, previous);
          if (now) applied.set(userId, now);
          else applied.delete(userId);
        }
        assert.deepEqual(applied, world.client.users);
      }),
      RUNS,
    );
  });
}
