/**
 * The person at the device, as far as a page can tell: whether they use it, whether the page is shown, when it goes.
 * Outside of a browser there is no page, and the application says when the device is used.
 */

const SIGNS_OF_LIFE = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart", "focus"];
const STILL_THERE = 60_000; // ms since the device was used

export class Page {
  #window;
  #clock;
  #listeners;
  #usedAt = -Infinity;
  #askedAt = 0;

  /**
   * @param {Window | undefined} window
   * @param {object} told `{used(), shown(), online(), left()}`
   */
  constructor(window, clock, told) {
    this.#window = window;
    this.#clock = clock;
    const shown = () => this.#isVisible && told.shown();
    this.#listeners = [
      ...SIGNS_OF_LIFE.map((name) => [name, told.used]),
      ["visibilitychange", shown],
      ["pageshow", shown],
      ["online", told.online],
      ["pagehide", told.left],
    ];
  }

  watch() {
    if (this.#isVisible) this.touch();
    for (const [name, listener] of this.#listeners) this.#window?.addEventListener(name, listener, { passive: true });
  }

  unwatch() {
    for (const [name, listener] of this.#listeners) this.#window?.removeEventListener(name, listener);
  }

  touch() {
    this.#usedAt = this.#clock.now();
  }

  /** Whether the person has used the device since this was last asked. */
  wasUsed() {
    const used = this.#usedAt >= this.#askedAt;
    this.#askedAt = this.#clock.now();
    return used;
  }

  /** Whether somebody is at the device, as a new connection says. */
  isUsed() {
    return this.#isVisible && this.#clock.now() - this.#usedAt < STILL_THERE;
  }

  get #isVisible() {
    return this.#window?.document.visibilityState !== "hidden";
  }
}

const POLLING = "presence.polling";

/** Whether this tab had to poll when it was left: after a reload it does so at once. */
export function hadToPoll(window) {
  try {
    return window.sessionStorage.getItem(POLLING) !== null;
  } catch {
    return false;
  }
}

export function rememberToPoll(window, polls) {
  try {
    if (polls) window.sessionStorage.setItem(POLLING, "1");
    else window.sessionStorage.removeItem(POLLING);
  } catch {
    // nothing can be stored: a reload finds out anew
  }
}

/** One device id for all tabs of this browser; where nothing can be stored, one for this page. */
export function deviceId(window) {
  const name = "presence.deviceId";
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  const made = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    if (!window.localStorage.getItem(name)) window.localStorage.setItem(name, made);
    return window.localStorage.getItem(name) || made;
  } catch {
    return made;
  }
}
