/** Draws contacts, the user, devices and facts into the page. What they are, and what a click does, is in demo.js. */

import { DEVICE, STATUS, ago, customStatusText, displayName } from "./format.js";
import { plural, statusText, toMinute, toSecond } from "./format.js";

const MOST_LINES = 40; // in the event log

export const $ = (id) => document.getElementById(id);

/** Write text only if it differs, so that screen readers do not announce it again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Write text that CSS clamps to two lines; the tooltip has all of it. */
function writeClamped(element, text) {
  write(element, text);
  element.title = text;
}

function drawShape(element, status) {
  element.dataset.status = status;
  element.querySelector("use").setAttribute("href", `#shape-${status}`);
}

/** The list of users to sign in as; `notice` says what was wrong with the one in the address. */
export function drawPicker(people, url, notice = "") {
  const links = people.map((user) => {
    const link = document.createElement("a");
    link.href = url(user);
    link.append(avatar(user), displayName(user));
    const item = document.createElement("li");
    item.append(link);
    return item;
  });
  $("people").replaceChildren(...links);
  $("invalid").hidden = !notice;
  write($("invalid"), notice);
  $("picker").hidden = false;
}

function avatar(user) {
  const circle = document.createElement("span");
  circle.className = "avatar";
  circle.ariaHidden = "true";
  circle.dataset.hue = hue(user);
  circle.textContent = initials(user);
  return circle;
}

const initials = (user) => user.slice(0, 1).toUpperCase();
const hue = (user) => user.codePointAt(0) % 6;

/**
 * The list of contacts, sorted by name. A contact keeps its element, so that the keyboard focus stays.
 *
 * @param {object} state `{users, now, hidden, blocked, act(kind, user, isOn)}`
 */
export function drawContacts({ users, now, hidden, blocked, act }) {
  const list = $("contacts");
  const names = [...users.keys()].sort();
  const items = new Map([...list.children].map((item) => [item.dataset.user, item]));
  for (const [user, item] of items) if (!users.has(user)) item.remove();
  names.forEach((user, index) => {
    const item = items.get(user) ?? newContact(user, act);
    if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
    drawContact(item, users.get(user), now, hidden.includes(user), blocked.includes(user));
  });
  const online = names.filter((user) => users.get(user).status !== "offline").length;
  write($("count"), names.length ? `${online} of ${names.length} online` : "");
}

function newContact(user, act) {
  const item = $("contact").content.firstElementChild.cloneNode(true);
  item.dataset.user = user;
  item.querySelector(".avatar").dataset.hue = hue(user);
  item.querySelector(".initials").textContent = initials(user);
  item.querySelector(".name").textContent = displayName(user);
  for (const [kind, label] of [
    ["hide", `Hide from ${displayName(user)}`],
    ["block", `Block ${displayName(user)}`],
  ]) {
    const button = item.querySelector(`.${kind}`);
    button.ariaLabel = label;
    button.title = label;
    button.addEventListener("click", () => act(kind, user, button.ariaPressed !== "true"));
  }
  return item;
}

function drawContact(item, record, now, isHidden, isBlocked) {
  const { userId, status, customStatus, lastSeen } = record;
  drawShape(item, status);
  const offline = lastSeen ? `Last seen ${ago(lastSeen, now)}` : STATUS.offline;
  write(item.querySelector(".status"), status === "offline" ? offline : statusText(record));
  writeClamped(item.querySelector(".custom"), customStatusText(customStatus));
  const hidden = isHidden ? `You appear offline to ${displayName(userId)}` : "";
  write(item.querySelector(".privacy"), isBlocked ? "Blocked: you do not see each other" : hidden);
  item.querySelector(".hide").ariaPressed = String(isHidden);
  item.querySelector(".block").ariaPressed = String(isBlocked);
}

/** The user's own real state; or `unknown`, the reason why it is not known. */
export function drawSelf(user, self, me, unknown) {
  const status = unknown ? "offline" : (self?.status ?? "offline");
  const card = document.querySelector(".you");
  drawShape(card, status);
  card.querySelector(".avatar").dataset.hue = hue(user);
  card.classList.toggle("unknown", Boolean(unknown));
  write($("initials"), initials(user));
  write($("you-title"), displayName(user));
  const invisible = self?.invisible ? ", but invisible" : "";
  const until = self?.claim?.until ? ` until ${toMinute(self.claim.until)}` : "";
  write($("you-status"), unknown || `${STATUS[status]}${until}${invisible}`);
  writeClamped($("you-custom"), customStatusText(self?.customStatus));
  write($("why"), me?.why && !unknown ? `Why: ${me.why.replace(": ", ", ")}.` : "");
}

/** The controls, set to what the service has stored. */
export function drawControls(self) {
  const device = self?.devices.find(({ connectionId }) => connectionId === self.connectionId);
  if (device) check("device", device.status);
  check("claim", self?.claim?.status ?? "");
  $("invisible").checked = self?.invisible ?? false;
  $("last-seen").checked = (self?.lastSeenPolicy ?? "everyone") === "everyone";
}

function check(name, value) {
  for (const radio of document.querySelectorAll(`input[name=${name}]`)) radio.checked = radio.value === value;
}

/** The user's devices; tabs are connections of one device. `unknown` replaces the status of the device `here`. */
export function drawDevices(devices, here, unknown) {
  const groups = Map.groupBy(devices, ({ deviceId, connectionId }) => deviceId || connectionId);
  const items = [...groups].sort().map(([deviceId, tabs]) => {
    const item = document.createElement("li");
    const count = tabs.length > 1 ? `, ${plural(tabs.length, "connection")}` : "";
    const isHere = tabs.some(({ connectionId }) => connectionId === here);
    const name = document.createElement("span");
    name.textContent = `${DEVICE[tabs[0].deviceType] ?? "Device"}${isHere ? " (this one)" : ""}${count}`;
    const status = document.createElement("span");
    status.className = "dim";
    status.textContent = (isHere && unknown) || STATUS[tabs[0].status];
    item.dataset.device = deviceId;
    item.append(name, status);
    return item;
  });
  $("devices").replaceChildren(...items);
  write($("device-count"), groups.size ? plural(groups.size, "device") : "");
}

const CONNECTION = {
  connecting: "Connecting",
  online: "Live",
  polling: "Polling",
  stale: "Service unavailable",
  closed: "Signed out",
};

/** Controls that have no effect while signed out. */
const NEED_CONNECTION = ".you :is(input, select), .you form button, .contact button, #kill, #expire";

export function drawConnection(state) {
  document.body.dataset.connection = state;
  $("connection").hidden = false;
  write($("connection"), CONNECTION[state]);
  $("stale").hidden = state === "online" || state === "polling";
  write($("stale"), `${state === "stale" ? "Service unavailable" : "Not connected"}. Statuses may be out of date.`);
  write($("leave"), state === "closed" ? "Sign in again" : "Sign out");
  for (const control of document.querySelectorAll(NEED_CONNECTION)) control.disabled = state === "closed";
}

/** A list of names and values; empty values are left out. */
export function drawFacts(facts) {
  const list = $("facts");
  const shown = Object.entries(facts).filter(([, value]) => value);
  if (list.children.length !== shown.length * 2) {
    list.replaceChildren(...shown.flatMap(() => [document.createElement("dt"), document.createElement("dd")]));
  }
  shown.forEach(([name, value], index) => {
    write(list.children[index * 2], name);
    write(list.children[index * 2 + 1], value);
  });
}

/** Add a line to the event log. */
export function log(text) {
  const [line, time] = [document.createElement("li"), document.createElement("time")];
  time.textContent = toSecond(Date.now());
  line.append(time, text);
  $("log").prepend(line);
  while ($("log").children.length > MOST_LINES) $("log").lastElementChild.remove();
}

/** Show a notice at the top of the page; hide it if it is empty. */
export function showNotice(text) {
  $("notice").hidden = !text;
  write($("notice"), text);
}

/** Fill the lists of durations; their values are in ms. */
export function fillDurations() {
  for (const list of document.querySelectorAll("select.duration")) {
    for (const [label, ms] of [
      ["until I change it", 0],
      ["for 10 seconds", 10_000],
      ["for 1 minute", 60_000],
      ["for 30 minutes", 1_800_000],
      ["for 2 hours", 7_200_000],
    ]) {
      list.add(new Option(label, ms));
    }
  }
}
