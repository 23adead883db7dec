/** The client of the presence service: stays connected by itself, and tells who is online. See docs/client.md. */

/** Milliseconds since the epoch. */
export type Time = number;
export type OnlineStatus = "online" | "busy" | "away";
export type Status = OnlineStatus | "offline";
export type DeviceType = "web" | "mobile" | "desktop";

export interface CustomStatus {
  /** At most 140 code points. */
  text?: string;
  /** At most 16 code points. */
  emoji?: string;
  /** When it ends by itself; without it, it stays. */
  until?: Time | null;
}

/** What a contact may see of a user. Of a stranger `query` gives `userId` and `status` alone. */
export interface PresenceRecord {
  readonly userId: string;
  readonly status: Status;
  readonly customStatus?: Readonly<CustomStatus> | null;
  /** That of the best device, null when offline. */
  readonly deviceType?: DeviceType | null;
  /** Null unless the user is offline and lets it be seen. */
  readonly lastSeen?: Time | null;
  /** Grows with every change. */
  readonly rev?: number;
}

/** One of one's own connections. */
export interface Device {
  readonly connectionId: string;
  readonly deviceId: string;
  readonly deviceType: DeviceType;
  readonly status: OnlineStatus;
  readonly connectedAt: Time;
  readonly lastActive: Time;
}

/** One's own real state, also while invisible. */
export interface OwnState {
  readonly userId: string;
  readonly connectionId?: string;
  readonly status: Status;
  readonly customStatus: Readonly<CustomStatus> | null;
  readonly claim: { readonly status: OnlineStatus; readonly until: Time | null } | null;
  readonly invisible: boolean;
  readonly lastSeenPolicy: "everyone" | "nobody";
  readonly devices: readonly Device[];
  /** The last update of this connection that was applied, for each field. */
  readonly n?: { readonly status: number; readonly claim: number; readonly customStatus: number };
  /** Milliseconds. */
  readonly heartbeatEvery?: number;
  readonly rotateAt?: Time;
}

/** One's own real state and what one hides. Nothing in it depends on who blocks one or hides. */
export interface Me extends Omit<OwnState, "connectionId" | "n" | "heartbeatEvery" | "rotateAt"> {
  readonly lastSeen: Time | null;
  /** What contacts see from whom one does not hide. */
  readonly visibleStatus: Status;
  /** What decided the real status. */
  readonly rule: "no_device" | "claim" | "grace" | "idle" | "device";
  /** The same in words. */
  readonly why: string;
  readonly hideFrom: readonly string[];
  readonly blocks: readonly string[];
}

/** What to change about what one hides; what is left out stays. */
export interface PrivacyChange {
  /** Offline to everybody. */
  invisible?: boolean;
  /** Who may see when one was last there. */
  lastSeen?: "everyone" | "nobody";
  /** Offline to these: replaces the list. At most 5,000. */
  hideFrom?: readonly string[];
}

/**
 * `connecting`: not connected (again) yet. `online`: live through a WebSocket. `polling`: through the HTTP API, so at
 * most a heartbeat old. `stale`: connected, but the service cannot say. `closed`: before `open` and after `close`.
 */
export type ConnectionState = "connecting" | "online" | "polling" | "stale" | "closed";

export type PresenceErrorCode =
  | "invalid_message" // see `field`
  | "unknown_action"
  | "rate_limited" // see `retryAfter`
  | "too_large"
  | "unavailable"
  | "unauthorized" // `token` gives none, or another person's; or the HTTP API refuses it, and a new one is asked for
  | "not_found" // nothing is there: is `httpUrl` that of the deployment?
  | "conflict" // over a limit, and nothing was done
  | "no_websocket" // handshakes are refused; with `httpUrl`, for no fault of the token: see `message`
  | "unreachable" // no WebSocket is to be had, and the HTTP API does not serve either
  | "offline" // there is no connection to ask on
  | "timeout"
  | "closed";

export class PresenceError extends Error {
  readonly code: PresenceErrorCode;
  /** The field that was wrong, dotted. */
  readonly field?: string;
  /** Everything that was wrong; `field` is the first of it. */
  readonly errors: readonly { readonly field: string; readonly message: string }[];
  /** The message that was refused. */
  readonly id?: string;
  /** Milliseconds after which the same may be accepted. */
  readonly retryAfter?: number;
}

export interface PresenceOptions {
  /** The WebSocket side, without a query: `wss://HOST/STAGE`. */
  url: string;
  /**
   * The HTTP side: `https://HOST`. Without it there is no polling where WebSockets fail, and no `me`,
   * `setPrivacy`, `block` and `unblock`.
   */
  httpUrl?: string;
  /**
   * Gives a token of the user who is signed in, always the same person. Called before a handshake; with `renew: true`
   * when the last one may have failed because of the token, or when a new connection is to outlive the old one's.
   */
  token: (wanted: { renew: boolean }) => string | Promise<string>;
  /** Where the deployment looks for tokens, its `token_source`; nothing tells a page. Default: `query`. */
  tokenSource?: "query" | "subprotocol";
  /** 1 to 64 characters of `A-Z a-z 0-9 . _ -`. Default: one for all tabs of this browser, kept in localStorage. */
  deviceId?: string;
  /** Default: `web`. */
  deviceType?: DeviceType;
  /** At most 64 characters. Default: `navigator.platform`. */
  platform?: string;
  /**
   * After a loss the first WebSocket comes within so many milliseconds, at a random moment. Default: 25,000, for 10,000
   * clients that are cut at once; 2,000 do for 800. Where it comes after 8 s, the HTTP side holds the place before that.
   */
  reconnectWithin?: number;

  /** The rest is for tests, and for places that are no browsers. */
  WebSocket?: new (
    url: string,
    protocols?: string[],
  ) => Pick<WebSocket, "send" | "close" | "readyState" | "addEventListener">;
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /** Whose pointer, keyboard and visibility tell whether the device is used. Default: the page, if there is one. */
  window?: Pick<
    Window,
    "addEventListener" | "removeEventListener" | "document" | "localStorage" | "sessionStorage"
  >;
  clock?: { now(): Time; setTimeout(action: () => void, wait: number): unknown; clearTimeout(timer: any): void };
  /** At least 0, below 1. */
  random?: () => number;
}

/** A contact's record before and after; null where the contact was or is not known. */
export interface Change {
  readonly userId: string;
  readonly user: PresenceRecord | null;
  readonly previous: PresenceRecord | null;
}

export interface PresenceEventMap {
  change: CustomEvent<Change>;
  self: CustomEvent<OwnState>;
  connection: CustomEvent<{ readonly state: ConnectionState; readonly reason: string }>;
  error: CustomEvent<PresenceError>;
}

/** An EventTarget, of these events alone. */
export class Presence {
  /** Throws a `TypeError` when an option cannot be right, or there is no WebSocket in this runtime. */
  constructor(options: PresenceOptions);

  /** Everybody in the picture: user id → record. Never changed in place: it can be kept and compared. */
  readonly users: ReadonlyMap<string, PresenceRecord>;
  /** One's own real state, or null before it is known. */
  readonly self: OwnState | null;
  readonly connection: ConnectionState;
  /** Whether the picture may be old: show it greyed. */
  readonly stale: boolean;

  /** Connect, and stay connected. */
  open(): void;
  /** Disconnect; contacts see it after the service's grace. The picture stays as it was. */
  close(): void;
  /** Sign out: contacts see it at once, unless another tab or device is there. */
  leave(): void;
  /**
   * Go over to a new connection with a new token. What there is serves until the new one does, contacts see nothing, and
   * where that fails it is tried again. A client that was closed is opened. Another person is another `Presence`.
   */
  reconnect(): void;
  /** The person used the device. In a page this is noticed by itself. */
  touch(): void;

  /**
   * Choose this connection's status. Like the two below it is told again after failures and reconnects; the promise is
   * kept when it is applied or a newer choice has taken its place, and broken with what the service refused. Before the
   * first `open` it waits for that; after `close` or `leave` it is refused with `closed`.
   */
  setStatus(status: OnlineStatus): Promise<void>;
  /** Claim a status over all of the user's devices, until a time or for good; null ends the claim. */
  setClaim(status: "busy" | "away" | null, until?: Time): Promise<void>;
  /** Say something in one's own words; null clears it. */
  setCustomStatus(customStatus: CustomStatus | null): Promise<void>;
  /** Ask about some users, contacts or not; gives their records in the same order. */
  query(userIds: readonly string[]): Promise<PresenceRecord[]>;

  /** One's own real state, what one hides, and why the status is what it is. This and the rest ask the HTTP API. */
  me(): Promise<Me>;
  /** Change what one hides: what is given replaces what was, the rest stays. */
  setPrivacy(change: PrivacyChange): Promise<void>;
  /** Neither sees the other any more; whoever is blocked sees one offline, and is not told why. */
  block(userId: string): Promise<void>;
  /** Block somebody no longer; what else is hidden stays hidden. */
  unblock(userId: string): Promise<void>;

  addEventListener<Name extends keyof PresenceEventMap>(
    type: Name,
    listener: (event: PresenceEventMap[Name]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Name extends keyof PresenceEventMap>(
    type: Name,
    listener: (event: PresenceEventMap[Name]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
}

/** What a client knows; see reducer.js. */
export interface State {
  readonly users: ReadonlyMap<string, PresenceRecord>;
  readonly self: OwnState | null;
  readonly selfSeq: number;
  /** Nothing up to this frame number is missing; null before the first snapshot. */
  readonly seq: number | null;
  readonly ahead: ReadonlySet<number>;
  readonly told: ReadonlyMap<string, number>;
  /** Snapshots of which some parts are still to come: part → its users. */
  readonly parts: ReadonlyMap<
    string,
    { readonly seq: number; readonly users: ReadonlyMap<number, readonly PresenceRecord[]> }
  >;
}

export const initial: State;

/** The state after a frame. `asked`: the `seq` that the request carried which the frame answers. */
export function reduce(state: State, frame: object, asked?: number | null): State;

/** What differs between two pictures. */
export function changes(
  before: ReadonlyMap<string, PresenceRecord>,
  after: ReadonlyMap<string, PresenceRecord>,
): Generator<Change, void, void>;
