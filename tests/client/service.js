/**
 * A model of the service for one viewer: the contacts' records, the viewer's frame numbers, snapshots. It creates
 * frames and responds to messages; how they travel is in world.js. Numbers are drawn by the service's own rules: each
 * frame has the number before it, a change that no socket receives leaves a number without a frame, and a store that
 * lost its last changes goes on above every number that it may have given.
 */

const EPOCH = 1_764_000_000_000;
export const HEARTBEAT_EVERY = 30_000;
export const ROTATE_AFTER = 6_600_000;
const FRESH = 2_000; // ms after a frame in which a heartbeat without it is not answered: it may be on its way
const LONGEST_LEAD = 600_000; // ms that a client's number may be above the clock
const AFTER_LOSS = 60_000; // ms above the clock: no number of a lost tail is given again
const GRACE = 10_000; // ms that a closed connection's status can be taken over
const NO_UPDATES = { status: 0, claim: 0, customStatus: 0 };

export class Service {
  feed = EPOCH; // the last number that was drawn
  contacts = new Map(); // user → record
  connections = new Map(); // connection id → its device, with the applied `n`; those of polling devices begin with P
  customStatus = null;
  claim = null;
  /** Users per part of a snapshot or of the response to a query. */
  partSize = 100;
  /** When false, the response to every message is `unavailable`. */
  isAvailable = true;
  /** Whether lost sockets still count as connected. */
  keepsLost = false;
  /** Called with the frames that other connections than the asking one get: `(connectionId, frame)`. */
  post = () => {};
  #hasGap = false; // something changed and no number was drawn
  #lostTail = false; // numbers may have been given that the store does not know
  #framedAt = EPOCH; // when the last number was drawn; 0 after one without a frame
  #closed = new Map(); // connection id → {status, at}: whose socket was closed
  #connected = 0;
  #snapshots = 0;

  constructor({ now = () => EPOCH, users = [] } = {}) {
    this.now = now;
    for (const userId of users) this.contacts.set(userId, this.#record(userId, "offline"));
  }

  // Changes, each as the frame that announces it; null if no socket is open

  change(userId, status) {
    const was = this.contacts.get(userId)?.status ?? "offline";
    return this.#frame(() => {
      this.contacts.set(userId, this.#record(userId, status));
      return { type: transition(was, status), ...this.contacts.get(userId) };
    });
  }

  /** Several changes in one frame; none: a number whose records vanished. */
  batch(changes) {
    return this.#frame(() => {
      for (const [userId, status] of changes) this.contacts.set(userId, this.#record(userId, status));
      const changed = new Set(changes.map(([userId]) => userId));
      const events = [...changed].map((userId) => ({ type: "presence_status", ...this.contacts.get(userId) }));
      return { type: "presence_batch", events };
    });
  }

  /** Remove a contact, which looks like going offline. */
  remove(userId) {
    return this.#frame(() => {
      this.contacts.delete(userId);
      return { type: "user_offline", ...this.#record(userId, "offline") };
    });
  }

  selfFrame(connectionId) {
    return this.#frame(() => ({ type: "presence_self", self: this.self(connectionId) }));
  }

  // Losses

  /** What the store holds now: `loseTail` returns to it. */
  save() {
    const { feed, contacts, connections, customStatus, claim } = this;
    return structuredClone({ feed, contacts, connections, customStatus, claim, hasGap: this.#hasGap });
  }

  /** The store failed over: everything since `saved` is lost. */
  loseTail(saved) {
    const { hasGap, ...fields } = structuredClone(saved);
    Object.assign(this, fields);
    this.#hasGap = hasGap;
    this.#lostTail = true;
  }

  // Numbers

  /** A change was lost on its way to the viewer: the next number is drawn without a frame. */
  skipNumber() {
    this.#hasGap = true;
  }

  /** A frame with its own number; what it contains is read after the number was drawn. */
  #frame(read) {
    if (![...this.connections.keys()].some((id) => !id.startsWith("P"))) {
      read();
      this.#hasGap = true;
      return null;
    }
    this.#mend();
    const prev = this.feed;
    this.#raise(this.now());
    this.#framedAt = this.now();
    return { ...read(), seq: this.feed, prev };
  }

  /** Before each draw and each comparison: a number without a frame, if a client may have missed something. */
  #mend() {
    if (!this.#lostTail && !this.#hasGap) return;
    this.#raise(this.now() + (this.#lostTail ? AFTER_LOSS : 0));
    this.#lostTail = this.#hasGap = false;
    this.#framedAt = 0;
  }

  #raise(least) {
    this.feed = Math.max(this.feed + 1, least);
  }

  /** Compare a client's number with the feed: `{isCurrent, isLate}`; late is what is not on its way any more. */
  #compare(seq) {
    this.#mend();
    if (seq > this.feed) {
      this.feed = Math.max(seq + 5_000, this.now());
      this.#framedAt = 0;
    }
    const isCurrent = seq === this.feed;
    return { isCurrent, isLate: seq !== undefined && !isCurrent && this.now() - this.#framedAt > FRESH };
  }

  #record(userId, status) {
    const isOffline = status === "offline";
    const [deviceType, lastSeen] = [isOffline ? null : "web", isOffline ? this.now() : null];
    return { userId, status, customStatus: null, deviceType, lastSeen };
  }

  // Connections

  connect(deviceId = "d1", status = "online") {
    this.#connected += 1;
    const connectionId = `C${this.#connected}=`;
    this.#open(connectionId, deviceId, status);
    return connectionId;
  }

  /** A socket was closed: its status waits for the connection that replaces it. */
  disconnect(connectionId) {
    const { status } = this.connections.get(connectionId) ?? {};
    if (this.connections.delete(connectionId)) this.#closed.set(connectionId, { status, at: this.now() });
  }

  /** End an older connection; its status applies to the newer one, unless an update has chosen one there. */
  #replace(connectionId, olderId) {
    const closed = this.#closed.get(olderId);
    const older = this.connections.get(olderId) ?? (closed && this.now() - closed.at < GRACE ? closed : undefined);
    const connection = this.connections.get(connectionId);
    if (older && connection.n.status === 0) connection.status = older.status;
    this.connections.delete(olderId);
    this.#closed.delete(olderId);
  }

  #open(connectionId, deviceId, status = "online") {
    const times = { connectedAt: this.now(), lastActive: this.now() };
    this.connections.set(connectionId, { connectionId, deviceId, status, n: { ...NO_UPDATES }, ...times });
  }

  self(connectionId) {
    const { n, connectedAt } = this.connections.get(connectionId) ?? {};
    const statuses = [...this.connections.values()].map(({ status }) => status);
    const best = ["online", "busy", "away"].find((status) => statuses.includes(status)) ?? "offline";
    return {
      userId: "me",
      connectionId,
      status: this.claim?.status ?? best,
      customStatus: this.customStatus,
      claim: this.claim,
      invisible: false,
      lastSeenPolicy: "everyone",
      devices: [...this.connections.values()].map(({ n: _, ...device }) => device),
      n: { ...n },
      heartbeatEvery: HEARTBEAT_EVERY,
      rotateAt: connectedAt + ROTATE_AFTER,
    };
  }

  /** The frames that respond to a message. */
  handle(connectionId, message) {
    const { action, id, seq, status } = message;
    if (!this.isAvailable) {
      return [{ type: "error", code: "unavailable", message: "Redis is away", id, retryAfter: 1_000 }];
    }
    const comparesSeq = action === "sync" || action === "heartbeat";
    if (comparesSeq && seq > this.now() + LONGEST_LEAD) {
      return [{ type: "error", code: "invalid_message", message: "is above the present", field: "seq", id }];
    }
    const isLost = !this.connections.has(connectionId);
    if (isLost && action !== "leave") this.#open(connectionId, message.deviceId ?? "d1", status);
    switch (action) {
      case "sync":
        if (message.replaces) this.#replace(connectionId, message.replaces);
        return this.snapshot({ id, connectionId, resumed: this.#compare(seq).isCurrent });
      case "heartbeat": {
        const updates = this.#repeatStatus(connectionId, message);
        const { isLate } = this.#compare(seq);
        return isLost || isLate ? [...updates, ...this.snapshot({ id, connectionId })] : updates;
      }
      case "presence_update":
        return this.#update(connectionId, message);
      case "get_presence":
        return this.#parts(message.userIds.map((userId) => this.#view(userId))).map((part) => ({
          type: "presence",
          id,
          ...part,
        }));
      default:
        return [];
    }
  }

  snapshot({ id, connectionId, resumed = false }) {
    const type = "presence_snapshot";
    const [seq, self, request] = [this.feed, this.self(connectionId), id && { id }];
    if (resumed) return [{ type, seq, resumed, ...request, self }];
    this.#snapshots += 1;
    const snapshot = `snapshot ${this.#snapshots}`;
    return this.#parts([...this.contacts.values()]).map((part) => ({
      type,
      snapshot,
      seq,
      resumed,
      ...request,
      ...(part.part === 1 && { self }),
      ...part,
    }));
  }

  #parts(users) {
    const parts = Math.max(1, Math.ceil(users.length / this.partSize));
    return Array.from({ length: parts }, (_, place) => ({
      part: place + 1,
      parts,
      users: users.slice(place * this.partSize, (place + 1) * this.partSize),
    }));
  }

  /** A heartbeat's status counts like the update whose number it carries, if the store has lost that. */
  #repeatStatus(connectionId, { status, n }) {
    return n > this.connections.get(connectionId).n.status ? this.#update(connectionId, { status, n }) : [];
  }

  /** Set a status, a claim or a custom status; every connection is notified of an applied one that has a number. */
  #update(connectionId, { id, n, status, scope, until, customStatus }) {
    if (customStatus?.text?.length > 140) {
      return [{ type: "error", code: "invalid_message", message: "too long", field: "customStatus.text", id }];
    }
    const connection = this.connections.get(connectionId);
    const shown = () => JSON.stringify([this.self(connectionId).status, this.claim, this.customStatus]);
    const before = shown();
    let isApplied = false;
    const isNewer = (field) => {
      if (n !== undefined && n <= connection.n[field]) return false;
      if (n !== undefined) connection.n[field] = n;
      return (isApplied = true);
    };
    if (status && scope === "user" && isNewer("claim"))
      this.claim = status === "online" ? null : { status, until: until ?? null };
    if (status && scope !== "user" && isNewer("status")) connection.status = status;
    if (customStatus !== undefined && isNewer("customStatus")) this.customStatus = customStatus;
    if (!isApplied || (n === undefined && before === shown())) return [];
    const frame = this.selfFrame(connectionId);
    if (frame === null) return [];
    for (const other of this.connections.keys()) {
      if (other !== connectionId) this.post(other, { ...frame, self: this.self(other) });
    }
    return [frame];
  }

  #view(userId) {
    return this.contacts.get(userId) ?? { userId, status: "offline" };
  }
}

function transition(was, status) {
  if ((was === "offline") === (status === "offline")) return "presence_status";
  return status === "offline" ? "user_offline" : "user_online";
}
