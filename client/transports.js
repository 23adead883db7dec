/**
 * Two ways to carry the protocol's messages: a WebSocket, and polling through the HTTP API where there is none. Both take
 * the same messages and give the same frames, so nobody else has to know which it is. Neither knows what they mean.
 *
 * A transport tells `{opened(), frame(frame), closed(reason)}`, and nothing more once it was closed from this side.
 */

import { problem } from "./http.js";

export class Socket {
  kind = "online";
  #socket = null;
  #told;

  /**
   * @param {() => Promise<{url: string, protocols: string[]}>} handshake
   * @param {typeof WebSocket} WebSocket
   */
  constructor(handshake, WebSocket, told) {
    this.#told = told;
    const open = ({ url, protocols }) => this.#told && this.#open(new WebSocket(url, protocols));
    handshake()
      .then(open)
      .catch((error) => this.#told?.closed(`no handshake: ${error.message}`));
  }

  send(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message)); // else its end is about to be told
  }

  close() {
    this.#told = null;
    this.#socket?.close(1000);
  }

  #open(socket) {
    this.#socket = socket;
    socket.addEventListener("open", () => this.#told?.opened());
    socket.addEventListener("message", ({ data }) => this.#told?.frame(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => this.#told?.closed(`closed with ${code}`));
  }
}

export class Polling {
  kind = "polling";
  #device;
  #request;
  #told;

  /**
   * @param {() => object} device what a device says about itself: `{deviceId, deviceType, platform, active[, status]}`
   * @param {(method: string, path: string, body: object) => Promise<Response>} request calls the HTTP API as the user
   */
  constructor(device, request, told) {
    this.#device = device;
    this.#request = request;
    this.#told = told;
  }

  send({ action, id, ...said }) {
    this.#carry(action, said).then(
      (frame) => (this.#told ? this.#told.frame({ ...frame, id }) : this.#undo(frame)),
      ({ code = "unavailable", field, message }) => this.#told?.frame({ type: "error", code, field, message, id }),
    );
  }

  close() {
    this.#told = null;
  }

  /** A poll was under way when this was closed, and has perhaps opened the device again. */
  #undo({ type }) {
    if (type === "presence_snapshot") this.send({ action: "leave", grace: true });
  }

  async #carry(action, said) {
    const [method, path, body, type] = this.#call(action, said);
    const response = await this.#request(method, path, body);
    if (!response.ok) return { type: "error", ...(await problem(response)) };
    return { type, ...(response.status === 204 ? {} : await response.json()) };
  }

  /** The call that says the same as a message, and the type of the frame that its answer stands for. */
  #call(action, { replaces, ...said }) {
    const device = this.#device();
    const { deviceId } = device;
    switch (action) {
      case "get_presence":
        return ["POST", "/v1/presence/query", said, "presence"];
      case "presence_update":
        return ["PUT", "/v1/me/status", { deviceId, ...said }, "done"];
      case "leave":
        return ["POST", "/v1/me/leave", { deviceId, ...(said.grace && { grace: true }) }, "left"];
      default: // sync and heartbeat: each is answered with what is new
        return ["POST", "/v1/me/heartbeat", { ...device, ...said }, "presence_snapshot"];
    }
  }
}
