/**
 * What frames mean: a state and a frame give the next state, by the rules of docs/protocol.md, "What a client must do".
 * Pure: time is an argument, and the need for a `sync` is a value returned. No sockets, clocks or events, and no state
 * is changed in place. docs/vectors.json has sequences of frames with the expected states.
 *
 * @typedef {import("./presence.d.ts").State} State
 * @typedef {import("./presence.d.ts").Step} Step
 */

const HOLE_TIMEOUT = 2_000; // ms that a missing frame may be late

/** The state before the first frame. Maps, because a user may be called `__proto__`. @type {State} */
export const initial = Object.freeze({
  users: new Map(),
  self: null,
  seq: null, // every frame up to this number has been applied; only a snapshot sets the first one
  ats: new Map(), // user → number of the frame or snapshot that last set the user's record
  selfAt: 0, // the same for `self`
  snapshotSeq: 0, // the number of the last snapshot
  kept: new Map(), // number → frame beyond a hole
  holeSince: null, // when the hole appeared, in ms of the caller's clock
  parts: new Map(), // name → incomplete snapshot
});

/**
 * Apply a frame. Frames of unknown types change nothing, and neither do answers to queries.
 *
 * @param {State} state
 * @param {object} frame
 * @param {number} now ms of any clock, the same one in each call
 * @returns {Step} `sync`: whether the client must send a `sync`, with the `seq` of the new state
 */
export function receive(state, frame, now) {
  switch (frame.type) {
    case "user_online":
    case "user_offline":
    case "presence_status":
    case "presence_batch":
    case "presence_self":
      return receiveNumbered(state, frame, now);
    case "presence_snapshot":
      return frame.resumed ? { state: setSelf(state, frame), sync: false } : receivePart(state, frame, now);
    case "error":
      return isSeqRefused(frame) ? { state: forgetNumbers(state), sync: true } : { state, sync: false };
    default:
      return { state, sync: false };
  }
}

/** Look at the clock: a hole that stays too long means a lost frame. @returns {Step} */
export function tick(state, now) {
  const at = nextTick(state);
  if (at === null || now < at) return { state, sync: false };
  return { state: { ...state, kept: initial.kept, holeSince: null }, sync: true };
}

/** When to call `tick`, in ms of the clock; null if there is no hole. */
export const nextTick = ({ holeSince }) => (holeSince === null ? null : holeSince + HOLE_TIMEOUT);

/**
 * The differences between two states' `users`, as `{userId, user, previous}`; `user` and `previous` are null where the
 * user is absent. Equal records are no difference, however often they were set.
 */
export function* changes({ users: before }, { users: after }) {
  if (before === after) return;
  for (const [userId, previous] of before) if (!after.has(userId)) yield { userId, user: null, previous };
  for (const [userId, user] of after) {
    const previous = before.get(userId) ?? null;
    if (!isEqual(user, previous)) yield { userId, user, previous };
  }
}

/** Whether the snapshot that a frame belongs to needs no further part. */
export const isComplete = (state, frame) => !state.parts.has(frame.snapshot);

/** Whether a frame says that the service cannot have given the `seq` that it was sent. */
export const isSeqRefused = ({ type, field }) => type === "error" && field === "seq";

/** Keep a numbered frame, then apply what is in order: before the first snapshot nothing is. */
function receiveNumbered(state, frame, now) {
  const { seq, kept } = state;
  if (kept.has(frame.seq)) return { state, sync: false };
  return advance({ ...state, kept: new Map(kept).set(frame.seq, frame) }, seq, now);
}

/**
 * Apply the kept frames that follow `seq`. A frame that is not above it is a duplicate, or older than a snapshot; one
 * whose `prev` is below it belongs to numbers that the store lost. `seqBefore` is where a hole that was known before
 * begins.
 */
function advance(state, seqBefore, now) {
  if (state.seq === null) return { state, sync: false };
  const kept = new Map();
  let [next, sync] = [state, false];
  for (const [number, frame] of [...state.kept].sort(([one], [other]) => one - other)) {
    if (number <= next.seq) continue;
    if (frame.prev > next.seq) kept.set(number, frame);
    else if (frame.prev === next.seq) next = applyNumbered(next, frame);
    else sync = true;
  }
  const hole = next.seq === seqBefore ? (state.holeSince ?? now) : now;
  return { state: { ...next, kept, holeSince: kept.size > 0 ? hole : null }, sync };
}

function applyNumbered(state, frame) {
  const { seq } = frame;
  if (frame.type === "presence_self") return { ...state, self: frame.self, selfAt: seq, seq };
  const ats = new Map(state.ats);
  const users = new Map(state.users);
  for (const { type, seq: _, prev, ...record } of frame.events ?? [frame]) {
    ats.set(record.userId, seq);
    users.set(record.userId, record);
  }
  return { ...state, users, ats, seq };
}

/** Collect the parts of a snapshot, and apply it when all have arrived. A snapshot older than the last is ignored. */
function receivePart(state, frame, now) {
  if (frame.seq < state.snapshotSeq) return { state, sync: false };
  const { part, parts: count, snapshot: name, seq } = frame;
  const before = state.parts.get(name) ?? { seq, frames: new Map() };
  const frames = new Map(before.frames).set(part, frame);
  const parts = new Map(state.parts).set(name, { seq, frames });
  if (frames.size < count) return { state: { ...state, parts }, sync: false };
  parts.delete(name);
  for (const [other, { seq: otherSeq }] of parts) if (otherSeq < seq) parts.delete(other);
  const records = [...frames.values()].flatMap(({ users }) => users);
  return advance(applySnapshot({ ...state, parts }, frames.get(1), records), state.seq, now);
}

/** A snapshot decides: only what a frame with a higher number said stays. */
function applySnapshot(state, first, records) {
  const { seq } = first;
  const isNewer = ([, at]) => at > seq;
  const ats = new Map([...state.ats].filter(isNewer));
  const users = new Map([...ats.keys()].map((userId) => [userId, state.users.get(userId)]));
  for (const record of records) {
    if (users.has(record.userId)) continue;
    ats.set(record.userId, seq);
    users.set(record.userId, record);
  }
  return { ...setSelf(state, first), users, ats, seq: Math.max(state.seq ?? 0, seq), snapshotSeq: seq };
}

const setSelf = (state, { seq, self }) => (state.selfAt <= seq ? { ...state, self, selfAt: seq } : state);

/** Keep only what is shown: the next snapshot decides, whatever its number. */
const forgetNumbers = ({ users, self }) => ({ ...initial, users, self });

/** Whether two JSON values are equal, in whatever order their fields came. */
function isEqual(one, other) {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return false;
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => isEqual(one[name], other[name]));
}
