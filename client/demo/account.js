/**
 * The demo's own sign-in: its tokens, and what else `presence run` does for this page alone. An application has an
 * identity provider for that.
 */

/** Ask the part of `presence run` that exists for this page. */
export async function ask(path, body, send = fetch) {
  const asked = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await send(path, asked);
  if (response.status === 204) return null;
  const told = await response.json();
  if (!response.ok) throw new Error(told.detail ?? told.title ?? told.message ?? `HTTP ${response.status}`);
  return told;
}

export const LIFE = 3_600; // s that a token is good

export class Account {
  /** Seconds that the tokens to come are good. */
  life = LIFE;
  /** How many tokens there were, and when the last one ends, in ms. */
  issued = 0;
  endsAt = 0;
  tokenSource = "query";

  #user;
  #fetch;

  constructor(user, send) {
    this.#user = user;
    this.#fetch = send;
  }

  /** A new token; with `life` below 0 it has ended already. */
  async token(life = this.life) {
    const { token, tokenSource } = await ask("/demo/token", { user: this.#user, ttl: life }, this.#fetch);
    this.issued += 1;
    this.endsAt = Date.now() + life * 1_000;
    this.tokenSource = tokenSource;
    return token;
  }
}
