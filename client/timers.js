/**
 * Named timers on an injected clock. Setting a name that is already set moves its timer. What the timers are for does
 * not belong here.
 */

export class Timers {
  #clock;
  #running = new Map(); // name → {timer, at}

  /** @param {{now(): number, setTimeout: Function, clearTimeout: Function}} clock times are in ms */
  constructor(clock) {
    this.#clock = clock;
  }

  /** Run `action` in `wait` ms. Replaces the timer of the same name. */
  set(name, wait, action) {
    this.clear(name);
    const fire = () => {
      this.#running.delete(name);
      action();
    };
    this.#running.set(name, { timer: this.#clock.setTimeout(fire, wait), at: this.#clock.now() + wait });
  }

  /** Like `set`, but keeps the timer of the same name if it fires earlier. */
  setSooner(name, wait, action) {
    const running = this.#running.get(name);
    if (!running || running.at > this.#clock.now() + wait) this.set(name, wait, action);
  }

  has(name) {
    return this.#running.has(name);
  }

  /** Milliseconds until the timer fires; `Infinity` if it is not set. */
  remaining(name) {
    return (this.#running.get(name)?.at ?? Infinity) - this.#clock.now();
  }

  clear(name) {
    this.#clock.clearTimeout(this.#running.get(name)?.timer);
    this.#running.delete(name);
  }

  clearAll() {
    for (const name of [...this.#running.keys()]) this.clear(name);
  }
}
