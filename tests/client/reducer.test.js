/**
 * What frames mean, beyond docs/vectors.json: whole frames as the service sends them, and random histories, at the end
 * of which the client has the service's state, whatever was lost on the way or in the store.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import fc from "fast-check";

import { changes, initial, isComplete, nextTick, receive, tick } from "../../client/reducer.js";
import { Service } from "./service.js";

const RUNS = { numRuns: process.env.CI ? 2_000 : 500 };
const through = (frames, state = initial) => frames.reduce((known, frame) => receive(known, frame, 0).state, state);
const statuses = ({ users }) => Object.fromEntries([...users].map(([userId, { status }]) => [userId, status]));

function started(...users) {
  const service = new Service({ users });
  const me = service.connect();
  return { service, me, state: through(service.snapshot({ connectionId: me })) };
}

test("a snapshot sets the state, and later frames update it", () => {
  const { service, state } = started("bob", "carol");
  assert.deepEqual(statuses(state), { bob: "offline", carol: "offline" });
  const after = through([service.change("bob", "busy")], state);
  assert.deepEqual(statuses(after), { bob: "busy", carol: "offline" });
  assert.equal(after.seq, service.feed);
  assert.deepEqual(after.users.get("bob"), service.contacts.get("bob"));
});

test("a snapshot is complete when all its parts have arrived", () => {
  const { service, me, state } = started("bob", "carol", "dave");
  service.partSize = 1;
  service.change("bob", "online");
  const [one, two, three] = service.snapshot({ connectionId: me, id: "s1" });
  const most = through([three, one, one], state);
  assert.ok(!isComplete(most, two));
  const all = through([two], most);
  assert.ok(isComplete(all, two));
  assert.equal(all.users.get("bob").status, "online");
});

test("a complete snapshot clears the parts of older ones", () => {
  const { service, me, state } = started("bob", "carol");
  service.partSize = 1;
  const [first] = service.snapshot({ connectionId: me, id: "s1" });
  const half = through([first, service.change("bob", "online")], state);
  const after = through(service.snapshot({ connectionId: me, id: "s2" }), half);
  assert.deepEqual([half.parts.size, after.parts.size, after.kept.size], [1, 0, 0]);
});

test("a frame on a new connection that overtakes its snapshot drops nothing of it", () => {
  const { service, state } = started("bob", "carol");
  service.change("carol", "busy"); // lost with the old connection
  const me = service.connect("d2");
  service.connections.get(me).status = "busy";
  const snapshot = service.snapshot({ connectionId: me, id: "s2" });
  const after = through([service.change("bob", "online"), ...snapshot], state);
  assert.deepEqual(statuses(after), { bob: "online", carol: "busy" });
  assert.equal(after.self.connectionId, me);
  assert.equal(after.seq, service.feed);
});

test("an equal record is no change, in whatever order its fields come", () => {
  const { service, me, state } = started("bob");
  const customStatus = { text: "Lunch", emoji: "🍜", until: null };
  service.contacts.set("bob", { ...service.contacts.get("bob"), customStatus });
  const before = through(service.snapshot({ connectionId: me }), state);
  const record = Object.fromEntries(Object.entries(service.contacts.get("bob")).reverse());
  const turned = Object.fromEntries(Object.entries(customStatus).reverse());
  const frame = { ...service.batch([]), events: [{ ...record, customStatus: turned }] };
  const after = through([frame], before);
  assert.deepEqual([...changes(before, after)], []);
  assert.equal(after.ats.get("bob"), frame.seq);
  const other = through([{ ...service.batch([]), events: [{ ...record, customStatus: null }] }], after);
  assert.deepEqual(
    [...changes(after, other)].map(({ user: { customStatus: now } }) => now),
    [null],
  );
});

test("unknown fields are kept and unknown frames ignored", () => {
  const { service, state } = started("bob");
  assert.equal(through([{ type: "weather", seq: 7 }], state), state);
  assert.equal(through([{ message: "Internal server error", connectionId: "C=", requestId: "r" }], state), state);
  const after = through([{ ...service.change("bob", "online"), mood: "fine" }], state);
  assert.deepEqual(after.users.get("bob"), { ...service.contacts.get("bob"), mood: "fine" });
});

test("changes() yields the differences between two states", () => {
  const record = (status) => ({ status });
  const before = new Map([
    ["a", record("online")],
    ["b", record("online")],
    ["c", record("online")],
  ]);
  const after = new Map([
    ["a", before.get("a")],
    ["b", record("busy")],
    ["d", record("online")],
  ]);
  assert.deepEqual(
    [...changes({ users: before }, { users: after })],
    [
      { userId: "c", user: null, previous: record("online") },
      { userId: "b", user: record("busy"), previous: record("online") },
      { userId: "d", user: record("online"), previous: null },
    ],
  );
  assert.deepEqual([...changes({ users: after }, { users: after })], []);
});

test("every frame in docs/protocol.md is understood", () => {
  const text = readFileSync(new URL("../../docs/protocol.md", import.meta.url), "utf8");
  const frames = [...text.matchAll(/```json server\n(.+?)```/gs)].map(([, frame]) => JSON.parse(frame));
  assert.ok(frames.length >= 8);
  for (const frame of frames) {
    const known = { ...initial, seq: frame.prev ?? null };
    const { state, sync } = receive(known, frame, 0);
    if (frame.type === "error") assert.equal(sync, frame.field === "seq");
    else if (frame.type === "presence") assert.equal(state, known);
    else if (frame.type === "presence_snapshot" && frame.resumed) assert.equal(state.self, frame.self);
    else if (frame.parts > 1) assert.equal(isComplete(state, frame), false);
    else assert.equal(state.seq, frame.seq, JSON.stringify(frame));
  }
});

// Random histories ----------------------------------------------------------------------------------------------------

const USERS = ["bob", "carol", "dave", "__proto__"];
const user = fc.constantFrom(...USERS);
const status = fc.constantFrom("online", "busy", "away", "offline");
const place = fc.nat(1_000);
const harmless = [
  fc.record({ do: fc.constant("change"), user, status }),
  fc.record({ do: fc.constant("batch"), changes: fc.array(fc.tuple(user, status), { maxLength: 4 }) }),
  fc.record({ do: fc.constant("update"), status: fc.constantFrom("online", "busy", "away") }),
  fc.record({ do: fc.constant("remove"), user }),
  fc.record({ do: fc.constant("sync") }),
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom("deliver", "repeat"), place }) },
];
const harmful = [
  { weight: 2, arbitrary: fc.record({ do: fc.constant("drop"), place }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("wait"), ms: fc.nat(4_000) }) },
  fc.record({ do: fc.constantFrom("save", "loseTail", "skip", "beat") }),
];

/** A service, a client, and frames in flight, which may be delivered in any order, twice, or never. */
class History {
  now = 1_764_000_000_000;
  service = new Service({ users: USERS, now: () => this.now });
  me = this.service.connect();
  saved = this.service.save();
  state = initial;
  inFlight = this.service.snapshot({ connectionId: this.me, id: "s0" });
  applied = new Map(); // the users, by the change events alone
  syncs = 0;
  number = 0;
  steps = {
    change: ({ user: userId, status: to }) => this.send(this.service.change(userId, to)),
    batch: ({ changes: all }) => this.send(this.service.batch(all)),
    update: ({ status: to }) => this.update(to),
    remove: ({ user: userId }) => this.service.contacts.has(userId) && this.send(this.service.remove(userId)),
    sync: () => this.ask("sync"),
    beat: () => this.ask("heartbeat"),
    deliver: ({ place: at }) => this.pick(at, (index) => this.receive(...this.inFlight.splice(index, 1))),
    repeat: ({ place: at }) => this.pick(at, (index) => this.receive(this.inFlight[index])),
    drop: ({ place: at }) => this.pick(at, (index) => this.inFlight.splice(index, 1)),
    wait: ({ ms }) => this.wait(ms),
    save: () => (this.saved = this.service.save()),
    loseTail: () => this.service.loseTail(this.saved),
    skip: () => this.service.skipNumber(),
  };

  send(...frames) {
    this.inFlight.push(...frames);
  }

  pick(at, use) {
    if (this.inFlight.length) use(at % this.inFlight.length);
  }

  receive(frame) {
    this.step(receive(this.state, frame, this.now));
  }

  wait(ms) {
    this.now += ms;
    this.step(tick(this.state, this.now));
    assert.ok((nextTick(this.state) ?? Infinity) > this.now);
  }

  step({ state, sync }) {
    for (const { userId, user: after, previous } of changes(this.state, state)) {
      assert.deepEqual(this.applied.get(userId) ?? null, previous);
      assert.notDeepEqual(after, previous);
      if (after) this.applied.set(userId, after);
      else this.applied.delete(userId);
    }
    assert.ok(this.state.seq === null || state.seq >= this.state.seq, "seq never moves back");
    this.state = state;
    if (!sync) return;
    this.syncs += 1;
    this.ask("sync");
  }

  update(to) {
    this.number += 1;
    this.send(...this.service.handle(this.me, { action: "presence_update", status: to, n: this.number }));
  }

  ask(action) {
    const id = `${action}${(this.number += 1)}`;
    const { seq } = this.state;
    this.send(...this.service.handle(this.me, { action, id, ...(seq !== null && { seq }) }));
  }

  /** Nothing is lost any more, and heartbeats follow: each response arrives in order. */
  settle(rounds) {
    for (let round = 0; round < rounds; round += 1) {
      while (this.inFlight.length) this.receive(this.inFlight.shift());
      this.wait(2_500);
      if (this.inFlight.length === 0) this.ask(this.state.seq === null ? "sync" : "heartbeat");
    }
  }

  assertRight() {
    const { state, service } = this;
    assert.deepEqual([state.seq, nextTick(state), state.kept.size], [service.feed, null, 0]);
    for (const [userId, record] of service.contacts) assert.deepEqual(state.users.get(userId), record);
    // A removed user is absent, or offline until the next snapshot.
    for (const [userId, record] of state.users) assert.ok(service.contacts.has(userId) || record.status === "offline");
    assert.deepEqual(state.self, service.self(this.me));
    assert.deepEqual(this.applied, new Map(state.users));
  }
}

test("any history of lost, reordered and repeated frames and of lost tails ends with the service's state", () => {
  const step = fc.oneof(...harmless, ...harmful);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 5 }), (steps, partSize) => {
      const history = new History();
      history.service.partSize = partSize;
      for (const each of steps) history.steps[each.do](each);
      history.settle(4);
      const { syncs } = history;
      history.assertRight();
      history.settle(4);
      assert.equal(history.syncs, syncs, "what is right needs no further sync");
    }),
    RUNS,
  );
});

test("without losses no sync is needed, in any order of frames", () => {
  const step = fc.oneof(...harmless);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.infiniteStream(place), (steps, places) => {
      const history = new History();
      for (const each of steps) history.steps[each.do](each);
      while (history.inFlight.length) history.steps.deliver({ place: places.next().value });
      assert.equal(history.syncs, 0);
      history.assertRight();
    }),
    RUNS,
  );
});
