/** The timeline: each person's status over the last minutes, redrawn every second. demo.js provides the statuses. */

import { STATUS, displayName, duration, toSecond } from "./format.js";
import { svg } from "./svg.js";

const LENGTH = 180_000; // ms that are shown
const ROW = 32; // px
const AXIS = 22; // px
const LABELS = 76; // px
const EDGE = 8; // px
/** Statuses differ in height, and busy has stripes: color alone distinguishes nothing. */
const HEIGHT = { online: 16, busy: 16, away: 8, offline: 2 };

export class Timeline {
  #container;
  #rows = new Map(); // user → segments, {status, from}, oldest first
  #gaps = []; // times without a connection, {from, until}; until is null while it lasts

  constructor(container) {
    this.#container = container;
    new ResizeObserver(() => this.draw()).observe(container);
    setInterval(() => this.draw(), 1_000);
  }

  /** The user has this status from now on; null if it is unknown. */
  setStatus(user, status) {
    if (!this.#rows.has(user)) {
      if (status === null) return;
      this.#rows.set(user, []);
    }
    const segments = this.#rows.get(user);
    if (segments.at(-1)?.status !== status) segments.push({ status, from: Date.now() });
    this.draw();
  }

  /** Statuses may be out of date from now on, or no longer are. */
  setStale(isStale) {
    const isOpen = this.#gaps.at(-1)?.until === null;
    if (isStale && !isOpen && this.#rows.size) this.#gaps.push({ from: Date.now(), until: null });
    if (!isStale && isOpen) this.#gaps.at(-1).until = Date.now();
    this.draw();
  }

  draw() {
    const now = Date.now();
    const start = now - LENGTH;
    const rows = [...this.#rows].filter(([, segments]) => trim(segments, start));
    this.#gaps = this.#gaps.filter(({ until }) => until === null || until > start);
    const [width, height] = [this.#container.clientWidth, rows.length * ROW + AXIS];
    if (!width) return;
    const x = (time) => LABELS + (Math.max(0, time - start) / LENGTH) * (width - LABELS - EDGE);
    const image = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
    image.setAttribute("aria-label", `Statuses of the last three minutes. ${rows.map(description).join(" ")}`);
    for (let minute = 0; minute <= LENGTH / 60_000; minute += 1) {
      const at = x(now - minute * 60_000);
      const label = minute === 0 ? "now" : `−${minute} min`;
      image.append(
        svg("line", { class: "grid", x1: at, x2: at, y1: 0, y2: height - AXIS }),
        svg("text", { class: "axis", x: at, y: height - 5, "text-anchor": minute ? "middle" : "end" }, label),
      );
    }
    for (const { from, until } of this.#gaps) {
      const [left, right] = [x(from), x(until ?? now)];
      image.append(svg("rect", { class: "gap", x: left, y: 0, width: right - left, height: height - AXIS }));
    }
    rows.forEach(([user, segments], index) => {
      const middle = index * ROW + ROW / 2;
      image.append(svg("text", { class: "label", x: 0, y: middle + 4 }, shortName(user)));
      segments.forEach(({ status, from }, segment) => {
        if (status === null) return;
        const until = segments[segment + 1]?.from ?? now;
        const title = `${displayName(user)}: ${STATUS[status]} from ${toSecond(from)} for ${duration(until - from)}`;
        const bar = { "data-user": user, "data-status": status, "data-from": from };
        const [y, tall] = [middle + 8 - HEIGHT[status], HEIGHT[status]];
        const box = { x: x(from), y, width: Math.max(1, x(until) - x(from)), height: tall, rx: Math.min(3, tall / 2) };
        image.append(svg("rect", { ...bar, ...box }, svg("title", {}, title)));
        if (status === "busy") image.append(svg("rect", { class: "stripes", ...box }));
      });
    });
    this.#container.replaceChildren(image);
  }
}

/** Drop segments before `start`; gives whether any status is left. */
function trim(segments, start) {
  while (segments.length > 1 && segments[1].from <= start) segments.shift();
  return segments.length > 1 || segments[0].status !== null;
}

const shortName = (user) => (user.length > 10 ? `${displayName(user).slice(0, 9)}…` : displayName(user));

const description = ([user, segments]) =>
  `${displayName(user)}: ${segments.map(({ status }) => STATUS[status]?.toLowerCase() ?? "unknown").join(", then ")}.`;
