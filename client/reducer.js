/**
 * What frames mean: a state and a frame give the next state, by the rules of docs/protocol.md, "What a client must do".
 * Pure: no sockets, clocks or events, and no state is changed in place.
 *
 * @typedef {import("./presence.d.ts").State} State
 * @typedef {import("./presence.d.ts").PresenceRecord} PresenceRecord
 */

/** The state before the first frame. Maps, because a user may be called `__proto__`. @type {State} */
export const initial = Object.freeze({
  users: new Map(),
  self: null,
  selfSeq: 0, // the number of the frame that `self` came with
  seq: null, // every frame up to this number has arrived; only a snapshot sets the first one
  ahead: new Set(), // the numbers of frames that arrived beyond a gap
  userSeqs: new Map(), // user → number of the latest frame about the user that no snapshot includes yet
  parts: new Map(), // snapshots with missing parts
});

/** Whether a frame is missing; it may only be late. */
export const hasGap = (state) => state.seq !== null && state.ahead.size > 0;

/** Whether all parts of a frame's snapshot have arrived. */
export const isComplete = (state, frame) => !state.parts.has(snapshotKey(frame));

/**
 * Apply a frame. Frames of unknown types change nothing.
 *
 * @param {State} state
 * @param {object} frame
 * @param {number | null} [requestSeq] the `seq` of the request that the frame answers
 * @returns {State}
 */
export function reduce(state, frame, requestSeq = null) {
  switch (frame.type) {
    case "user_online":
    case "user_offline":
    case "presence_status":
      return applyEvents(state, frame.seq, [frame]);
    case "presence_batch":
      return applyEvents(state, frame.seq, frame.events);
    case "presence_self":
      return applyEvents(applySelf(state, frame), frame.seq, []);
    case "presence_snapshot":
      return addPart(state, frame, requestSeq);
    case "presence": {
      // A query adds nobody: only snapshots and events do.
      const known = frame.users.filter(({ userId }) => state.users.has(userId));
      return { ...state, users: merge(state.users, known) };
    }
    default:
      return state;
  }
}

/**
 * The differences between two states' `users`, as `{userId, user, previous}`; `user` and `previous` are null where the
 * user is absent.
 */
export function* changes(before, after) {
  if (before === after) return;
  for (const [userId, previous] of before) if (!after.has(userId)) yield { userId, user: null, previous };
  for (const [userId, user] of after) {
    const previous = before.get(userId) ?? null;
    if (user !== previous) yield { userId, user, previous };
  }
}

function applyEvents(state, seq, events) {
  // A duplicate, or older than a snapshot that may have dropped its users.
  if (state.seq !== null && seq <= state.seq) return state;
  const userSeqs = new Map(state.userSeqs);
  for (const { userId } of events) userSeqs.set(userId, Math.max(seq, userSeqs.get(userId) ?? 0));
  const ahead = new Set(state.ahead).add(seq);
  return advance({ ...state, users: merge(state.users, events), userSeqs, ahead });
}

/** Keep the record with the highest `rev` of each user, in any order of arrival. Strangers' records have no `rev`. */
function merge(users, records) {
  let next = users;
  for (const { type, seq, ...record } of records) {
    if (!(record.rev > (next.get(record.userId)?.rev ?? -1))) continue;
    if (next === users) next = new Map(users);
    next.set(record.userId, record);
  }
  return next;
}

function applySelf(state, { seq, self }) {
  return seq > state.selfSeq ? { ...state, self, selfSeq: seq } : state;
}

/** Move `seq` to the last frame before the first gap. */
function advance(state) {
  if (state.seq === null) return state;
  let { seq } = state;
  while (state.ahead.has(seq + 1)) seq += 1;
  return { ...state, seq, ahead: new Set([...state.ahead].filter((number) => number > seq)) };
}

const snapshotKey = ({ id, seq, parts }) => JSON.stringify([id, seq, parts]);

/** Keep a part of a snapshot; apply the snapshot when all parts have arrived. */
function addPart(state, frame, requestSeq) {
  const { seq, users } = state.parts.get(snapshotKey(frame)) ?? { seq: frame.seq, users: new Map() };
  const received = new Map(users).set(frame.part, frame.users);
  const parts = new Map(state.parts).set(snapshotKey(frame), { seq, users: received });
  if (received.size < frame.parts) return { ...state, parts };
  parts.delete(snapshotKey(frame));
  return applySnapshot({ ...state, parts }, frame, [...received.values()].flat(), requestSeq);
}

/** A complete snapshot replaces everything older than itself. */
function applySnapshot(state, { seq, resumed, self }, records, requestSeq) {
  // The service lost its last seconds, and with them the meaning of newer numbers and revs.
  if (requestSeq !== null && seq < requestSeq) return applySnapshot(initial, { seq, resumed, self }, records, null);
  if (state.seq !== null && seq < state.seq) return state; // newer frames overtook it
  const listed = new Map(records.filter(({ rev }) => rev !== undefined).map((record) => [record.userId, record]));
  const isGone = (userId) => !resumed && !listed.has(userId) && !(state.userSeqs.get(userId) > seq);
  return advance({
    ...state,
    ...(seq >= state.selfSeq && { self, selfSeq: seq }),
    users: merge(without(state.users, isGone), listed.values()),
    seq,
    userSeqs: new Map([...state.userSeqs].filter(([, userSeq]) => userSeq > seq)),
    parts: new Map([...state.parts].filter(([, part]) => part.seq > seq)),
  });
}

function without(users, isGone) {
  const kept = [...users].filter(([userId]) => !isGone(userId));
  return kept.length === users.size ? users : new Map(kept);
}
