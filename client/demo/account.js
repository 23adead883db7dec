/**
 * The demo's sign-in: its tokens, and the other calls that `presence run` offers to this page only. A real application
 * has an identity provider instead.
 */

/** Call a route under /demo; gives its JSON, null for 204. Throws an `Error` with the problem's detail. */
export async function callDemo(path, body, send = fetch) {
  const init = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await send(path, init);
  if (response.status === 204) return null;
  const result = await response.json();
  if (!response.ok) throw new Error(result.detail ?? result.title ?? result.message ?? `HTTP ${response.status}`);
  return result;
}

export const LIFETIME = 3_600; // s that a token is valid

export class Account {
  /** Seconds that new tokens are valid. */
  lifetime = LIFETIME;
  /** The number of tokens so far. */
  issued = 0;
  /** When the last token expires, in ms. */
  expiresAt = 0;
  tokenSource = "query";

  #user;
  #fetch;

  constructor(user, fetch) {
    this.#user = user;
    this.#fetch = fetch;
  }

  /** A new token; with a negative `lifetime` it has already expired. */
  async token(lifetime = this.lifetime) {
    const { token, tokenSource } = await callDemo("/demo/token", { user: this.#user, ttl: lifetime }, this.#fetch);
    this.issued += 1;
    this.expiresAt = Date.now() + lifetime * 1_000;
    this.tokenSource = tokenSource;
    return token;
  }
}
