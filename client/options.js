/**
 * What an application says, checked before anything is sent: the options of a client, and the ids of users. Whatever is
 * wrong here is a mistake in the application's code, so it is a `TypeError` that says what should be there.
 */

const USER_ID = /^(?!\.{1,2}$)[A-Za-z0-9._~:@|+=-]{1,128}$/; // the protocol's
const DEVICE_ID = /^[A-Za-z0-9._-]{1,64}$/;
const DEVICE_TYPES = ["web", "mobile", "desktop"];
const TOKEN_SOURCES = ["query", "subprotocol"];
const LONGEST_PLATFORM = 64; // code points

/**
 * The options of a client: those that were given, and `defaults` for the others. A slash at the end of `httpUrl` is left
 * away.
 */
export function checked(options, defaults) {
  must(options !== null && typeof options === "object", "options", "an object with url and token", options);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const all = { ...defaults, ...Object.fromEntries(given) };
  const { url, httpUrl, token, tokenSource, deviceId, deviceType, platform, WebSocket } = all;
  must(isUrl(url, ["ws:", "wss:"]), "url", "an address like wss://HOST/STAGE, without a query", url);
  const isHttp = httpUrl == null || isUrl(httpUrl, ["http:", "https:"]);
  must(isHttp, "httpUrl", "an address like https://HOST, without a query", httpUrl);
  must(typeof token === "function", "token", "a function that gives a JWT", token);
  must(TOKEN_SOURCES.includes(tokenSource), "tokenSource", `one of ${TOKEN_SOURCES.join(", ")}`, tokenSource);
  const isDevice = deviceId == null || isMatch(DEVICE_ID, deviceId);
  must(isDevice, "deviceId", "1 to 64 characters of A-Z a-z 0-9 . _ -", deviceId);
  must(DEVICE_TYPES.includes(deviceType), "deviceType", `one of ${DEVICE_TYPES.join(", ")}`, deviceType);
  const isShort = typeof platform === "string" && [...platform].length <= LONGEST_PLATFORM;
  must(isShort, "platform", `a string of at most ${LONGEST_PLATFORM} characters`, platform);
  if (typeof WebSocket !== "function") {
    throw new TypeError("no WebSocket in this runtime: Node.js 22 or newer has one, or give the option WebSocket");
  }
  return { ...all, httpUrl: httpUrl?.replace(/\/+$/, "") };
}

/** Throws unless this is a user's id. Others could not be sent: `fetch` takes `..` in a path for the folder above. */
export function checkUser(userId, name = "userId") {
  const rule = "1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ | + = - and not . or ..";
  must(isMatch(USER_ID, userId), name, rule, userId);
}

/** Throws unless this is an array of users' ids. */
export function checkUsers(userIds, name) {
  must(Array.isArray(userIds), name, "an array of user ids", userIds);
  userIds.forEach((userId, place) => checkUser(userId, `${name}[${place}]`));
}

/** A promise broken with a `TypeError` which says what `name` has to be. */
export const mistake = async (name, rule, value) => must(false, name, rule, value);

/** Throws a `TypeError` which says what `name` has to be, unless it is so. */
function must(isSo, name, rule, value) {
  if (!isSo) throw new TypeError(`${name} must be ${rule}: not ${shown(value)}`);
}

function shown(value) {
  if (value === null || value === undefined) return String(value);
  return typeof value === "string" ? JSON.stringify(value) : `of type ${typeof value}`;
}

const isMatch = (pattern, value) => typeof value === "string" && pattern.test(value);

function isUrl(value, protocols) {
  if (typeof value !== "string" || /[?#]/.test(value)) return false;
  try {
    return protocols.includes(new URL(value).protocol);
  } catch {
    return false;
  }
}
