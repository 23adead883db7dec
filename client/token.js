/**
 * The user's token: when a known one may be used again, and when the application is asked for a new one. Where tokens
 * are sent does not belong here.
 */

import { PresenceError } from "./errors.js";

const IS_JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;
const MARGIN = 60_000; // ms that a token for a connection must still be valid
const MARGIN_FOR_CALL = 5_000; // ms that a token for a single call must still be valid

export class TokenProvider {
  /** Why there is no token, a `PresenceError`; null while there is one. */
  error = null;

  #ask;
  #clock;
  #token = null;
  #mustRenew = false;
  #pending = null; // the application's promise

  /**
   * @param {(wanted: {renew: boolean}) => string | Promise<string>} ask the application's `token` option
   * @param {{now(): number}} clock
   */
  constructor(ask, clock) {
    this.#ask = ask;
    this.#clock = clock;
  }

  /** A token for a connection; with `renew` not the previous connection's. Rejects with a `PresenceError`. */
  get(renew = false) {
    return this.#get(renew, MARGIN);
  }

  /** A token for a single call. Rejects with a `PresenceError`. */
  getForCall() {
    return this.#get(false, MARGIN_FOR_CALL);
  }

  /** Do not use the last token again: it was, or may have been, refused. */
  invalidate() {
    this.#mustRenew = true;
  }

  /** The handshake timed out while the application had not yet given a token. */
  timedOut() {
    this.error = noToken("did not resolve in time");
  }

  async #get(renew, margin) {
    const must = renew || this.#mustRenew;
    const known = this.#token;
    if (!must && known !== null && expiry(known) - this.#clock.now() >= margin) return known;
    if (!must && this.#pending) return this.#pending;
    this.#mustRenew = false; // before the token arrives: it may be invalidated while it is pending
    const pending = this.#askFor({ renew: must });
    this.#pending = pending;
    try {
      const token = await pending;
      if (known !== null && isOfAnotherUser(known, token)) throw wrongUser(known, token);
      if (this.#pending === pending) this.#token = token;
      this.error = null;
      return token;
    } catch (error) {
      if (this.#pending === pending) this.error = error;
      this.#mustRenew ||= must;
      throw error;
    } finally {
      if (this.#pending === pending) this.#pending = null;
    }
  }

  async #askFor(wanted) {
    let token;
    try {
      token = await this.#ask(wanted);
    } catch (cause) {
      throw noToken(`failed: ${cause?.message ?? cause}`, cause);
    }
    if (typeof token !== "string") throw noToken(`returned ${token === null ? "null" : typeof token}, not a string`);
    if (!IS_JWT.test(token)) throw noToken("returned a string that is not a JWT"); // not quoted: it may be a secret
    return token;
  }
}

function noToken(reason, cause) {
  return new PresenceError({ code: "unauthorized", message: `no token: token() ${reason}`, field: "token", cause });
}

/** Whether both tokens name a subject, and not the same one. */
const isOfAnotherUser = (known, token) => subject(known) && subject(token) && subject(known) !== subject(token);

function wrongUser(known, token) {
  const users = `the token belongs to ${subject(token)}, but this client to ${subject(known)}`;
  const message = `${users}: close it and create another`;
  return new PresenceError({ code: "unauthorized", message, field: "token" });
}

/** When a JWT ends, in ms; `Infinity` without `exp`. */
const expiry = (jwt) => claims(jwt).exp * 1_000 || Infinity;
const subject = (jwt) => claims(jwt).sub;

function claims(jwt) {
  try {
    return JSON.parse(atob(jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))) ?? {};
  } catch {
    return {};
  }
}
