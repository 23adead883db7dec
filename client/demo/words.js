/** How the page says things: statuses, devices, times. Nothing is drawn or fetched here. */

export const STATUS = { online: "Online", busy: "Busy", away: "Away", offline: "Offline" };
export const DEVICE = { web: "Browser", mobile: "Phone", desktop: "Desktop app" };
const ON = { web: "in a browser", mobile: "on a phone", desktop: "in a desktop app" };

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short", hourCycle: "h23" });
const seconds = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long" });

export const atTime = (time) => clock.format(time);
export const atSecond = (time) => seconds.format(time);

/** A user id as a name: `alice` is Alice, and `user:42` is user:42. */
export const nameOf = (userId) => (/^[a-z]+$/.test(userId) ? userId[0].toUpperCase() + userId.slice(1) : userId);

/** A length of time: `8 seconds`, `12 minutes`, `3 hours`. */
export function lasting(ms) {
  for (const [unit, length] of [
    ["day", 86_400_000],
    ["hour", 3_600_000],
    ["minute", 60_000],
  ]) {
    if (ms >= length) return several(Math.floor(ms / length), unit);
  }
  return several(Math.max(0, Math.floor(ms / 1_000)), "second");
}

/** When somebody was last seen: `just now`, `12 minutes ago`, `yesterday at 14:02`, `on 3 May`. */
export function ago(time, now) {
  const passed = now - time;
  if (passed < 60_000) return "just now";
  if (passed < 86_400_000) return `${lasting(passed)} ago`;
  if (passed < 2 * 86_400_000) return `yesterday at ${atTime(time)}`;
  return `on ${day.format(time)}`;
}

/** What a contact is doing: `Busy, on a phone`. */
export const doing = ({ status, deviceType }) => STATUS[status] + (ON[deviceType] ? `, ${ON[deviceType]}` : "");

/** A custom status in one line: `🍜 Lunch, until 13:00`. */
export function inOwnWords(custom) {
  if (!custom) return "";
  const said = [custom.emoji, custom.text].filter(Boolean).join(" ");
  return custom.until ? `${said}, until ${atTime(custom.until)}` : said;
}

export const several = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
