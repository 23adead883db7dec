/** Calls of the HTTP API with the user's token, and its errors. Polling, which uses them, is in transports.js. */

import { PresenceError } from "./errors.js";

const TIMEOUT = 10_000; // ms that a response may take
const CODES = new Map([
  [400, "invalid_message"],
  [401, "unauthorized"],
  [403, "unauthorized"],
  [404, "not_found"],
  [409, "conflict"],
  [413, "too_large"],
  [429, "rate_limited"],
]);

export class HttpApi {
  #options;
  #token;

  /**
   * @param {{httpUrl?: string, fetch: Function, clock: object}} options
   * @param {import("./token.js").TokenProvider} token
   */
  constructor(options, token) {
    this.#options = options;
    this.#token = token;
  }

  /**
   * Send one request; gives the response, whatever its status.
   *
   * @param {() => Promise<string>} [getToken] gives the token to send; default: one that is good for a single call
   */
  async request(method, path, body, getToken = () => this.#token.getForCall()) {
    const { fetch, httpUrl } = this.#options;
    const token = await getToken();
    const headers = { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) };
    const keepalive = path === "/v1/me/leave"; // the page may be closing
    const response = await fetch(httpUrl + path, { method, headers, body: body && JSON.stringify(body), keepalive });
    if (response.status === 401 || response.status === 403) this.#token.invalidate();
    return response;
  }

  /**
   * Send a request, once more with a new token if it is refused with 401; gives the response's JSON, undefined for 204.
   * Rejects with a `PresenceError`.
   */
  async call(method, path, body) {
    if (!this.#options.httpUrl) {
      const message = "this call needs the option httpUrl";
      throw new PresenceError({ code: "invalid_message", message, field: "httpUrl" });
    }
    return this.#withTimeout(async () => {
      let response = await this.request(method, path, body);
      if (response.status === 401) response = await this.request(method, path, body);
      if (!response.ok) throw new PresenceError(await problem(response));
      return response.status === 204 ? undefined : response.json();
    });
  }

  async #withTimeout(work) {
    const { clock } = this.#options;
    let timer;
    const timeout = new Promise((_, reject) => {
      const error = new PresenceError({ code: "timeout", message: "no response within 10 seconds" });
      timer = clock.setTimeout(() => reject(error), TIMEOUT);
    });
    try {
      return await Promise.race([work(), timeout]);
    } catch (error) {
      throw error instanceof PresenceError ? error : new PresenceError({ message: error.message });
    } finally {
      clock.clearTimeout(timer);
    }
  }
}

/**
 * The fields of a `PresenceError` for an error response: from the service's problem details (RFC 9457), or from API
 * Gateway's `{message}`.
 *
 * @param {Response} response
 */
export async function problem(response) {
  const { detail, title, message, errors = [] } = await response.json().catch(() => ({}));
  const text = detail ?? title ?? message ?? `HTTP ${response.status}`;
  return {
    code: CODES.get(response.status) ?? "unavailable",
    message: response.status === 404 ? `${text}: check that httpUrl belongs to this deployment` : text,
    field: errors[0]?.field,
    errors,
    retryAfter: 1_000 * (Number(response.headers.get("Retry-After")) || 0),
  };
}
