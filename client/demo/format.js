/** Text for people: statuses, devices, times. Nothing here draws or fetches. */

export const STATUS = { online: "Online", busy: "Busy", away: "Away", offline: "Offline" };
export const DEVICE = { web: "Browser", mobile: "Phone", desktop: "Desktop app" };
const ON_DEVICE = { web: "in a browser", mobile: "on a phone", desktop: "in a desktop app" };

const minutes = new Intl.DateTimeFormat(undefined, { timeStyle: "short", hourCycle: "h23" });
const seconds = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long" });

export const toMinute = (time) => minutes.format(time);
export const toSecond = (time) => seconds.format(time);

/** A user id as a name: `alice` is Alice, and `user:42` is user:42. */
export const displayName = (userId) => (/^[a-z]+$/.test(userId) ? userId[0].toUpperCase() + userId.slice(1) : userId);

/** A duration in ms: `8 seconds`, `12 minutes`, `3 hours`. */
export function duration(ms) {
  for (const [unit, length] of [
    ["day", 86_400_000],
    ["hour", 3_600_000],
    ["minute", 60_000],
  ]) {
    if (ms >= length) return plural(Math.floor(ms / length), unit);
  }
  return plural(Math.max(0, Math.floor(ms / 1_000)), "second");
}

/** A past time: `just now`, `12 minutes ago`, `yesterday at 14:02`, `on May 3`. */
export function ago(time, now) {
  const passed = now - time;
  if (passed < 60_000) return "just now";
  if (passed < 86_400_000) return `${duration(passed)} ago`;
  if (passed < 2 * 86_400_000) return `yesterday at ${toMinute(time)}`;
  return `on ${day.format(time)}`;
}

/** Time left until `time`: `in 8 seconds`, or `now` when it has passed. */
export const timeLeft = (time, now) => (time > now ? `in ${duration(time - now)}` : "now");

/** A contact's status and device: `Busy, on a phone`. */
export const statusText = ({ status, deviceType }) =>
  STATUS[status] + (ON_DEVICE[deviceType] ? `, ${ON_DEVICE[deviceType]}` : "");

/** A custom status in one line: `🍜 Lunch, until 13:00`. */
export function customStatusText(custom) {
  if (!custom) return "";
  const text = [custom.emoji, custom.text].filter(Boolean).join(" ");
  return custom.until ? `${text}, until ${toMinute(custom.until)}` : text;
}

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
