/** What frames mean, and that their order and duplicates make no difference in the end. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import fc from "fast-check";

import { changes, hasGap, initial, isComplete, reduce } from "../../client/reducer.js";
import { Service } from "./service.js";

const RUNS = { numRuns: process.env.CI ? 2_000 : 500 };
const through = (frames, state = initial) => frames.reduce((known, frame) => reduce(known, frame), state);
const statuses = ({ users }) => Object.fromEntries([...users].map(([userId, { status }]) => [userId, status]));

function started(...users) {
  const service = new Service({ users });
  const me = service.connect();
  return { service, me, state: through(service.snapshot({ connectionId: me })) };
}

test("a snapshot sets the state, and later frames update it", () => {
  const { service, state } = started("bob", "carol");
  assert.deepEqual(statuses(state), { bob: "offline", carol: "offline" });
  const after = reduce(state, service.change("bob", "busy"));
  assert.deepEqual(statuses(after), { bob: "busy", carol: "offline" });
  assert.equal(after.seq, service.feed);
  assert.deepEqual(after.users.get("bob"), service.contacts.get("bob"));
});

test("a state is never changed in place", () => {
  const { service, state } = started("bob");
  const before = structuredClone(state);
  through([service.change("bob", "online"), service.change("bob", "busy"), ...service.snapshot({})], state);
  assert.deepEqual(structuredClone(state), before);
  assert.equal(initial.users.size, 0);
});

test("the highest rev wins in every frame, and a frame may arrive twice", () => {
  const { service, state } = started("bob");
  const [online, busy] = [service.change("bob", "online"), service.change("bob", "busy")];
  assert.deepEqual(statuses(through([busy, online, busy, online], state)), { bob: "busy" });
});

test("a missing frame is a gap until it arrives", () => {
  const { service, state } = started("bob", "carol");
  const [first, second, third] = ["online", "busy", "away"].map((status) => service.change("bob", status));
  const gapped = through([third, first], state);
  assert.ok(hasGap(gapped));
  assert.equal(gapped.seq, first.seq);
  const complete = reduce(gapped, second);
  assert.ok(!hasGap(complete));
  assert.equal(complete.seq, third.seq);
});

test("a snapshot applies when all its parts have arrived, in any order", () => {
  const { service, me, state } = started("bob", "carol", "dave");
  service.partSize = 1;
  service.change("bob", "online");
  const [one, two, three] = service.snapshot({ connectionId: me, id: "s1" });
  const most = through([three, one, one], state);
  assert.deepEqual(statuses(most), statuses(state));
  assert.ok(!isComplete(most, two));
  const all = reduce(most, two);
  assert.ok(isComplete(all, two));
  assert.equal(all.users.get("bob").status, "online");
});

test("a complete snapshot clears the bookkeeping of older frames", () => {
  const { service, me, state } = started("bob", "carol");
  service.partSize = 1;
  const [first] = service.snapshot({ connectionId: me, id: "s1" });
  const half = through([first, service.change("bob", "online")], state);
  const after = through(service.snapshot({ connectionId: me, id: "s2" }), half);
  assert.deepEqual([half.userSeqs.size, half.parts.size], [1, 1]);
  assert.deepEqual([after.userSeqs.size, after.parts.size, after.ahead.size], [0, 0, 0]);
});

test("parts of two snapshots with the same seq are kept apart", () => {
  const { service, me } = started("bob", "carol");
  service.partSize = 1;
  const first = service.snapshot({ connectionId: me, id: "h1" });
  service.contacts.delete("bob");
  service.contacts.set("dave", { ...service.contacts.get("carol"), userId: "dave" });
  const second = service.snapshot({ connectionId: me, id: "h2" });
  const state = through([first[0], second[1]]);
  assert.equal(state.users.size, 0);
  assert.deepEqual([...through([second[0]], state).users.keys()].sort(), ["carol", "dave"]);
});

test("a snapshot drops absent users unless a newer frame names them", () => {
  const { service, me, state } = started("bob", "carol");
  service.contacts.delete("bob");
  service.contacts.delete("carol");
  service.feed += 1;
  const old = service.snapshot({ connectionId: me });
  const carol = service.change("carol", "online");
  const after = through([carol, ...old], state);
  assert.deepEqual(statuses(after), { carol: "online" });
  assert.equal(after.seq, carol.seq);
});

test("a late frame does not bring back a dropped user", () => {
  const { service, me, state } = started("bob");
  const online = service.change("bob", "online");
  service.remove("bob");
  assert.equal(through([...service.snapshot({ connectionId: me }), online], state).users.size, 0);
});

test("a snapshot overtaken by newer frames changes nothing", () => {
  const { service, me, state } = started("bob");
  const old = service.snapshot({ connectionId: me });
  const after = reduce(state, service.change("bob", "online"));
  assert.deepEqual(through(old, after), after);
});

test("a response with a lower seq than its request resets the state", () => {
  const { service, me, state } = started("bob", "carol");
  const later = reduce(state, service.change("bob", "online"));
  const lost = started("bob", "dave").service;
  const [frame] = lost.snapshot({ connectionId: me, id: "s2" });
  assert.deepEqual(statuses(reduce(later, frame)), { bob: "online", carol: "offline" }); // another request: late
  const reset = reduce(later, frame, later.seq);
  assert.deepEqual(statuses(reset), { bob: "offline", dave: "offline" });
  assert.equal(reset.seq, lost.feed);
});

test("a resumed snapshot changes no users", () => {
  const { service, me, state } = started("bob");
  const [frame] = service.snapshot({ connectionId: me, resumed: true });
  assert.equal(reduce(state, frame).users, state.users);
});

test("the newest self wins, in any order", () => {
  const { service, me, state } = started();
  const first = service.selfFrame(me);
  service.connections.get(me).status = "busy";
  const second = service.selfFrame(me);
  assert.equal(through([second, first], state).self.status, "busy");
  assert.equal(through([first, second], state).self.status, "busy");
  const [snapshot] = service.snapshot({ connectionId: me });
  service.connections.get(me).status = "away";
  const third = service.selfFrame(me);
  assert.equal(through([third, snapshot], state).self.status, "away");
});

test("a record without a rev, a stranger's, never enters the state", () => {
  const { service, me, state } = started("bob");
  const strangers = [
    { userId: "bob", status: "offline" },
    { userId: "eve", status: "offline" },
  ];
  const queried = reduce(state, { type: "presence", users: strangers });
  assert.deepEqual(statuses(queried), { bob: "offline" });
  assert.ok(queried.users.get("bob").rev);
  const [frame] = service.snapshot({ connectionId: me });
  assert.equal(reduce(state, { ...frame, users: strangers }).users.size, 0);
});

test("a query does not bring back a former contact", () => {
  const { state } = started("bob");
  const frozen = { ...state.users.get("bob"), userId: "mallory" };
  assert.deepEqual(statuses(reduce(state, { type: "presence", users: [frozen] })), { bob: "offline" });
});

test("a query's response updates a contact", () => {
  const { state } = started("bob");
  const users = [{ ...state.users.get("bob"), status: "busy", rev: state.users.get("bob").rev + 1 }];
  assert.deepEqual(statuses(reduce(state, { type: "presence", users })), { bob: "busy" });
});

test("a user may have any id", () => {
  const { service, state } = started("__proto__", "constructor");
  const after = reduce(state, service.change("__proto__", "online"));
  assert.equal(after.users.get("__proto__").status, "online");
  assert.equal(after.users.size, 2);
});

test("unknown fields are kept and unknown frames ignored", () => {
  const { service, state } = started("bob");
  assert.equal(reduce(state, { type: "weather", seq: 7 }), state);
  assert.equal(reduce(state, { message: "Internal server error", connectionId: "C=", requestId: "r" }), state);
  const after = reduce(state, { ...service.change("bob", "online"), mood: "fine" });
  assert.equal(after.users.get("bob").mood, "fine");
});

test("changes() yields the differences between two states", () => {
  const before = new Map([
    ["a", { rev: 1 }],
    ["b", { rev: 1 }],
    ["c", { rev: 1 }],
  ]);
  const after = new Map([
    ["a", before.get("a")],
    ["b", { rev: 2 }],
    ["d", { rev: 1 }],
  ]);
  assert.deepEqual(
    [...changes(before, after)],
    [
      { userId: "c", user: null, previous: { rev: 1 } },
      { userId: "b", user: { rev: 2 }, previous: { rev: 1 } },
      { userId: "d", user: { rev: 1 }, previous: null },
    ],
  );
  assert.deepEqual([...changes(after, after)], []);
});

test("every frame in docs/protocol.md is understood", () => {
  const text = readFileSync(new URL("../../docs/protocol.md", import.meta.url), "utf8");
  const frames = [...text.matchAll(/```json server\n(.+?)```/gs)].map(([, frame]) => JSON.parse(frame));
  assert.ok(frames.length >= 8);
  const snapshot = frames.find(({ type }) => type === "presence_snapshot");
  const before = reduce(initial, { ...snapshot, seq: 1_764_000_000_006 });
  const applied = through(
    frames.filter((frame) => frame !== snapshot),
    before,
  );
  assert.deepEqual(statuses(applied), { bob: "online", carol: "offline" });
  assert.equal(applied.self.claim.status, "busy");
  assert.deepEqual(statuses(reduce(applied, snapshot)), { bob: "online" }); // bob's rev is higher than the snapshot's
});

// Random histories ----------------------------------------------------------------------------------------------------

const USERS = ["bob", "carol", "dave", "__proto__"];
const user = fc.constantFrom(...USERS);
const status = fc.constantFrom("online", "busy", "away", "offline");
const place = fc.nat(1_000);
const step = fc.oneof(
  fc.record({ do: fc.constant("change"), user, status }),
  fc.record({ do: fc.constant("batch"), changes: fc.array(fc.tuple(user, status), { minLength: 1, maxLength: 4 }) }),
  fc.record({ do: fc.constant("self") }),
  fc.record({ do: fc.constant("remove"), user }),
  fc.record({ do: fc.constant("sync") }),
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom("deliver", "deliver", "repeat", "drop"), place }) },
);

/** A service, a client, and frames in flight, which may be delivered in any order, twice, or never. */
class History {
  service = new Service({ users: USERS });
  me = this.service.connect();
  state = initial;
  inFlight = this.service.snapshot({ connectionId: this.me, id: "s0" });
  requests = new Map(); // message id → its `seq`
  steps = {
    change: ({ user: userId, status: to }) => this.send(this.service.change(userId, to)),
    batch: ({ changes: all }) => this.send(this.service.batch(all)),
    self: () => this.send(this.service.selfFrame(this.me)),
    remove: ({ user: userId }) => this.service.contacts.has(userId) && this.send(this.service.remove(userId)),
    sync: () => this.send(...this.sync()),
    deliver: ({ place: at }) => this.pick(at, (index) => this.receive(...this.inFlight.splice(index, 1))),
    repeat: ({ place: at }) => this.pick(at, (index) => this.receive(this.inFlight[index])),
    drop: ({ place: at }) => this.pick(at, (index) => this.inFlight.splice(index, 1)),
  };

  send(...frames) {
    this.inFlight.push(...frames);
  }

  pick(at, use) {
    if (this.inFlight.length) use(at % this.inFlight.length);
  }

  receive(frame) {
    const before = this.state.seq;
    this.state = reduce(this.state, frame, this.requests.get(frame.id) ?? null);
    assert.ok(before === null || this.state.seq >= before, "seq never moves back");
  }

  sync() {
    const id = `s${this.requests.size + 1}`;
    this.requests.set(id, this.state.seq);
    return this.service.snapshot({ connectionId: this.me, id, resumed: this.state.seq === this.service.feed });
  }

  /** The sync that a client sends after a gap, or after a heartbeat that reveals a lost last frame. */
  recover() {
    if (hasGap(this.state) || this.state.seq !== this.service.feed)
      for (const frame of this.sync()) this.receive(frame);
  }
}

test("any history of reordered, repeated and lost frames ends with the service's state", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 5 }), (steps, partSize) => {
      const history = new History();
      history.service.partSize = partSize;
      for (const each of steps) history.steps[each.do](each);
      for (const frame of history.inFlight) history.receive(frame);
      history.recover();
      const { state, service } = history;
      assert.ok(!hasGap(state));
      assert.equal(state.seq, service.feed);
      for (const [userId, record] of service.contacts) assert.deepEqual(state.users.get(userId), record);
      // A removed user is absent, or offline until the next snapshot.
      for (const [userId, record] of state.users)
        assert.ok(service.contacts.has(userId) || record.status === "offline");
      assert.deepEqual(state.self, service.self(history.me));
    }),
    RUNS,
  );
});

test("without losses no sync is needed, in any order of frames", () => {
  const harmless = step.filter((each) => each.do !== "drop");
  fc.assert(
    fc.property(fc.array(harmless, { maxLength: 60 }), fc.infiniteStream(place), (steps, places) => {
      const history = new History();
      for (const each of steps) history.steps[each.do](each);
      while (history.inFlight.length) history.steps.deliver({ place: places.next().value });
      assert.ok(!hasGap(history.state));
      assert.equal(history.state.seq, history.service.feed);
      for (const [userId, record] of history.service.contacts)
        assert.deepEqual(history.state.users.get(userId), record);
    }),
    RUNS,
  );
});
