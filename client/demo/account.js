/**
 * What the page asks as the user beside presence itself, by HTTP: tokens of the demo's own sign-in, and the calls under
 * /v1/me. An application has the first of its identity provider.
 */

/** Ask the part of `presence run` that exists for this page. */
export async function ask(path, body, send = fetch) {
  const asked = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return answer(await send(path, asked));
}

async function answer(response) {
  if (response.status === 204) return null;
  const told = await response.json();
  if (!response.ok) throw new Error(told.detail ?? told.title ?? told.message ?? `HTTP ${response.status}`);
  return told;
}

export const LIFE = 3_600; // s that a token is good
const MARGIN = 5_000; // ms before its end, from which on a token is not used any more

export class Account {
  /** Seconds that the tokens to come are good. */
  life = LIFE;
  /** How many tokens there were, and when the last one ends, in ms. */
  issued = 0;
  endsAt = 0;
  tokenSource = "query";

  #user;
  #fetch;
  #token = null;

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
    this.#token = token;
    return token;
  }

  /** One's own real state with every device, what one hides, and why the status is what it is. */
  me = () => this.#call("GET", "/v1/me");
  /** Change what one hides: `{invisible, lastSeen, hideFrom}`. */
  setPrivacy = (change) => this.#call("PUT", "/v1/me/privacy", change);
  setBlock = (user, blocked) => this.#call(blocked ? "PUT" : "DELETE", `/v1/me/blocks/${encodeURIComponent(user)}`);

  async #call(method, path, body) {
    if (Date.now() > this.endsAt - MARGIN) await this.token();
    const headers = { Authorization: `Bearer ${this.#token}`, ...(body && { "Content-Type": "application/json" }) };
    return answer(await this.#fetch(path, { method, headers, ...(body && { body: JSON.stringify(body) }) }));
  }
}
