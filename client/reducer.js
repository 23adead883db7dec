/**
 * What a client knows: frames of the service go in, the next state comes out. The rules are those of docs/protocol.md,
 * "What a client must do". No sockets, no clocks, no events, and no state is ever changed in place.
 *
 * @typedef {import("./presence.d.ts").State} State
 * @typedef {import("./presence.d.ts").PresenceRecord} PresenceRecord
 */

/** Nothing is known yet. Maps, since a user may be called `__proto__`. @type {State} */
export const initial = Object.freeze({
  users: new Map(),
  self: null,
  selfSeq: 0, // the number of the frame that told `self`
  seq: null, // nothing up to this number is missing; only a snapshot can say where numbers begin
  ahead: new Set(), // the numbers that came from beyond a hole
  told: new Map(), // user → number of the latest frame about them that no snapshot contains yet
  parts: new Map(), // the snapshots of which some parts are still to come
});

/** Whether a frame is missing, for now: it may only be late. */
export const hasHole = (state) => state.seq !== null && state.ahead.size > 0;

/** Whether the snapshot that a frame is a part of has come whole. */
export const isWhole = (state, frame) => !state.parts.has(snapshotOf(frame));

/**
 * Take one frame of any type. Types that tell nothing about presence change nothing.
 *
 * @param {State} state
 * @param {object} frame
 * @param {number | null} [asked] the `seq` that the request carried which this frame answers
 * @returns {State}
 */
export function reduce(state, frame, asked = null) {
  switch (frame.type) {
    case "user_online":
    case "user_offline":
    case "presence_status":
      return number(state, frame.seq, [frame]);
    case "presence_batch":
      return number(state, frame.seq, frame.events);
    case "presence_self":
      return number(tellSelf(state, frame), frame.seq, []);
    case "presence_snapshot":
      return assemble(state, frame, asked);
    case "presence": // whoever is not in the picture does not come into it by being asked about
      return {
        ...state,
        users: learn(
          state.users,
          frame.users.filter(({ userId }) => state.users.has(userId)),
        ),
      };
    default:
      return state;
  }
}

/** What differs between two pictures, as `{userId, user, previous}`; null for who was or is not known. */
export function* changes(before, after) {
  if (before === after) return;
  for (const [userId, previous] of before) if (!after.has(userId)) yield { userId, user: null, previous };
  for (const [userId, user] of after) {
    const previous = before.get(userId) ?? null;
    if (user !== previous) yield { userId, user, previous };
  }
}

function number(state, seq, events) {
  // It was received before, or a snapshot was read after it: then a user it names may have been dropped since.
  if (state.seq !== null && seq <= state.seq) return state;
  const told = new Map(state.told);
  for (const { userId } of events) told.set(userId, Math.max(seq, told.get(userId) ?? 0));
  return closeUp({ ...state, users: learn(state.users, events), told, ahead: new Set(state.ahead).add(seq) });
}

/** The highest `rev` of a user wins, whatever the order; a record without one is a stranger's. */
function learn(users, records) {
  let next = users;
  for (const { type, seq, ...record } of records) {
    if (!(record.rev > (next.get(record.userId)?.rev ?? -1))) continue;
    if (next === users) next = new Map(users);
    next.set(record.userId, record);
  }
  return next;
}

function tellSelf(state, { seq, self }) {
  return seq > state.selfSeq ? { ...state, self, selfSeq: seq } : state;
}

/** Move `seq` over the frames that have come. */
function closeUp(state) {
  if (state.seq === null) return state;
  let { seq } = state;
  while (state.ahead.has(seq + 1)) seq += 1;
  return { ...state, seq, ahead: new Set([...state.ahead].filter((each) => each > seq)) };
}

const snapshotOf = ({ id, seq, parts }) => JSON.stringify([id, seq, parts]);

/** A snapshot is valid when all its parts have come. */
function assemble(state, frame, asked) {
  const { seq, users } = state.parts.get(snapshotOf(frame)) ?? { seq: frame.seq, users: new Map() };
  const came = new Map(users).set(frame.part, frame.users);
  const parts = new Map(state.parts).set(snapshotOf(frame), { seq, users: came });
  if (came.size < frame.parts) return { ...state, parts };
  parts.delete(snapshotOf(frame));
  return replace({ ...state, parts }, frame, [...came.values()].flat(), asked);
}

/** A whole snapshot takes the place of all that is older than itself. */
function replace(state, { seq, resumed, self }, records, asked) {
  // Behind what it answers: the service lost its last seconds, and neither numbers nor revs from there mean anything.
  if (asked !== null && seq < asked) return replace(initial, { seq, resumed, self }, records, null);
  if (state.seq !== null && seq < state.seq) return state; // overtaken on its way
  const listed = new Map(records.filter(({ rev }) => rev !== undefined).map((record) => [record.userId, record]));
  const gone = (userId) => !resumed && !listed.has(userId) && !(state.told.get(userId) > seq);
  return closeUp({
    ...state,
    ...(seq >= state.selfSeq && { self, selfSeq: seq }),
    users: learn(without(state.users, gone), listed.values()),
    seq,
    told: new Map([...state.told].filter(([, told]) => told > seq)),
    parts: new Map([...state.parts].filter(([, part]) => part.seq > seq)),
  });
}

function without(users, gone) {
  const stay = [...users].filter(([userId]) => !gone(userId));
  return stay.length === users.size ? users : new Map(stay);
}
