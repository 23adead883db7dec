/**
 * The client's error type, and which error frames mean that the service could not process a message. When an
 * application is shown an error is decided in diagnostics.js and requests.js.
 */

/** An error from the service or the client. For `code`, see `PresenceErrorCode` in presence.d.ts. */
export class PresenceError extends Error {
  name = "PresenceError";

  constructor({ code = "unavailable", message, field, errors, id, retryAfter, cause }) {
    super(message, cause === undefined ? undefined : { cause });
    Object.assign(this, { code, field, errors: errors ?? (field ? [{ field, message }] : []), id, retryAfter });
  }
}

/** Codes after which the same message may succeed later. `not_found`: a deployment that is being replaced. */
const TEMPORARY = ["unavailable", "unauthorized", "not_found", "conflict"];

/**
 * Whether a frame says that the service could not process a message, as opposed to having rejected it. Frames without a
 * type come from API Gateway.
 */
export const isFailure = ({ type, code }) => type === undefined || TEMPORARY.includes(code);
