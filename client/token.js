/** The user's token: asked for where there is none, kept while it lasts, and asked for again where it may have failed. */

import { PresenceError } from "./requests.js";

const IS_JWT = /^[\w-]+\.[\w-]+\.[\w-]+$/;
const MARGIN = 60_000; // ms before its end, from which on a token is not used for what is to last
const SHORT_MARGIN = 5_000; // ms, likewise for what is over at once

export class Token {
  /** Why there is no token, a `PresenceError`; null as soon as there is one. */
  trouble = null;

  #ask;
  #clock;
  #token = null;
  #mustRenew = false;
  #asking = null; // the application, which has not answered yet

  /** @param {(wanted: {renew: boolean}) => string | Promise<string>} ask the application's */
  constructor(ask, clock) {
    this.#ask = ask;
    this.#clock = clock;
  }

  /** A token for a connection, or for a device that polls. With `renew` not the one of the connection before. */
  take = (renew = false) => this.#take(renew, MARGIN);

  /** A token for one call. */
  takeForCall = () => this.#take(false, SHORT_MARGIN);

  /** The last one was perhaps, or for certain, what something failed for, or is to be used no more. */
  failed = () => {
    this.#mustRenew = true;
  };

  /** Whoever asked for one has waited long enough. */
  late() {
    this.trouble = noToken("does not answer");
  }

  async #take(renew, margin) {
    const must = renew || this.#mustRenew;
    const known = this.#token;
    if (!must && known !== null && expiry(known) - this.#clock.now() >= margin) return known;
    if (!must && this.#asking) return this.#asking;
    this.#mustRenew = false; // before it comes: it may fail before it is known
    const asking = this.#askFor({ renew: must });
    this.#asking = asking;
    try {
      const token = await asking;
      if (known !== null && isAnothers(known, token)) throw another(known, token);
      if (this.#asking === asking) this.#token = token;
      this.trouble = null;
      return token;
    } catch (error) {
      if (this.#asking === asking) this.trouble = error;
      this.#mustRenew ||= must;
      throw error;
    } finally {
      if (this.#asking === asking) this.#asking = null;
    }
  }

  async #askFor(wanted) {
    let token;
    try {
      token = await this.#ask(wanted);
    } catch (cause) {
      throw noToken(`failed: ${cause?.message ?? cause}`, cause);
    }
    if (typeof token !== "string") throw noToken(`gave no string: ${token === null ? "null" : typeof token}`);
    if (!IS_JWT.test(token)) throw noToken("gave a string that is no JWT"); // and is not told: it may be a secret
    return token;
  }
}

function noToken(what, cause) {
  return new PresenceError({ code: "unauthorized", message: `there is no token: token() ${what}`, field: "token", cause });
}

/** Whether two tokens say that they are of different people. */
const isAnothers = (known, token) => subject(known) && subject(token) && subject(known) !== subject(token);

function another(known, token) {
  const message = `the token is ${subject(token)}'s and this client is ${subject(known)}'s: close it and make another`;
  return new PresenceError({ code: "unauthorized", message, field: "token" });
}

/** When a JWT ends, in ms; never, where it does not say. */
const expiry = (jwt) => claims(jwt).exp * 1_000 || Infinity;
const subject = (jwt) => claims(jwt).sub;

function claims(jwt) {
  try {
    return JSON.parse(atob(jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))) ?? {};
  } catch {
    return {};
  }
}
