/** Draws people, oneself, devices and facts into the page. What they are, and what a click does, is decided in demo.js. */

import { DEVICE, STATUS, ago, atSecond, atTime, doing, inOwnWords, lasting, nameOf, several } from "./words.js";

const MOST_LINES = 40; // of what happened

export const $ = (id) => document.getElementById(id);

/** Write only what is different: whoever listens is not told the same twice. */
function write(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

/** Words of which two lines are shown, and all to whoever points there. */
function writeCut(element, words) {
  write(element, words);
  element.title = words;
}

function shape(holder, status) {
  holder.dataset.status = status;
  holder.querySelector("use").setAttribute("href", `#shape-${status}`);
}

/** Who one can be; with `words` that say why it is asked again. */
export function drawPicker(people, url, words = "") {
  const links = people.map((user) => {
    const link = document.createElement("a");
    link.href = url(user);
    link.append(avatar(user), nameOf(user));
    const item = document.createElement("li");
    item.append(link);
    return item;
  });
  $("people").replaceChildren(...links);
  $("unknown").hidden = !words;
  write($("unknown"), words);
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
 * The list of contacts, in the order of their names. An item stays the same element for as long as its contact is there,
 * so that nobody loses the focus.
 *
 * @param {object} about `{users, now, hidden, blocked, act(kind, user, on)}`
 */
export function drawContacts({ users, now, hidden, blocked, act }) {
  const list = $("contacts");
  const names = [...users.keys()].sort();
  const items = new Map([...list.children].map((item) => [item.dataset.user, item]));
  for (const [user, item] of items) if (!users.has(user)) item.remove();
  names.forEach((user, place) => {
    const item = items.get(user) ?? newContact(user, act);
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
    drawContact(item, users.get(user), now, hidden.includes(user), blocked.includes(user));
  });
  const online = names.filter((user) => users.get(user).status !== "offline").length;
  write($("count"), names.length ? `${online} of ${names.length} here` : "");
}

function newContact(user, act) {
  const item = $("contact").content.firstElementChild.cloneNode(true);
  item.dataset.user = user;
  item.querySelector(".avatar").dataset.hue = hue(user);
  item.querySelector(".initials").textContent = initials(user);
  item.querySelector(".name").textContent = nameOf(user);
  for (const [kind, words] of [
    ["hide", `Hide from ${nameOf(user)}`],
    ["block", `Block ${nameOf(user)}`],
  ]) {
    const button = item.querySelector(`.${kind}`);
    button.ariaLabel = words;
    button.title = words;
    button.addEventListener("click", () => act(kind, user, button.ariaPressed !== "true"));
  }
  return item;
}

function drawContact(item, record, now, hidden, blocked) {
  const { status, customStatus, lastSeen } = record;
  shape(item, status);
  const seen = lastSeen ? `Last seen ${ago(lastSeen, now)}` : STATUS.offline;
  write(item.querySelector(".status"), status === "offline" ? seen : doing(record));
  writeCut(item.querySelector(".custom"), inOwnWords(customStatus));
  const hiding = hidden ? `You are hidden from ${item.querySelector(".name").textContent}` : "";
  write(item.querySelector(".kept"), blocked ? "Blocked: neither of you sees the other" : hiding);
  item.querySelector(".hide").ariaPressed = String(hidden);
  item.querySelector(".block").ariaPressed = String(blocked);
}

/** Oneself, as one really is; where `gone` says in words why one is not there, that. */
export function drawSelf(user, self, about, gone) {
  const status = gone ? "offline" : (self?.status ?? "offline");
  shape(document.querySelector(".you"), status);
  document.querySelector(".you .avatar").dataset.hue = hue(user);
  write($("initials"), initials(user));
  write($("you-title"), nameOf(user));
  document.querySelector(".you").classList.toggle("gone", Boolean(gone));
  const invisible = self?.invisible ? ", but invisible" : "";
  const until = self?.claim?.until ? ` until ${atTime(self.claim.until)}` : "";
  write($("you-status"), gone || `${STATUS[status]}${until}${invisible}`);
  writeCut($("you-custom"), inOwnWords(self?.customStatus));
  write($("why"), about?.why && !gone ? `Why: ${about.why.replace(": ", ", ")}.` : "");
}

/** What one has chosen, as the service knows it. */
export function drawChoices(self) {
  const device = self?.devices.find(({ connectionId }) => connectionId === self.connectionId);
  if (device) check("device", device.status);
  check("claim", self?.claim?.status ?? "");
  $("invisible").checked = self?.invisible ?? false;
  $("last-seen").checked = (self?.lastSeenPolicy ?? "everyone") === "everyone";
}

/** Which of some radio buttons is on. */
function check(name, value) {
  for (const radio of document.querySelectorAll(`input[name=${name}]`)) radio.checked = radio.value === value;
}

/** One's own devices; the connections of one are its tabs. Of this one it may be said that it is `gone`. */
export function drawDevices(devices, here, gone) {
  const groups = Map.groupBy(devices, ({ deviceId, connectionId }) => deviceId || connectionId);
  const items = [...groups].sort().map(([deviceId, tabs]) => {
    const item = document.createElement("li");
    const kinds = tabs.length > 1 ? `, ${several(tabs.length, "connection")}` : "";
    const isHere = tabs.some(({ connectionId }) => connectionId === here);
    const mine = isHere ? " (this one)" : "";
    const name = document.createElement("span");
    name.textContent = `${DEVICE[tabs[0].deviceType] ?? "Device"}${mine}${kinds}`;
    const state = document.createElement("span");
    state.className = "dim";
    state.textContent = (isHere && gone) || STATUS[tabs[0].status];
    item.dataset.device = deviceId;
    item.append(name, state);
    return item;
  });
  $("devices").replaceChildren(...items);
  write($("device-count"), groups.size ? several(groups.size, "device") : "");
}

const CONNECTION = {
  connecting: "Connecting",
  online: "Live",
  polling: "Polling",
  stale: "Service unavailable",
  closed: "Signed out",
};

/** What can do nothing for somebody who is signed out. */
const ACTING = ".you :is(input, select), .you form button, .contact button, #kill, #expire";

export function drawConnection(state) {
  document.body.dataset.connection = state;
  $("connection").hidden = false;
  write($("connection"), CONNECTION[state]);
  $("old").hidden = state === "online" || state === "polling";
  write($("old"), `${state === "stale" ? "The service cannot say" : "Not connected"}. What you see here may be old.`);
  write($("leave"), state === "closed" ? "Sign in again" : "Sign out");
  for (const control of document.querySelectorAll(ACTING)) control.disabled = state === "closed";
}

/** Pairs of a word and what it is; those that are empty are left out. */
export function drawFacts(facts) {
  const list = $("facts");
  const told = Object.entries(facts).filter(([, value]) => value);
  if (list.children.length !== told.length * 2) {
    list.replaceChildren(
      ...told.flatMap(() => [document.createElement("dt"), document.createElement("dd")]),
    );
  }
  told.forEach(([word, value], place) => {
    write(list.children[place * 2], word);
    write(list.children[place * 2 + 1], value);
  });
}

/** Add a line to what happened. */
export function say(words) {
  const [line, time] = [document.createElement("li"), document.createElement("time")];
  time.textContent = atSecond(Date.now());
  line.append(time, words);
  $("log").prepend(line);
  while ($("log").children.length > MOST_LINES) $("log").lastElementChild.remove();
}

export function warn(words) {
  $("notice").hidden = !words;
  write($("notice"), words);
}

/** The times until which something may be, into each list of them; their values are ms from now. */
export function fillTimes() {
  for (const list of document.querySelectorAll("select.until")) {
    for (const [words, ms] of [
      ["I change it", 0],
      ["in 10 seconds", 10_000],
      ["in 1 minute", 60_000],
      ["in 30 minutes", 1_800_000],
      ["in 2 hours", 7_200_000],
    ]) {
      list.add(new Option(words, ms));
    }
  }
}

export const timeLeft = (time, now) => (time > now ? `in ${lasting(time - now)}` : "over");
