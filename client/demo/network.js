/**
 * The page's own way to the service, which can be made to fail as real networks do. The client takes it in place of the
 * browser's WebSocket and fetch, and does not know.
 */

export class Network {
  #lost = false;
  #refusing = false;
  #open = new Set();

  /** Nothing gets through in either direction. The service is told nothing: it misses heartbeats after a while. */
  set lost(lost) {
    this.#lost = lost;
    this.#changed(lost);
  }

  /** WebSockets are refused, as by a proxy that knows none; everything else gets through. */
  set refusing(refusing) {
    this.#refusing = refusing;
    this.#changed(refusing);
  }

  fetch = (...call) => (this.#lost ? Promise.reject(new TypeError("the network is lost")) : fetch(...call));

  get WebSocket() {
    const network = this;
    return class extends Socket {
      constructor(...handshake) {
        super(network.#lost || network.#refusing ? null : new WebSocket(...handshake));
        network.#open.add(this);
      }
    };
  }

  #changed(worse) {
    if (!worse) return window.dispatchEvent(new Event("online")); // as a browser does that has a network again
    for (const socket of this.#open) socket.cut();
    this.#open.clear();
  }
}

/** A WebSocket that can be cut: this side sees an abnormal end, and the other one sees nothing at all. */
class Socket extends EventTarget {
  #socket;
  #isCut = false;

  constructor(socket) {
    super();
    this.#socket = socket;
    if (!socket) setTimeout(() => this.cut());
    for (const type of ["open", "message", "close"]) {
      socket?.addEventListener(type, ({ data, code }) => this.#tell(type, { data, code }));
    }
  }

  get readyState() {
    return this.#isCut ? WebSocket.CLOSED : (this.#socket?.readyState ?? WebSocket.CONNECTING);
  }

  send(text) {
    if (!this.#isCut) this.#socket.send(text);
  }

  close(code) {
    if (!this.#isCut) this.#socket?.close(code);
  }

  cut() {
    this.#tell("close", { code: 1006 });
    this.#isCut = true;
  }

  #tell(type, about) {
    if (!this.#isCut) this.dispatchEvent(Object.assign(new Event(type), about));
  }
}
