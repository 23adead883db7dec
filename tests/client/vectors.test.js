/** docs/vectors.json: each sequence ends with the expected state, requests and change events. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { changes, initial, nextTick, receive, tick } from "../../client/reducer.js";

const { vectors } = JSON.parse(readFileSync(new URL("../../docs/vectors.json", import.meta.url), "utf8"));

/** The frame on the wire that an arrival stands for. */
function frameOf({ frame, snapshot, part, resumed, answer }, name) {
  if (frame?.self) return { type: "presence_self", ...frame };
  if (frame) {
    const { records: events, ...numbers } = frame;
    if (events.length === 1) return { type: "presence_status", ...numbers, ...events[0] };
    return { type: "presence_batch", ...numbers, events };
  }
  if (snapshot) {
    return { type: "presence_snapshot", snapshot: name, resumed: false, part: 1, parts: 1, self: null, ...snapshot };
  }
  if (part) return { type: "presence_snapshot", resumed: false, ...part };
  if (resumed) return { type: "presence_snapshot", resumed: true, ...resumed };
  if (answer) return { type: "presence", id: "q1", part: 1, parts: 1, ...answer };
  return { type: "error", code: "invalid_message", field: "seq", message: "above what was given" };
}

/** A change event as text, to compare lists in any order. */
const text = ({ t, userId, status }) => JSON.stringify([t, userId, status]);

for (const { name, arrivals, expect } of vectors) {
  test(name, () => {
    let state = initial;
    const [actions, events] = [[], []];
    for (const [place, arrival] of arrivals.entries()) {
      const { t } = arrival;
      const before = structuredClone(state);
      const next = arrival.tick ? tick(state, t) : receive(state, frameOf(arrival, `whole ${place}`), t);
      assert.deepEqual(state, before, "a state is never changed in place");
      if (next.sync) actions.push({ t, do: "sync", seq: next.state.seq });
      for (const { userId, user } of changes(state, next.state)) {
        events.push({ t, userId, status: user?.status ?? null });
      }
      state = next.state;
      if (arrival.tick) assert.ok((nextTick(state) ?? Infinity) > t, "after a look at the clock none is due");
    }
    assert.equal(state.seq, expect.seq);
    const statuses = [...state.users].map(([userId, { status }]) => [userId, status]);
    assert.deepEqual(statuses.sort(), Object.entries(expect.users).sort());
    if ("self" in expect) assert.equal(state.self.status, expect.self);
    assert.deepEqual(actions, expect.actions);
    if (expect.changes) assert.deepEqual(events.map(text).sort(), expect.changes.map(text).sort());
  });
}
