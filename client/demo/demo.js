/**
 * The demo page: one user's presence, with controls to change it and to break the connection. It is an application like
 * any other: what it shows comes from `Presence`. In the address, `?me=alice` is the user; `?device=` and `?type=` make
 * the page a device other than this browser.
 */

import { Presence } from "../presence.js";
import { Account, LIFETIME, callDemo } from "./account.js";
import { customStatusText, displayName, statusText, timeLeft } from "./format.js";
import { Network } from "./network.js";
import { Timeline } from "./timeline.js";
import { $, drawConnection, drawContacts, drawControls, drawDevices, drawFacts, drawPicker, drawSelf } from "./view.js";
import { fillDurations, log, showNotice } from "./view.js";

const PEOPLE = ["alice", "bob", "carol", "dave", "erin"];
const RECONNECT_WITHIN = 2_000; // ms: enough for a few clients
const FETCH_EVERY = 4_000; // ms: no frame reports that another device of the user came or went
const FETCH_DELAY = 150; // ms after a change: changes often come in groups
const SHORT_LIFETIME = 15; // s
const EXPIRED = -60; // s: beyond the leeway for clocks
// Errors of the client itself, for people. All other messages come from the service.
const CLIENT_ERRORS = {
  no_websocket: "WebSockets are blocked: the page polls over HTTP and keeps trying",
  unreachable: "No response: is the service running?",
};

const query = new URLSearchParams(location.search);
const me = query.get("me");
const addressOf = (user, more = {}) => `?${new URLSearchParams({ me: user, ...more })}`;

const network = new Network();
const account = new Account(me, network.fetch);
const prepared = []; // tokens to use before new ones
let presence;
let ownState = null; // the last response of GET /v1/me
let connectionChanges = 0;
let pendingActions = 0; // while there are any, old state must not reset the controls
let timeline;
let fetchTimer;

if (!me) drawPicker(PEOPLE, addressOf);
else if (isUserId(me)) start().catch((error) => drawPicker(PEOPLE, addressOf, error.message));
else drawPicker(PEOPLE, addressOf, `"${me}" is not a valid user ID: use 1 to 128 letters, digits or . _ ~ : @ | + = -`);

/** Whether the picker's form would accept this user id. */
function isUserId(text) {
  const { pattern } = $("user");
  return new RegExp(`^(?:${pattern})$`, "v").test(text);
}

async function start() {
  const { graph } = await callDemo("/demo/contacts", {});
  prepared.push(await account.token());
  document.title = `${displayName(me)}: presence`;
  $("title").textContent = `Presence of ${displayName(me)}`;
  $("app").hidden = false;
  if (graph === "not_loaded") {
    showNotice("Nobody sees anybody yet: no contacts are loaded. In a terminal, run: presence contacts load FILE");
  }
  $("command").textContent = `presence contacts add ${shellQuoted(me)} ${PEOPLE.find((user) => user !== me)}`;
  fillDurations();
  timeline = new Timeline($("timeline"));
  wire();
  connect();
  setInterval(draw, 1_000);
  setInterval(fetchOwnState, FETCH_EVERY);
}

const shellQuoted = (user) => (/^[\w@:.+=-]+$/.test(user) ? user : `'${user}'`);

function connect() {
  presence = new Presence({
    url: `ws://${location.host}/live`,
    httpUrl: location.origin,
    token: async () => prepared.pop() ?? account.token(),
    tokenSource: account.tokenSource,
    ...(query.has("device") && { deviceId: query.get("device"), deviceType: query.get("type") ?? "web" }),
    reconnectWithin: RECONNECT_WITHIN,
    WebSocket: network.WebSocket,
    fetch: network.fetch,
  });
  const on = (type, listener) => presence.addEventListener(type, ({ detail }) => listener(detail));
  on("change", contactChanged);
  on("self", selfChanged);
  on("connection", connectionChanged);
  on("error", ({ code, message }) => log(CLIENT_ERRORS[code] ?? `Error: ${message}`));
  presence.open();
}

// Events of the client

function contactChanged({ userId, user, previous }) {
  timeline.setStatus(userId, user?.status ?? null);
  draw();
  if (previous === null) return; // the first snapshot is not logged
  const name = displayName(userId);
  if (user === null) return log(`${name} is no longer a contact`);
  if (user.status !== previous.status) log(`${name} is ${lowerFirst(statusText(user))}`);
  const custom = customStatusText(user.customStatus);
  if (custom === customStatusText(previous.customStatus)) return;
  log(custom ? `${name} set a custom status: ${custom}` : `${name}'s custom status ended`);
}

function selfChanged(self) {
  drawOwnTimeline();
  if (self.connectionId && self.connectionId !== document.body.dataset.connectionId) {
    if (document.body.dataset.connectionId) connectionChanges += 1;
    if (document.body.dataset.connection === "online") log("Moved to a new connection");
    document.body.dataset.connectionId = self.connectionId;
  }
  draw();
  clearTimeout(fetchTimer);
  fetchTimer = setTimeout(fetchOwnState, FETCH_DELAY);
}

function connectionChanged({ state, reason }) {
  timeline.setStale(presence.stale);
  drawOwnTimeline();
  drawConnection(state);
  const isIntended = state === "online" || state === "closed"; // then the reason is not worth a mention
  log(`${$("connection").textContent}${reason && !isIntended ? `: ${reason}` : ""}`);
  draw();
}

/** While disconnected, the user's own status is unknown. */
const drawOwnTimeline = () => timeline.setStatus(me, presence.stale ? null : (presence.self?.status ?? null));

const lowerFirst = (text) => text[0].toLowerCase() + text.slice(1);

// What the page shows

/** Why the user's own status is unknown; empty if it is known. */
function unknownReason() {
  if (!presence.stale) return "";
  return { closed: "Signed out", stale: "Unknown" }[presence.connection] ?? "Not connected";
}

function draw() {
  const [hidden, blocked] = [ownState?.hideFrom ?? [], ownState?.blocks ?? []];
  drawContacts({ users: presence.users, now: Date.now(), hidden, blocked, act });
  $("no-contacts").hidden = presence.users.size > 0 || presence.stale;
  drawSelf(me, presence.self, ownState, unknownReason());
  if (!pendingActions) drawControls(presence.self);
  drawDevices(devices(), presence.self?.connectionId, unknownReason());
  drawConnectionFacts();
}

/** The user's devices, from the newer of two sources: the one that has this connection. */
function devices() {
  const lists = [ownState?.devices, presence.self?.devices];
  const hasThis = (list) => list?.some(({ connectionId }) => connectionId === presence.self?.connectionId);
  return lists.find(hasThis) ?? presence.self?.devices ?? [];
}

function drawConnectionFacts() {
  const now = Date.now();
  const self = presence.stale ? null : presence.self;
  drawFacts({
    Device: query.get("device") ?? "this browser",
    Transport: { online: "WebSocket", polling: "HTTP polling" }[presence.connection] ?? "Not connected",
    "Connection ID": self?.connectionId,
    "Next rotation": self?.rotateAt && timeLeft(self.rotateAt, now),
    "Connection changes": String(connectionChanges),
    "Token expires": timeLeft(account.expiresAt, now),
    "Tokens issued": String(account.issued),
  });
}

/** Fetch what no frame reports: why the status is what it is, all devices, and privacy settings. */
async function fetchOwnState() {
  if (document.hidden || presence.connection === "closed") return;
  ownState = await presence.me().catch(() => ownState); // the connection shows whether the service responds
  draw();
}

// Actions

/** Run an action, then show its result or log why it failed. */
async function perform(action) {
  pendingActions += 1;
  try {
    await action();
  } catch (error) {
    log(`Failed: ${error.message}`);
  }
  await fetchOwnState();
  pendingActions -= 1;
  draw();
}

function act(kind, user, isOn) {
  const others = (ownState?.hideFrom ?? []).filter((other) => other !== user);
  const hideFrom = isOn ? [...others, user] : others;
  perform(() => {
    if (kind === "hide") return presence.setPrivacy({ hideFrom });
    return isOn ? presence.block(user) : presence.unblock(user);
  });
}

const untilOf = (list) => (Number(list.value) ? Date.now() + Number(list.value) : undefined);
const selected = (name) => document.querySelector(`input[name=${name}]:checked`)?.value;

function wire() {
  const on = (id, type, listener) => $(id).addEventListener(type, listener);
  const claim = () => perform(() => presence.setClaim(selected("claim") || null, untilOf($("claim-duration"))));
  for (const radio of document.querySelectorAll("input[name=device]")) {
    radio.addEventListener("change", () => perform(() => presence.setStatus(radio.value)));
  }
  for (const radio of document.querySelectorAll("input[name=claim]")) radio.addEventListener("change", claim);
  on("claim-duration", "change", () => selected("claim") && claim());
  on("custom", "submit", (event) => {
    event.preventDefault();
    const { emoji, text, duration } = event.target.elements;
    const custom = { text: text.value.trim(), emoji: emoji.value.trim(), until: untilOf(duration) ?? null };
    perform(() => presence.setCustomStatus(custom.text || custom.emoji ? custom : null));
  });
  on("custom-clear", "click", () => {
    $("custom").reset();
    perform(() => presence.setCustomStatus(null));
  });
  on("invisible", "change", ({ target }) => perform(() => presence.setPrivacy({ invisible: target.checked })));
  on("last-seen", "change", ({ target }) =>
    perform(() => presence.setPrivacy({ lastSeen: target.checked ? "everyone" : "nobody" })),
  );
  for (const button of document.querySelectorAll("[data-open]")) {
    button.addEventListener("click", () => openDevice(button.dataset.open));
  }
  on("disconnect", "change", ({ target }) => (network.isLost = target.checked));
  on("block-websockets", "change", ({ target }) => (network.blocksWebSockets = target.checked));
  on("short", "change", ({ target }) => {
    account.lifetime = target.checked ? SHORT_LIFETIME : LIFETIME;
    log(`New tokens are valid for ${target.checked ? "15 seconds" : "an hour"}`);
    if (presence.connection !== "closed") presence.reconnect();
  });
  on("kill", "click", () => perform(() => callDemo("/demo/lose", { connectionId: presence.self?.connectionId ?? "" })));
  on("expire", "click", () => perform(expireToken));
  on("leave", "click", () => (presence.connection === "closed" ? presence.open() : presence.leave()));
}

/** Reconnect with an expired token: the handshake is refused, and retried with a new token. */
async function expireToken() {
  prepared.push(await account.token(EXPIRED));
  log("The token expired: the next handshake is refused and retried with a new token");
  presence.reconnect();
}

/** Open another device of the user in a tab of its own; without a type, another tab of this device. */
function openDevice(type) {
  const device = type && { device: `${type}-${Math.random().toString(36).slice(2, 8)}`, type };
  window.open(addressOf(me, device || {}), "_blank", "noopener");
}
