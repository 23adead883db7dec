/**
 * What the client keeps in the browser's storage: the device id, for all tabs, and whether this tab had to poll. Where
 * storage is missing or denied, the client works without it.
 */

const DEVICE_ID = "presence.deviceId";
const POLLING = "presence.polling";

/**
 * The device id that all tabs of this browser share; a new one for this page if nothing can be stored.
 *
 * @param {Window | undefined} window
 */
export function deviceId(window) {
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  const created = bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    if (!window.localStorage.getItem(DEVICE_ID)) window.localStorage.setItem(DEVICE_ID, created);
    return window.localStorage.getItem(DEVICE_ID) || created;
  } catch {
    return created;
  }
}

/** Whether this tab was polling because WebSockets failed. After a reload it then polls immediately. */
export function wasPolling(window) {
  try {
    return window.sessionStorage.getItem(POLLING) !== null;
  } catch {
    return false;
  }
}

export function rememberPolling(window, isPolling) {
  try {
    if (isPolling) window.sessionStorage.setItem(POLLING, "1");
    else window.sessionStorage.removeItem(POLLING);
  } catch {
    // nothing can be stored: after a reload the client tries WebSockets first
  }
}
