/**
 * A model of the service for one viewer: the contacts' records, the viewer's frame numbers, snapshots. It creates
 * frames and responds to messages; how they travel is in world.js.
 */

const EPOCH = 1_764_000_000_000;
export const HEARTBEAT_EVERY = 30_000;
export const ROTATE_AFTER = 6_600_000;

export class Service {
  feed = EPOCH;
  contacts = new Map(); // user → record
  connections = new Map(); // connection id → its device, with the applied `n`
  customStatus = null;
  claim = null;
  /** Users per part of a snapshot. */
  partSize = 100;
  /** When false, the response to every message is `unavailable`. */
  isAvailable = true;
  /** Whether lost sockets still count as connected. */
  keepsLost = false;
  #rev = EPOCH;
  #number = 0;

  constructor({ now = () => EPOCH, users = [] } = {}) {
    this.now = now;
    for (const userId of users) this.contacts.set(userId, this.#record(userId, "offline"));
  }

  // Changes, each as the frame that announces it

  change(userId, status) {
    const was = this.contacts.get(userId)?.status ?? "offline";
    this.contacts.set(userId, this.#record(userId, status));
    return this.#frame({ type: transition(was, status), ...this.contacts.get(userId) });
  }

  batch(changes) {
    const events = changes.map(([userId, status]) => {
      this.contacts.set(userId, this.#record(userId, status));
      return { type: "presence_status", ...this.contacts.get(userId) };
    });
    return this.#frame({ type: "presence_batch", events });
  }

  /** Remove a contact, which looks like going offline. */
  remove(userId) {
    this.contacts.delete(userId);
    return this.#frame({ type: "user_offline", ...this.#record(userId, "offline") });
  }

  selfFrame(connectionId) {
    return this.#frame({ type: "presence_self", self: this.self(connectionId) });
  }

  #frame(frame) {
    this.feed += 1;
    return { ...frame, seq: this.feed };
  }

  #record(userId, status) {
    this.#rev += 1;
    const isOffline = status === "offline";
    const [deviceType, lastSeen] = [isOffline ? null : "web", isOffline ? this.#rev : null];
    return { userId, status, customStatus: null, deviceType, lastSeen, rev: this.#rev };
  }

  // Connections

  connect(deviceId = "d1", status = "online") {
    this.#number += 1;
    const connectionId = `C${this.#number}=`;
    const n = { status: 0, claim: 0, customStatus: 0 };
    this.connections.set(connectionId, {
      connectionId,
      deviceId,
      status,
      n,
      connectedAt: this.now(),
      lastActive: this.now(),
    });
    return connectionId;
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
    const { action, id, seq } = message;
    if (!this.isAvailable) {
      return [{ type: "error", code: "unavailable", message: "Redis is away", id, retryAfter: 1_000 }];
    }
    switch (action) {
      case "sync":
        if (message.replaces) this.connections.delete(message.replaces);
        return this.snapshot({ id, connectionId, resumed: seq === this.feed });
      case "heartbeat":
        return seq === undefined || seq === this.feed ? [] : this.snapshot({ id, connectionId });
      case "presence_update":
        return this.#update(connectionId, message);
      case "get_presence":
        return [{ type: "presence", id, users: message.userIds.map((userId) => this.#view(userId)) }];
      default:
        return [];
    }
  }

  snapshot({ id, connectionId, resumed = false }) {
    const users = resumed ? [] : [...this.contacts.values()];
    const parts = Math.max(1, Math.ceil(users.length / this.partSize));
    return Array.from({ length: parts }, (_, place) => ({
      type: "presence_snapshot",
      ...(id && { id }),
      seq: this.feed,
      resumed,
      part: place + 1,
      parts,
      self: this.self(connectionId),
      users: users.slice(place * this.partSize, (place + 1) * this.partSize),
    }));
  }

  /** Set a status, a claim or a custom status; announce it only if it changes the user's state. */
  #update(connectionId, { id, n, status, scope, until, customStatus }) {
    if (customStatus?.text?.length > 140) {
      return [{ type: "error", code: "invalid_message", message: "too long", field: "customStatus.text", id }];
    }
    const connection = this.connections.get(connectionId);
    const before = JSON.stringify(this.self(connectionId).status) + JSON.stringify([this.claim, this.customStatus]);
    const newer = (field) => n > connection.n[field] && (connection.n[field] = n);
    if (status && scope === "user" && newer("claim"))
      this.claim = status === "online" ? null : { status, until: until ?? null };
    if (status && scope !== "user" && newer("status")) connection.status = status;
    if (customStatus !== undefined && newer("customStatus")) this.customStatus = customStatus;
    const after = JSON.stringify(this.self(connectionId).status) + JSON.stringify([this.claim, this.customStatus]);
    return before === after ? [] : [this.selfFrame(connectionId)];
  }

  #view(userId) {
    return this.contacts.get(userId) ?? { userId, status: "offline" };
  }
}

function transition(was, status) {
  if ((was === "offline") === (status === "offline")) return "presence_status";
  return status === "offline" ? "user_offline" : "user_online";
}
