/**
 * The two transports for the protocol's messages: a WebSocket, and polling of the HTTP API where WebSockets fail. Both
 * accept the same messages and deliver the same frames. What messages mean does not belong here.
 *
 * A WebSocket calls `on.opened()`, `on.frame(frame)` and `on.closed(reason)`; polling calls only `on.frame(frame)`. After
 * `close()` a transport calls nothing.
 */

import { problem } from "./http.js";

export class WebSocketTransport {
  kind = "online";
  #socket = null;
  #on;

  /**
   * @param {() => Promise<{url: string, protocols: string[]}>} handshake gives what to connect to
   * @param {typeof WebSocket} WebSocket
   * @param {object} on `{opened(), frame(frame), closed(reason)}`: callbacks
   */
  constructor(handshake, WebSocket, on) {
    this.#on = on;
    const open = ({ url, protocols }) => this.#on && this.#open(new WebSocket(url, protocols));
    handshake()
      .then(open)
      .catch((error) => this.#on?.closed(`handshake failed: ${error.message}`));
  }

  send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message)); // else it is closing
  }

  close() {
    this.#on = null;
    this.#socket?.close(1000);
  }

  #open(socket) {
    this.#socket = socket;
    socket.addEventListener("open", () => this.#on?.opened());
    socket.addEventListener("message", ({ data }) => this.#on?.frame(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => this.#on?.closed(`closed with code ${code}`));
  }
}

export class PollingTransport {
  kind = "polling";
  #device;
  #request;
  #on;

  /**
   * @param {() => object} device the device's fields: `{deviceId, deviceType, platform, active[, status]}`
   * @param {(method: string, path: string, body: object) => Promise<Response>} request calls the HTTP API as the user
   * @param {object} on `{frame(frame)}`: callback
   */
  constructor(device, request, on) {
    this.#device = device;
    this.#request = request;
    this.#on = on;
  }

  send({ action, id, ...fields }) {
    this.#call(action, fields).then(
      (frame) => (this.#on ? this.#on.frame({ ...frame, id }) : this.#undo(frame)),
      ({ code = "unavailable", field, message }) => this.#on?.frame({ type: "error", code, field, message, id }),
    );
  }

  close() {
    this.#on = null;
  }

  /** A poll that was in flight during `close()` may have opened the device again. */
  #undo({ type }) {
    if (type === "presence_snapshot") this.send({ action: "leave", grace: true });
  }

  async #call(action, fields) {
    const [method, path, body, type] = this.#requestOf(action, fields);
    const response = await this.#request(method, path, body);
    if (!response.ok) return { type: "error", ...(await problem(response)) };
    return { type, ...(response.status === 204 ? {} : await response.json()) };
  }

  /**
   * The HTTP request for a message, and the type of the frame that its response becomes. Without `n`: all tabs are one
   * polling device, and each numbers its own updates.
   */
  #requestOf(action, { replaces, n, ...fields }) {
    const device = this.#device();
    const { deviceId } = device;
    switch (action) {
      case "get_presence":
        return ["POST", "/v1/presence/query", fields, "presence"];
      case "presence_update":
        return ["PUT", "/v1/me/status", { deviceId, ...fields }, "done"];
      case "leave":
        return ["POST", "/v1/me/leave", { deviceId, ...(fields.grace && { grace: true }) }, "left"];
      default: // sync and heartbeat: the response to either is a snapshot
        return ["POST", "/v1/me/heartbeat", { ...device, ...fields }, "presence_snapshot"];
    }
  }
}
