/**
 * The page that the client runs in: whether somebody uses the device, when the page is shown or left, when the network
 * returns. Outside a browser there is no page, and the application calls `touch()`. What the client does about any of
 * this does not belong here.
 */

const ACTIVITY = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart", "focus"]; // DOM events
const ACTIVE_FOR = 60_000; // ms after its last use in which a device counts as in use for a new connection

export class Page {
  #window;
  #clock;
  #listeners;
  #lastUsedAt = -Infinity;
  #lastCheckedAt = 0;

  /**
   * @param {Window | undefined} window
   * @param {{now(): number}} clock
   * @param {object} on `{active(), shown(), networkBack(), left()}`: callbacks
   */
  constructor(window, clock, on) {
    this.#window = window;
    this.#clock = clock;
    const shown = () => this.#isVisible && on.shown();
    this.#listeners = [
      ...ACTIVITY.map((name) => [name, on.active]),
      ["visibilitychange", shown],
      ["pageshow", shown],
      ["online", on.networkBack],
      ["pagehide", on.left],
    ];
  }

  watch() {
    if (this.#isVisible) this.touch();
    for (const [name, listener] of this.#listeners) this.#window?.addEventListener(name, listener, { passive: true });
  }

  unwatch() {
    for (const [name, listener] of this.#listeners) this.#window?.removeEventListener(name, listener);
  }

  /** The device is being used. */
  touch() {
    this.#lastUsedAt = this.#clock.now();
  }

  /** Whether the device was used since the last call; a heartbeat reports this. */
  takeActivity() {
    const wasUsed = this.#lastUsedAt >= this.#lastCheckedAt;
    this.#lastCheckedAt = this.#clock.now();
    return wasUsed;
  }

  /** Whether somebody is at the device; a new connection reports this. */
  get isActive() {
    return this.#isVisible && this.#clock.now() - this.#lastUsedAt < ACTIVE_FOR;
  }

  get #isVisible() {
    return this.#window?.document.visibilityState !== "hidden";
  }
}
