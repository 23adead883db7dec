/** When the next connection is opened: backoff, storms of reconnecting clients, early attempts. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { World, randomFrom } from "./world.js";

test("attempts back off with full jitter until a connection has been ready for five seconds", async () => {
  const world = await World.online({ reconnectWithin: 1_000 });
  const waits = async () => {
    const before = [world.sockets.length, world.clock.now()];
    while (world.sockets.length === before[0]) await world.clock.advance(10);
    return world.clock.now() - before[1];
  };
  await world.clock.advance(5_000);
  world.socket.cut();
  world.handshakes = "refuse";
  assert.deepEqual([await waits(), await waits(), await waits(), await waits()], [500, 1_000, 2_000, 4_000]);
  for (let more = 0; more < 4; more += 1) await waits();
  assert.equal(await waits(), 30_000); // half of the longest delay
  world.handshakes = "accept";
  await waits();
  world.handshakes = "refuse";
  await world.clock.advance(4_990);
  world.socket.cut();
  assert.equal(await waits(), 30_000);
  world.handshakes = "accept";
  await waits();
  await world.clock.advance(5_000);
  world.page.fire("online"); // causes a sync
  world.socket.cut();
  assert.equal(await waits(), 500);
});

test("ten thousand clients cut together reconnect with fewer than 500 handshakes/s", async () => {
  const random = randomFrom(18);
  const handshakes = new Map(); // second → how many
  for (let thousands = 0; thousands < 10; thousands += 1) {
    const worlds = await Promise.all(Array.from({ length: 1_000 }, () => World.online({ random })));
    for (const world of worlds) {
      world.socket.cut();
      const second = Math.floor((world.clock.nextAt - world.clock.now()) / 1_000);
      handshakes.set(second, (handshakes.get(second) ?? 0) + 1);
    }
  }
  assert.equal(handshakes.size, 25);
  assert.ok(Math.max(...handshakes.values()) < 500, `${[...handshakes.values()]}`);
});

test("with httpUrl ten thousand clients are back within the grace, below the limits of both APIs", async () => {
  const random = randomFrom(7);
  const [handshakes, calls] = [Array(25).fill(0), Array(25).fill(0)]; // by second
  for (let thousands = 0; thousands < 10; thousands += 1) {
    const worlds = await Promise.all(
      Array.from({ length: 1_000 }, () => World.online({ random, httpUrl: "https://host" })),
    );
    await Promise.all(
      worlds.map(async (world) => {
        const began = world.clock.now();
        const second = ({ at }) => Math.floor((at - began) / 1_000);
        world.socket.cut();
        await world.clock.advance(9_000);
        assert.equal(world.client.stale, false);
        await world.clock.advance(16_000);
        for (const socket of world.sockets.slice(1)) handshakes[second(socket)] += 1;
        for (const call of world.calls) calls[second(call)] += 1;
      }),
    );
  }
  assert.ok(Math.max(...handshakes) < 500, `${handshakes}`);
  assert.ok(Math.max(...calls) < 1_000, `${calls}`);
  assert.equal(
    handshakes.reduce((sum, each) => sum + each),
    10_000,
  );
});

test("the network's return causes an early attempt, and so does activity unless two attempts failed", async () => {
  const world = await World.online();
  world.socket.cut();
  for (let moves = 0; moves < 30; moves += 1) {
    world.page.fire("pointermove");
    await world.clock.advance(20);
  }
  assert.equal(world.sockets.length, 2);
  assert.equal(world.client.connection, "online");
  world.handshakes = "refuse";
  world.socket.cut();
  await world.clock.advance(26_000);
  assert.equal(world.sockets.length, 4);
  world.page.fire("pointermove");
  await world.clock.advance(1_000);
  assert.equal(world.sockets.length, 4);
  world.page.fire("online");
  await world.clock.advance(1_000);
  assert.equal(world.sockets.length, 5);
});

test("a loss right after the network or the page returned is retried early", async () => {
  for (const back of [(page) => page.fire("online"), (page) => page.show("visible")]) {
    const world = await World.online({ random: () => 0.999 });
    await world.clock.advance(60_000);
    world.socket.isSilent = true;
    await world.clock.advance(40_000);
    back(world.page);
    await world.clock.advance(4_999);
    assert.equal(world.client.connection, "online");
    await world.clock.advance(2_001);
    assert.deepEqual([world.sockets.length, world.client.connection], [2, "online"]);
  }
});

test("a failed first connection is retried soon", async () => {
  const world = new World({ random: () => 0.999 });
  world.handshakes = "refuse";
  world.client.open();
  await world.clock.advance(14_000);
  assert.equal(world.sockets.length, 4); // after waits of up to 2, 4 and 8 s
});
