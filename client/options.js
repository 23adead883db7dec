/**
 * Checks of what an application passes in: the client's options and user ids. A wrong value is a mistake in the
 * application's code, so it is a `TypeError` that says what is expected. What the service may reject is not checked
 * here.
 */

const USER_ID = /^(?!\.{1,2}$)[A-Za-z0-9._~:@|+=-]{1,128}$/; // as in docs/protocol.md
const DEVICE_ID = /^[A-Za-z0-9._-]{1,64}$/;
const DEVICE_TYPES = ["web", "mobile", "desktop"];
const TOKEN_SOURCES = ["query", "subprotocol"];
const LONGEST_PLATFORM = 64; // code points

/**
 * The given options over `defaults`, without slashes at the end of `httpUrl`.
 *
 * @throws {TypeError} for a wrong option, and where there is no WebSocket
 */
export function checkOptions(options, defaults) {
  expect(options !== null && typeof options === "object", "options", "an object with url and token", options);
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const all = { ...defaults, ...Object.fromEntries(given) };
  const { url, httpUrl, token, tokenSource, deviceId, deviceType, platform, WebSocket } = all;
  expect(isUrl(url, ["ws:", "wss:"]), "url", "a URL like wss://HOST/STAGE without a query", url);
  const isHttp = httpUrl == null || isUrl(httpUrl, ["http:", "https:"]);
  expect(isHttp, "httpUrl", "a URL like https://HOST without a query", httpUrl);
  expect(typeof token === "function", "token", "a function that returns a JWT", token);
  expect(TOKEN_SOURCES.includes(tokenSource), "tokenSource", `one of ${TOKEN_SOURCES.join(", ")}`, tokenSource);
  const isDevice = deviceId == null || matches(DEVICE_ID, deviceId);
  expect(isDevice, "deviceId", "1 to 64 characters of A-Z a-z 0-9 . _ -", deviceId);
  expect(DEVICE_TYPES.includes(deviceType), "deviceType", `one of ${DEVICE_TYPES.join(", ")}`, deviceType);
  const isShort = typeof platform === "string" && [...platform].length <= LONGEST_PLATFORM;
  expect(isShort, "platform", `a string of at most ${LONGEST_PLATFORM} characters`, platform);
  if (typeof WebSocket !== "function") {
    throw new TypeError("this runtime has no WebSocket: use Node.js 22 or newer, or pass the option WebSocket");
  }
  return { ...all, httpUrl: httpUrl?.replace(/\/+$/, "") };
}

/**
 * Check a user id. Invalid ones must not get into a URL: `fetch` resolves `..` in a path.
 *
 * @throws {TypeError}
 */
export function checkUserId(userId, name = "userId") {
  const rule = "1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ | + = - (but not . or ..)";
  expect(matches(USER_ID, userId), name, rule, userId);
}

/** Check an array of user ids. @throws {TypeError} */
export function checkUserIds(userIds, name) {
  expect(Array.isArray(userIds), name, "an array of user ids", userIds);
  userIds.forEach((userId, index) => checkUserId(userId, `${name}[${index}]`));
}

/** A promise rejected with a `TypeError` that says what `name` must be. */
export const invalid = async (name, rule, value) => expect(false, name, rule, value);

/** Throw a `TypeError` that says what `name` must be, unless `isValid`. */
function expect(isValid, name, rule, value) {
  if (!isValid) throw new TypeError(`${name} must be ${rule}, not ${shown(value)}`);
}

function shown(value) {
  if (value === null || value === undefined) return String(value);
  return typeof value === "string" ? JSON.stringify(value) : `a value of type ${typeof value}`;
}

const matches = (pattern, value) => typeof value === "string" && pattern.test(value);

function isUrl(value, protocols) {
  if (typeof value !== "string" || /[?#]/.test(value)) return false;
  try {
    return protocols.includes(new URL(value).protocol);
  } catch {
    return false;
  }
}
