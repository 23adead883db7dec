/**
 * Why the client cannot connect, as errors for the application: each is reported once, not at every attempt. Errors
 * that answer one message are in requests.js.
 */

import { PresenceError } from "./errors.js";

export class Diagnostics {
  #options;
  #connections;
  #token;
  #emit;
  #reported = new Set(); // messages reported since a connection was last ready
  #hasReportedNoWebSocket = false;

  /**
   * @param {{httpUrl?: string, tokenSource: string}} options
   * @param {import("./connections.js").Connections} connections
   * @param {import("./token.js").TokenProvider} token
   * @param {(error: PresenceError) => void} emit reports an error to the application
   */
  constructor(options, connections, token, emit) {
    this.#options = options;
    this.#connections = connections;
    this.#token = token;
    this.#emit = emit;
  }

  /** Report the same errors again from now on. */
  reset() {
    this.#reported.clear();
  }

  /** A connection of this kind became ready. */
  ready(kind) {
    this.reset();
    if (kind === "online") this.#hasReportedNoWebSocket = false;
    this.#checkWebSockets();
  }

  /** A WebSocket failed, or a polling connection that was in use. */
  connectionFailed() {
    if (this.#token.error) this.report(this.#token.error);
    this.#checkWebSockets();
  }

  /** The first poll failed because the HTTP API did not answer or is unavailable. */
  pollFailed() {
    if (!this.#connections.webSocketsFail || this.#token.error) return;
    const message =
      "cannot open a WebSocket, and the HTTP API does not respond either: check the network, url and httpUrl, and " +
      "that the deployment is running and allows this page's origin";
    this.report(new PresenceError({ code: "unreachable", message }));
  }

  /** Report an error, unless it has been reported. */
  report(error) {
    if (this.#reported.has(error.message)) return;
    this.#reported.add(error.message);
    this.#emit(error);
  }

  /** Report `no_websocket` once WebSockets keep failing and the network and the token are not the cause. */
  #checkWebSockets() {
    const { httpUrl, tokenSource } = this.#options;
    const { webSocketsFail, current } = this.#connections;
    if (!webSocketsFail || this.#hasReportedNoWebSocket || this.#token.error) return;
    const isPolling = current?.isReady && current.kind === "polling";
    if (httpUrl ? !isPolling : current) return; // the cause may be something else
    this.#hasReportedNoWebSocket = true;
    const settings = `that url and tokenSource ("${tokenSource}") match the deployment`;
    const message = httpUrl
      ? `cannot open a WebSocket, although the HTTP API accepts the token: check ${settings}`
      : `cannot open a WebSocket, even with a new token: check the token, the network, ${settings}`;
    const error = { code: "no_websocket", message: `${message}, and that nothing in between blocks WebSockets` };
    this.#emit(new PresenceError({ ...error, ...(httpUrl && { field: "tokenSource" }) }));
  }
}
