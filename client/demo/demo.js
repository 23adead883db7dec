/**
 * The demo: one person's presence, with everything that can be done to it. It is an application like any other: what it
 * knows comes from `Presence`. `?me=alice` says who; `?device=` and `?type=` make it
 * another device than this browser.
 */

import { Presence } from "../presence.js";
import { Account, LIFE, ask } from "./account.js";
import { Network } from "./network.js";
import { Timeline } from "./timeline.js";
import { $, drawChoices, drawConnection, drawContacts, drawDevices, drawFacts, drawPicker, drawSelf } from "./view.js";
import { fillTimes, say, timeLeft, warn } from "./view.js";
import { doing, inOwnWords, nameOf } from "./words.js";

const PEOPLE = ["alice", "bob", "carol", "dave", "erin"];
const RECONNECT_WITHIN = 2_000; // ms: there are a few of us, and not ten thousand
const LOOK_EVERY = 4_000; // ms: no frame tells at once that another device of one's own came or went
const LOOK_SOON = 150; // ms: changes come together
const SHORT_LIFE = 15; // s
const EXPIRED = -60; // s: more than the leeway that clocks are given
// What the client finds out by itself, in a person's words; all else the service has said.
const FOUND = {
  no_websocket: "No WebSocket gets through, so the page asks over HTTP now and then, and tries again",
  unreachable: "Nothing answers: does the service run?",
};

const place = new URLSearchParams(location.search);
const me = place.get("me");
const address = (user, more = {}) => `?${new URLSearchParams({ me: user, ...more })}`;

const network = new Network();
const account = new Account(me, network.fetch);
const prepared = []; // tokens that are used before new ones
let presence;
let about = null; // what GET /v1/me said last
let moves = 0; // from one connection to the next
let attempts = 0; // that are not over: what was just clicked is not taken back by what was known before
let timeline;
let looking;

if (!me) drawPicker(PEOPLE, address);
else if (isUserId(me)) start().catch((error) => drawPicker(PEOPLE, address, error.message));
else drawPicker(PEOPLE, address, `"${me}" is no user id: letters, digits and . _ ~ : @ | + = - may be in one, up to 128.`);

/** The form of the picker says what a user id is. */
function isUserId(text) {
  const { pattern } = $("user");
  return new RegExp(`^(?:${pattern})$`, "v").test(text);
}

async function start() {
  const { graph } = await ask("/demo/contacts", {});
  prepared.push(await account.token());
  document.title = `${nameOf(me)}: presence`;
  $("title").textContent = `Presence of ${nameOf(me)}`;
  $("app").hidden = false;
  if (graph === "not_loaded") warn("Nobody sees anybody yet: `presence contacts load FILE` marks this Redis as loaded.");
  $("command").textContent = `presence contacts add ${quoted(me)} ${PEOPLE.find((user) => user !== me)}`;
  fillTimes();
  timeline = new Timeline($("timeline"));
  wire();
  connect();
  setInterval(draw, 1_000);
  setInterval(look, LOOK_EVERY);
}

/** As a shell takes it. */
const quoted = (user) => (/^[\w@:.+=-]+$/.test(user) ? user : `'${user}'`);

function connect() {
  presence = new Presence({
    url: `ws://${location.host}/live`,
    httpUrl: location.origin,
    token: async () => prepared.pop() ?? account.token(),
    tokenSource: account.tokenSource,
    ...(place.has("device") && { deviceId: place.get("device"), deviceType: place.get("type") ?? "web" }),
    reconnectWithin: RECONNECT_WITHIN,
    WebSocket: network.WebSocket,
    fetch: network.fetch,
  });
  const on = (type, listener) => presence.addEventListener(type, ({ detail }) => listener(detail));
  on("change", changed);
  on("self", itself);
  on("connection", connected);
  on("error", ({ code, message }) => say(FOUND[code] ?? `The service says: ${message}`));
  presence.open();
}

// What the client tells

function changed({ userId, user, previous }) {
  timeline.note(userId, user?.status ?? null);
  draw();
  if (previous === null) return; // the first picture is no news
  if (user === null) return say(`${nameOf(userId)} is no contact any more`);
  if (user.status !== previous.status) say(`${nameOf(userId)} is ${lower(doing(user))}`);
  const words = inOwnWords(user.customStatus);
  if (words !== inOwnWords(previous.customStatus)) say(`${nameOf(userId)} ${words ? `says: ${words}` : "says nothing"}`);
}

function itself(self) {
  noteMyself();
  if (self.connectionId && self.connectionId !== document.body.dataset.connectionId) {
    if (document.body.dataset.connectionId) moves += 1;
    if (document.body.dataset.connection === "online") say("Moved on to another connection, with a new token");
    document.body.dataset.connectionId = self.connectionId;
  }
  draw();
  clearTimeout(looking);
  looking = setTimeout(look, LOOK_SOON);
}

function connected({ state, reason }) {
  timeline.stale(presence.stale);
  noteMyself();
  drawConnection(state);
  const isWanted = state === "online" || state === "closed"; // then the reason is no news
  say(`${$("connection").textContent}${reason && !isWanted ? `: ${reason}` : ""}`);
  draw();
}

/** A page that is not connected does not know what one is. */
const noteMyself = () => timeline.note(me, presence.stale ? null : (presence.self?.status ?? null));

const lower = (words) => words[0].toLowerCase() + words.slice(1);

// What the page shows

/** Why it is not known what one is, in words; nothing where it is known. */
function gone() {
  if (!presence.stale) return "";
  return { closed: "Signed out", stale: "Not known" }[presence.connection] ?? "Not connected";
}

function draw() {
  const [hidden, blocked] = [about?.hideFrom ?? [], about?.blocks ?? []];
  drawContacts({ users: presence.users, now: Date.now(), hidden, blocked, act });
  $("nobody").hidden = presence.users.size > 0 || presence.stale; // which says nothing of nobody
  drawSelf(me, presence.self, about, gone());
  if (!attempts) drawChoices(presence.self);
  drawDevices(devices(), presence.self?.connectionId, gone());
  drawConnectionFacts();
}

/** One's own, as the newer of two tells of them: the one that knows this connection. */
function devices() {
  const told = [about?.devices, presence.self?.devices];
  const knows = (list) => list?.some(({ connectionId }) => connectionId === presence.self?.connectionId);
  return told.find(knows) ?? presence.self?.devices ?? [];
}

function drawConnectionFacts() {
  const now = Date.now();
  const self = presence.stale ? null : presence.self;
  drawFacts({
    Device: place.get("device") ?? "this browser",
    "By way of": { online: "WebSocket", polling: "HTTP, polled" }[presence.connection] ?? "Not connected",
    Connection: self?.connectionId,
    "Moves on": self?.rotateAt && timeLeft(self.rotateAt, now),
    Moves: String(moves),
    "Token ends": timeLeft(account.endsAt, now),
    Tokens: String(account.issued),
  });
}

/** Ask what no frame tells: why the status is what it is, all devices, and what one hides. */
async function look() {
  if (document.hidden || presence.connection === "closed") return;
  about = await presence.me().catch(() => about); // the connection tells whether there is one
  draw();
}

// What the person does

/** Do something, show what came of it, and say why it failed. */
async function attempt(work) {
  attempts += 1;
  try {
    await work();
  } catch (error) {
    say(`That did not work: ${error.message}`);
  }
  await look();
  attempts -= 1;
  draw();
}

function act(kind, user, on) {
  const others = (about?.hideFrom ?? []).filter((other) => other !== user);
  const hideFrom = on ? [...others, user] : others;
  attempt(() => {
    if (kind === "hide") return presence.setPrivacy({ hideFrom });
    return on ? presence.block(user) : presence.unblock(user);
  });
}

const until = (list) => (Number(list.value) ? Date.now() + Number(list.value) : undefined);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`)?.value;

function wire() {
  const on = (id, type, listener) => $(id).addEventListener(type, listener);
  const claim = () => attempt(() => presence.setClaim(chosen("claim") || null, until($("claim-until"))));
  for (const radio of document.querySelectorAll("input[name=device]")) {
    radio.addEventListener("change", () => attempt(() => presence.setStatus(radio.value)));
  }
  for (const radio of document.querySelectorAll("input[name=claim]")) radio.addEventListener("change", claim);
  on("claim-until", "change", () => chosen("claim") && claim());
  on("custom", "submit", (event) => {
    event.preventDefault();
    const { emoji, text, until: list } = event.target.elements;
    const words = { text: text.value.trim(), emoji: emoji.value.trim(), until: until(list) ?? null };
    attempt(() => presence.setCustomStatus(words.text || words.emoji ? words : null));
  });
  on("custom-clear", "click", () => {
    $("custom").reset();
    attempt(() => presence.setCustomStatus(null));
  });
  on("invisible", "change", ({ target }) => attempt(() => presence.setPrivacy({ invisible: target.checked })));
  on("last-seen", "change", ({ target }) =>
    attempt(() => presence.setPrivacy({ lastSeen: target.checked ? "everyone" : "nobody" })),
  );
  for (const button of document.querySelectorAll("[data-open]")) {
    button.addEventListener("click", () => open(button.dataset.open));
  }
  on("lost", "change", ({ target }) => (network.lost = target.checked));
  on("refusing", "change", ({ target }) => (network.refusing = target.checked));
  on("short", "change", ({ target }) => {
    account.life = target.checked ? SHORT_LIFE : LIFE;
    say(target.checked ? "From now on a token is good for 15 seconds" : "From now on a token is good for an hour");
    if (presence.connection !== "closed") presence.reconnect();
  });
  on("kill", "click", () => attempt(() => ask("/demo/lose", { connectionId: presence.self?.connectionId ?? "" })));
  on("expire", "click", () => attempt(expire));
  on("leave", "click", () => (presence.connection === "closed" ? presence.open() : presence.leave()));
}

/** Go over to another connection, with a token that has ended: the handshake is refused, and made again with a new one. */
async function expire() {
  prepared.push(await account.token(EXPIRED));
  say("The token has ended: the next handshake is refused, and a new token asked for");
  presence.reconnect();
}

/** Another device of the same person, in a tab of its own; without a type it is another tab of this device. */
function open(type) {
  const device = type && { device: `${type}-${Math.random().toString(36).slice(2, 8)}`, type };
  window.open(address(me, device || {}), "_blank", "noopener");
}
