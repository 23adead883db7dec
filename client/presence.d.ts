/** The types of the presence client. The guide is docs/client.md. */

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
  /** When it ends. Without it, it stays until it is changed. */
  until?: Time | null;
}

/** What a contact may see of a user. For a stranger, `query` gives only `userId` and `status`. */
export interface PresenceRecord {
  readonly userId: string;
  readonly status: Status;
  readonly customStatus?: Readonly<CustomStatus> | null;
  /** The type of the device that decides the status; null when offline. */
  readonly deviceType?: DeviceType | null;
  /** When the user was last connected. Null unless the user is offline and shares it. */
  readonly lastSeen?: Time | null;
}

/** One of the user's own connections. */
export interface Device {
  readonly connectionId: string;
  readonly deviceId: string;
  readonly deviceType: DeviceType;
  readonly status: OnlineStatus;
  readonly connectedAt: Time;
  readonly lastActive: Time;
}

/** The user's own real state, which invisibility does not change. */
export interface OwnState {
  readonly userId: string;
  readonly connectionId?: string;
  readonly status: Status;
  readonly customStatus: Readonly<CustomStatus> | null;
  readonly claim: { readonly status: OnlineStatus; readonly until: Time | null } | null;
  readonly invisible: boolean;
  readonly lastSeenPolicy: "everyone" | "nobody";
  readonly devices: readonly Device[];
  /** For each field, the number of this connection's last update that was applied. */
  readonly n?: { readonly status: number; readonly claim: number; readonly customStatus: number };
  /** Milliseconds between heartbeats. */
  readonly heartbeatEvery?: number;
  /** When the client must replace this connection by a new one. */
  readonly rotateAt?: Time;
}

/** The user's own real state and privacy settings. Nothing in it depends on who blocks the user or hides from them. */
export interface Me extends Omit<OwnState, "connectionId" | "n" | "heartbeatEvery" | "rotateAt"> {
  readonly lastSeen: Time | null;
  /** The status that contacts see if nothing is hidden from them individually. */
  readonly visibleStatus: Status;
  /** The rule that decided the real status. */
  readonly rule: "no_device" | "claim" | "grace" | "idle" | "device";
  /** The same as a sentence for people. */
  readonly why: string;
  readonly hideFrom: readonly string[];
  readonly blocks: readonly string[];
}

/** Changes of privacy settings. Omitted fields stay. */
export interface PrivacyChange {
  /** Appear offline to everybody. */
  invisible?: boolean;
  /** Who may see when the user was last connected. */
  lastSeen?: "everyone" | "nobody";
  /** Appear offline to these users. Replaces the list; at most 5,000. */
  hideFrom?: readonly string[];
}

/**
 * `connecting`: no connection is ready. `online`: live, over a WebSocket. `polling`: over the HTTP API, up to a
 * heartbeat late. `stale`: connected, but the service is unavailable. `closed`: before `open`, and after `close` or
 * `leave`.
 */
export type ConnectionState = "connecting" | "online" | "polling" | "stale" | "closed";

export type PresenceErrorCode =
  | "invalid_message" // see `field`
  | "unknown_action"
  | "rate_limited" // see `retryAfter`
  | "too_large"
  | "unavailable"
  | "unauthorized" // `token()` gives no token, or another user's; or the HTTP API refuses it
  | "not_found" // no such path: check that `httpUrl` belongs to the deployment
  | "conflict" // a limit would be exceeded; nothing was changed
  | "no_websocket" // handshakes keep failing; with `httpUrl`, the token is not the cause
  | "unreachable" // handshakes keep failing, and the HTTP API does not respond either
  | "offline" // no connection for a query, or it was lost
  | "timeout" // no response within 10 seconds
  | "closed"; // the client is closed

export class PresenceError extends Error {
  readonly code: PresenceErrorCode;
  /** The path of the invalid field, like `customStatus.text`. */
  readonly field?: string;
  /** All invalid fields; `field` is the first. */
  readonly errors: readonly { readonly field: string; readonly message: string }[];
  /** The id of the rejected message. */
  readonly id?: string;
  /** Milliseconds to wait before the same request is repeated. */
  readonly retryAfter?: number;
}

export interface PresenceOptions {
  /** The URL of the WebSocket API, without a query: `wss://HOST/STAGE`. */
  url: string;
  /**
   * The URL of the HTTP API: `https://HOST`. Without it there is no polling where WebSockets fail, and `me`,
   * `setPrivacy`, `block` and `unblock` are rejected.
   */
  httpUrl?: string;
  /**
   * Returns a token of the signed-in user, always the same user. With `renew: true` it must be a new one: the last
   * token was refused or may have been, or a new connection must outlive the old token.
   */
  token: (wanted: { renew: boolean }) => string | Promise<string>;
  /** The deployment's `token_source`, which a page cannot find out. Default: `query`. */
  tokenSource?: "query" | "subprotocol";
  /** 1 to 64 characters of `A-Z a-z 0-9 . _ -`. Default: one in localStorage, which all tabs of the browser share. */
  deviceId?: string;
  /** Default: `web`. */
  deviceType?: DeviceType;
  /** At most 64 characters. Default: `navigator.platform`. */
  platform?: string;
  /**
   * Milliseconds after a loss within which the next WebSocket is opened, at a random moment. Default: 25,000, enough
   * for 10,000 clients that lose their connections together; for 800 clients, 2,000 is enough. Where the WebSocket
   * opens after more than 8 seconds, the client polls before.
   */
  reconnectWithin?: number;

  /** This and the options below are for tests, and for runtimes other than browsers. */
  WebSocket?: new (
    url: string,
    protocols?: string[],
  ) => Pick<WebSocket, "send" | "close" | "readyState" | "addEventListener">;
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /** The window whose pointer, keyboard and visibility events show activity. Default: the page's, if there is one. */
  window?: Pick<
    Window,
    "addEventListener" | "removeEventListener" | "document" | "localStorage" | "sessionStorage"
  >;
  clock?: { now(): Time; setTimeout(action: () => void, wait: number): unknown; clearTimeout(timer: any): void };
  /** At least 0, below 1. */
  random?: () => number;
}

/** A contact's record after a change (`user`) and before it (`previous`); null while the contact is not known. */
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

/** The client of one user; an EventTarget with the events of `PresenceEventMap`. */
export class Presence {
  /** @throws {TypeError} for an invalid option, and in a runtime without WebSocket */
  constructor(options: PresenceOptions);

  /** The known users: user id → record. A user who is absent is offline. Never changed in place. */
  readonly users: ReadonlyMap<string, PresenceRecord>;
  /** The user's own real state; null until it is known. */
  readonly self: OwnState | null;
  /** All of that as one value, never changed in place: `changes(before, after)` compares two of them. */
  readonly state: State;
  readonly connection: ConnectionState;
  /** Whether `users` and `self` may be out of date: show them grayed out. */
  readonly stale: boolean;

  /** Connect, and stay connected. */
  open(): void;
  /** Disconnect. Contacts see it after the service's grace. `users` and `self` keep their values. */
  close(): void;
  /** Sign out. Contacts see it immediately, unless another tab or device is connected. */
  leave(): void;
  /**
   * Move to a new connection with a new token. The old connection serves until the new one is ready, and contacts see
   * nothing. If this fails, it is retried. A closed client is opened. For another user, create another `Presence`.
   */
  reconnect(): void;
  /** Report that the person uses the device. In a page this happens automatically. */
  touch(): void;

  /**
   * Choose this connection's status. This update and the two below are sent again after failures and reconnects. The
   * promise resolves when the update is applied or replaced by a newer one, and rejects with a `PresenceError` if the
   * service rejects it. Before the first `open` the update waits; after `close` or `leave` it is rejected with
   * `closed`.
   */
  setStatus(status: OnlineStatus): Promise<void>;
  /** Claim a status for all of the user's devices, until a time or until changed; null ends the claim. */
  setClaim(status: "busy" | "away" | null, until?: Time): Promise<void>;
  /** Set a custom status; null clears it. */
  setCustomStatus(customStatus: CustomStatus | null): Promise<void>;
  /** The records of users, contacts or not, in the same order. Rejects with a `PresenceError`. */
  query(userIds: readonly string[]): Promise<PresenceRecord[]>;

  /**
   * The user's own real state, privacy settings, and why the status is what it is. This and the methods below call the
   * HTTP API.
   */
  me(): Promise<Me>;
  /** Change privacy settings. Given fields replace their old values; others stay. */
  setPrivacy(change: PrivacyChange): Promise<void>;
  /** Block a user: neither sees the other. The blocked user sees one offline update and no reason. */
  block(userId: string): Promise<void>;
  /** End a block. Other privacy settings still apply. */
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

/** What a client knows: the state that `receive` computes; see reducer.js. */
export interface State {
  readonly users: ReadonlyMap<string, PresenceRecord>;
  readonly self: OwnState | null;
  /** Every frame up to this number has been applied; null before the first snapshot. */
  readonly seq: number | null;
  /** User id → number of the frame or snapshot that last set the user's record. */
  readonly ats: ReadonlyMap<string, number>;
  /** The same for `self`. */
  readonly selfAt: number;
  /** The number of the last snapshot. */
  readonly snapshotSeq: number;
  /** Number → frame beyond a hole. */
  readonly kept: ReadonlyMap<number, object>;
  /** When the hole appeared, in ms of the clock. */
  readonly holeSince: Time | null;
  /** Snapshots with missing parts: name → number and parts. */
  readonly parts: ReadonlyMap<string, { readonly seq: number; readonly frames: ReadonlyMap<number, object> }>;
}

/** The next state; `sync`: whether the client must send a `sync`, with the `seq` of the state. */
export interface Step {
  readonly state: State;
  readonly sync: boolean;
}

export const initial: State;

/** The state after a frame. `now`: ms of any clock, the same one in each call of this and `tick`. */
export function receive(state: State, frame: object, now: Time): Step;

/** The state after a look at the clock: a frame that stays missing is lost. */
export function tick(state: State, now: Time): Step;

/** When to call `tick`; null if no frame is missing. */
export function nextTick(state: State): Time | null;

/** The differences between two states' `users`. */
export function changes(before: State, after: State): Generator<Change, void, void>;
