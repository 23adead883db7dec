/**
 * The page's network, which can be made to fail like a real one. The client uses it in place of the browser's WebSocket
 * and fetch, and cannot see the difference.
 */

export class Network {
  #isLost = false;
  #blocksWebSockets = false;
  #open = new Set();

  /** Nothing gets through in either direction. The service is not notified: it misses heartbeats after a while. */
  set isLost(isLost) {
    this.#isLost = isLost;
    this.#changed(isLost);
  }

  /** WebSockets are refused, as by a proxy that does not support them. Everything else gets through. */
  set blocksWebSockets(blocks) {
    this.#blocksWebSockets = blocks;
    this.#changed(blocks);
  }

  fetch = (...call) => (this.#isLost ? Promise.reject(new TypeError("the network is disconnected")) : fetch(...call));

  get WebSocket() {
    const network = this;
    return class extends Socket {
      constructor(...handshake) {
        super(network.#isLost || network.#blocksWebSockets ? null : new WebSocket(...handshake));
        network.#open.add(this);
      }
    };
  }

  #changed(isWorse) {
    if (!isWorse) return window.dispatchEvent(new Event("online")); // as a browser does when its network returns
    for (const socket of this.#open) socket.cut();
    this.#open.clear();
  }
}

/** A WebSocket that can be cut: the page sees an abnormal close, and the service sees nothing. */
class Socket extends EventTarget {
  #socket;
  #isCut = false;

  constructor(socket) {
    super();
    this.#socket = socket;
    if (!socket) setTimeout(() => this.cut());
    for (const type of ["open", "message", "close"]) {
      socket?.addEventListener(type, ({ data, code }) => this.#dispatch(type, { data, code }));
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
    this.#dispatch("close", { code: 1006 });
    this.#isCut = true;
  }

  #dispatch(type, fields) {
    if (!this.#isCut) this.dispatchEvent(Object.assign(new Event(type), fields));
  }
}
