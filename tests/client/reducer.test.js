/** What frames mean, and that in whatever order and however often they come, the picture ends as the service's. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import fc from "fast-check";

import { changes, hasHole, initial, isWhole, reduce } from "../../client/reducer.js";
import { Service } from "./service.js";

const RUNS = { numRuns: process.env.CI ? 2_000 : 500 };
const through = (frames, state = initial) => frames.reduce((known, frame) => reduce(known, frame), state);
const statuses = ({ users }) => Object.fromEntries([...users].map(([userId, { status }]) => [userId, status]));

function started(...users) {
  const service = new Service({ users });
  const me = service.connect();
  return { service, me, state: through(service.snapshot({ connectionId: me })) };
}

test("a snapshot tells everything, and frames go on from it", () => {
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

test("the highest rev wins in every frame, and a frame may come twice", () => {
  const { service, state } = started("bob");
  const [online, busy] = [service.change("bob", "online"), service.change("bob", "busy")];
  assert.deepEqual(statuses(through([busy, online, busy, online], state)), { bob: "busy" });
});

test("a hole is seen, and is none when the frame was only late", () => {
  const { service, state } = started("bob", "carol");
  const [first, second, third] = ["online", "busy", "away"].map((status) => service.change("bob", status));
  const holed = through([third, first], state);
  assert.ok(hasHole(holed));
  assert.equal(holed.seq, first.seq);
  const whole = reduce(holed, second);
  assert.ok(!hasHole(whole));
  assert.equal(whole.seq, third.seq);
});

test("a snapshot is valid when all its parts have come, in any order", () => {
  const { service, me, state } = started("bob", "carol", "dave");
  service.partSize = 1;
  service.change("bob", "online");
  const [one, two, three] = service.snapshot({ connectionId: me, id: "s1" });
  const most = through([three, one, one], state);
  assert.deepEqual(statuses(most), statuses(state));
  assert.ok(!isWhole(most, two));
  const all = reduce(most, two);
  assert.ok(isWhole(all, two));
  assert.equal(all.users.get("bob").status, "online");
});

test("a whole snapshot leaves nothing of what came before it", () => {
  const { service, me, state } = started("bob", "carol");
  service.partSize = 1;
  const [half] = service.snapshot({ connectionId: me, id: "s1" });
  const told = through([half, service.change("bob", "online")], state);
  const after = through(service.snapshot({ connectionId: me, id: "s2" }), told);
  assert.deepEqual([told.told.size, told.parts.size], [1, 1]);
  assert.deepEqual([after.told.size, after.parts.size, after.ahead.size], [0, 0, 0]);
});

test("parts of two snapshots with one number are not mixed up", () => {
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

test("a snapshot drops who is absent from it, except who was told of since", () => {
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

test("a late frame does not bring back who was dropped", () => {
  const { service, me, state } = started("bob");
  const online = service.change("bob", "online");
  service.remove("bob");
  assert.equal(through([...service.snapshot({ connectionId: me }), online], state).users.size, 0);
});

test("a snapshot that was overtaken changes nothing", () => {
  const { service, me, state } = started("bob");
  const old = service.snapshot({ connectionId: me });
  const after = reduce(state, service.change("bob", "online"));
  assert.deepEqual(through(old, after), after);
});

test("an answer below what was asked with begins anew, since the service lost its last seconds", () => {
  const { service, me, state } = started("bob", "carol");
  const later = reduce(state, service.change("bob", "online"));
  const lost = started("bob", "dave").service;
  const [frame] = lost.snapshot({ connectionId: me, id: "s2" });
  assert.deepEqual(statuses(reduce(later, frame)), { bob: "online", carol: "offline" }); // not ours: only late
  const anew = reduce(later, frame, later.seq);
  assert.deepEqual(statuses(anew), { bob: "offline", dave: "offline" });
  assert.equal(anew.seq, lost.feed);
});

test("resumed says that nothing was missed", () => {
  const { service, me, state } = started("bob");
  const [frame] = service.snapshot({ connectionId: me, resumed: true });
  assert.equal(reduce(state, frame).users, state.users);
});

test("one's own state is the newest, whatever the order", () => {
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

test("a stranger's record, which has no rev, never enters the picture", () => {
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

test("asking about somebody who is no contact any more does not bring them back", () => {
  const { state } = started("bob");
  const frozen = { ...state.users.get("bob"), userId: "mallory" };
  assert.deepEqual(statuses(reduce(state, { type: "presence", users: [frozen] })), { bob: "offline" });
});

test("an answer to a query is news of a contact", () => {
  const { state } = started("bob");
  const users = [{ ...state.users.get("bob"), status: "busy", rev: state.users.get("bob").rev + 1 }];
  assert.deepEqual(statuses(reduce(state, { type: "presence", users })), { bob: "busy" });
});

test("a user may have any name", () => {
  const { service, state } = started("__proto__", "constructor");
  const after = reduce(state, service.change("__proto__", "online"));
  assert.equal(after.users.get("__proto__").status, "online");
  assert.equal(after.users.size, 2);
});

test("fields and frames that are not known are ignored", () => {
  const { service, state } = started("bob");
  assert.equal(reduce(state, { type: "weather", seq: 7 }), state);
  assert.equal(reduce(state, { message: "Internal server error", connectionId: "C=", requestId: "r" }), state);
  const after = reduce(state, { ...service.change("bob", "online"), mood: "fine" });
  assert.equal(after.users.get("bob").mood, "fine");
});

test("changes tells what differs between two pictures", () => {
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

test("every frame that docs/protocol.md shows is understood", () => {
  const text = readFileSync(new URL("../../docs/protocol.md", import.meta.url), "utf8");
  const frames = [...text.matchAll(/```json server\n(.+?)```/gs)].map(([, frame]) => JSON.parse(frame));
  assert.ok(frames.length >= 8);
  const snapshot = frames.find(({ type }) => type === "presence_snapshot");
  const before = reduce(initial, { ...snapshot, seq: 1_764_000_000_006 });
  const told = through(
    frames.filter((frame) => frame !== snapshot),
    before,
  );
  assert.deepEqual(statuses(told), { bob: "online", carol: "offline" });
  assert.equal(told.self.claim.status, "busy");
  assert.deepEqual(statuses(reduce(told, snapshot)), { bob: "online" }); // whose rev is higher than the snapshot's
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
  fc.record({ do: fc.constant("ask") }),
  { weight: 6, arbitrary: fc.record({ do: fc.constantFrom("deliver", "deliver", "repeat", "drop"), place }) },
);

/** A service, a client, and frames on their way from one to the other, of which anything may become. */
class History {
  service = new Service({ users: USERS });
  me = this.service.connect();
  state = initial;
  onTheWay = this.service.snapshot({ connectionId: this.me, id: "s0" });
  asked = new Map(); // message id → the `seq` that it carried
  steps = {
    change: ({ user: userId, status: to }) => this.send(this.service.change(userId, to)),
    batch: ({ changes: all }) => this.send(this.service.batch(all)),
    self: () => this.send(this.service.selfFrame(this.me)),
    remove: ({ user: userId }) => this.service.contacts.has(userId) && this.send(this.service.remove(userId)),
    ask: () => this.send(...this.ask()),
    deliver: ({ place: at }) => this.pick(at, (index) => this.receive(...this.onTheWay.splice(index, 1))),
    repeat: ({ place: at }) => this.pick(at, (index) => this.receive(this.onTheWay[index])),
    drop: ({ place: at }) => this.pick(at, (index) => this.onTheWay.splice(index, 1)),
  };

  send(...frames) {
    this.onTheWay.push(...frames);
  }

  pick(at, use) {
    if (this.onTheWay.length) use(at % this.onTheWay.length);
  }

  receive(frame) {
    const before = this.state.seq;
    this.state = reduce(this.state, frame, this.asked.get(frame.id) ?? null);
    assert.ok(before === null || this.state.seq >= before, "seq never moves back");
  }

  ask() {
    const id = `s${this.asked.size + 1}`;
    this.asked.set(id, this.state.seq);
    return this.service.snapshot({ connectionId: this.me, id, resumed: this.state.seq === this.service.feed });
  }

  /** What a client does about a hole, and a heartbeat about a frame that nothing came after. */
  recover() {
    if (hasHole(this.state) || this.state.seq !== this.service.feed)
      for (const frame of this.ask()) this.receive(frame);
  }
}

test("any history of reordered, repeated and lost frames ends in the service's picture", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 1, max: 5 }), (steps, partSize) => {
      const history = new History();
      history.service.partSize = partSize;
      for (const each of steps) history.steps[each.do](each);
      for (const frame of history.onTheWay) history.receive(frame);
      history.recover();
      const { state, service } = history;
      assert.ok(!hasHole(state));
      assert.equal(state.seq, service.feed);
      for (const [userId, record] of service.contacts) assert.deepEqual(state.users.get(userId), record);
      // Who was removed is gone, or was told of as offline and goes with the next snapshot.
      for (const [userId, record] of state.users)
        assert.ok(service.contacts.has(userId) || record.status === "offline");
      assert.deepEqual(state.self, service.self(history.me));
    }),
    RUNS,
  );
});

test("without losses no recovery is needed, and the order does not matter", () => {
  const harmless = step.filter((each) => each.do !== "drop");
  fc.assert(
    fc.property(fc.array(harmless, { maxLength: 60 }), fc.infiniteStream(place), (steps, places) => {
      const history = new History();
      for (const each of steps) history.steps[each.do](each);
      while (history.onTheWay.length) history.steps.deliver({ place: places.next().value });
      assert.ok(!hasHole(history.state));
      assert.equal(history.state.seq, history.service.feed);
      for (const [userId, record] of history.service.contacts)
        assert.deepEqual(history.state.users.get(userId), record);
    }),
    RUNS,
  );
});
