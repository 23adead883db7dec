/**
 * The HTTP API as the user: plain calls with the user's token. What polling makes of it is in transports.js.
 */

import { PresenceError } from "./requests.js";

const PATIENCE = 10_000; // ms that an answer may take
const CODES = new Map([
  [400, "invalid_message"],
  [401, "unauthorized"],
  [403, "unauthorized"],
  [404, "not_found"],
  [409, "conflict"],
  [413, "too_large"],
  [429, "rate_limited"],
]);

export class Http {
  #options;
  #token;

  /**
   * @param {object} options `{httpUrl, fetch, clock}`
   * @param {{take(): Promise<string>, failed(): void}} token gives a token, and hears that the last one was refused
   */
  constructor(options, token) {
    this.#options = options;
    this.#token = token;
  }

  /** Make a request; gives its response, whatever that says. */
  async request(method, path, body, take = this.#token.take) {
    const { fetch, httpUrl } = this.#options;
    const headers = { Authorization: `Bearer ${await take()}`, ...(body && { "Content-Type": "application/json" }) };
    const keepalive = path === "/v1/me/leave"; // it outlives the page
    const response = await fetch(httpUrl + path, { method, headers, body: body && JSON.stringify(body), keepalive });
    if (response.status === 401 || response.status === 403) this.#token.failed();
    return response;
  }

  /** Make a request; gives what it answers, or says with a `PresenceError` what is wrong. */
  async call(method, path, body) {
    if (!this.#options.httpUrl) {
      throw new PresenceError({ code: "invalid_message", message: "this needs the option httpUrl", field: "httpUrl" });
    }
    return this.#inTime(async () => {
      let response = await this.request(method, path, body);
      if (response.status === 401) response = await this.request(method, path, body); // with a new token
      if (!response.ok) throw new PresenceError(await problem(response));
      return response.status === 204 ? undefined : response.json();
    });
  }

  async #inTime(work) {
    const { clock } = this.#options;
    let timer;
    const late = new Promise((_, reject) => {
      const error = new PresenceError({ code: "timeout", message: "no answer" });
      timer = clock.setTimeout(() => reject(error), PATIENCE);
    });
    try {
      return await Promise.race([work(), late]);
    } catch (error) {
      throw error instanceof PresenceError ? error : new PresenceError({ message: error.message });
    } finally {
      clock.clearTimeout(timer);
    }
  }
}

/** What a response that is none says: the problem details (RFC 9457) of the service, or the words of the gateway. */
export async function problem(response) {
  const { detail, title, message, errors = [] } = await response.json().catch(() => ({}));
  const words = detail ?? title ?? message ?? `HTTP ${response.status}`;
  return {
    code: CODES.get(response.status) ?? "unavailable",
    message: response.status === 404 ? `${words}: is httpUrl that of the deployment?` : words,
    field: errors[0]?.field,
    errors,
    retryAfter: 1_000 * (Number(response.headers.get("Retry-After")) || 0),
  };
}
