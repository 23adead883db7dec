/** Whatever the network does, a client ends with the service's picture, by itself and soon after the network is well. */

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
  fc.record({ do: fc.constant("wish"), text: fc.constantFrom("one", "two", "three") }),
  fc.record({ do: fc.constantFrom("cut", "refuse", "hang", "accept", "fail", "serve", "touch") }),
  fc.record({ do: fc.constantFrom("online", "return", "reconnect", "forget") }),
  { weight: 3, arbitrary: fc.record({ do: fc.constant("wait"), ms: fc.integer({ min: 1, max: 90_000 }) }) },
);

/** What happens to the world. */
function doing(world) {
  const fates = {
    drop: () => {},
    late: (frame, deliver) => world.clock.setTimeout(() => deliver(frame), 5_000),
    twice: (frame, deliver) => [0, 1].forEach(() => deliver(frame)),
    arrive: (frame, deliver) => deliver(frame),
  };
  const tell = (how, frame) => {
    world.carry = fates[how];
    world.tell(frame);
    world.carry = fates.arrive;
  };
  return {
    change: ({ user: userId, status: to, fate: how }) => tell(how, world.service.change(userId, to)),
    remove: ({ user: userId, fate: how }) => tell(how, world.service.remove(userId)),
    wish: ({ text }) => void world.client.setCustomStatus({ text }),
    cut: () => world.socket?.cut(),
    refuse: () => (world.letsIn = false),
    hang: () => (world.letsIn = null),
    accept: () => (world.letsIn = true),
    online: () => world.page.happens("online"),
    return: () => ["pagehide", "pageshow"].forEach((name) => world.page.happens(name)),
    reconnect: () => world.client.reconnect(),
    forget: () => (world.service.keepLost = !world.service.keepLost),
    fail: () => (world.service.isAvailable = world.answersHttp = false),
    serve: () => (world.service.isAvailable = world.answersHttp = true),
    touch: () => world.page.happens("pointermove"),
    wait: ({ ms }) => world.clock.pass(ms),
  };
}

async function live(steps, options) {
  const world = new World({ random: () => 0.5, ...options });
  const does = doing(world);
  let wished = null;
  world.client.open();
  for (const each of steps) {
    if (each.do === "wish") wished = { text: each.text };
    await does[each.do](each);
  }
  does.accept();
  does.serve();
  await world.clock.pass(180_000);
  return { world, wished };
}

for (const [name, options] of [
  ["alone", {}],
  ["with an HTTP side", { httpUrl: "https://host" }],
]) {
  test(`any history of losses, delays, cuts and failures ends well, with WebSockets ${name}`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const { world, wished } = await live(steps, options);
        assert.equal(world.client.connection, "online");
        for (const [userId, record] of world.service.contacts) assert.deepEqual(world.client.users.get(userId), record);
        for (const [userId, record] of world.client.users) {
          assert.ok(world.service.contacts.has(userId) || record.status === "offline");
        }
        assert.deepEqual(world.service.custom, wished);
        assert.deepEqual(world.client.self.customStatus, wished);
        assert.equal(world.sockets.filter(({ readyState }) => readyState === 1).length, 1);
        assert.deepEqual([...world.service.connections.keys()].filter((id) => id.startsWith("P")), []);
        // What was told, one after the other, is the picture as well.
        const told = new Map();
        for (const { userId, user: now, previous } of world.take("change")) {
          assert.deepEqual(told.get(userId) ?? null, previous);
          if (now) told.set(userId, now);
          else told.delete(userId);
        }
        assert.deepEqual(told, world.client.users);
      }),
      RUNS,
    );
  });
}
