/** Each person's status over the last minutes, drawn again every second. What a status is, somebody else says. */

import { svg } from "./svg.js";
import { STATUS, atSecond, lasting, nameOf } from "./words.js";

const LENGTH = 180_000; // ms that are shown
const ROW = 32; // px
const AXIS = 22; // px
const LABELS = 76; // px
const EDGE = 8; // px: half of the word at the right end
/** Statuses differ by height, and busy by its stripes: colour says nothing that shape does not. */
const HEIGHT = { online: 16, busy: 16, away: 8, offline: 2 };

export class Timeline {
  #place;
  #rows = new Map(); // row → its segments, {status, from}, oldest first
  #gaps = []; // when the picture could be old, {from, until}; until is null while it lasts

  constructor(place) {
    this.#place = place;
    new ResizeObserver(() => this.draw()).observe(place);
    setInterval(() => this.draw(), 1_000);
  }

  /** From now on somebody has this status; null when they are not known any more. */
  note(row, status) {
    if (!this.#rows.has(row)) {
      if (status === null) return;
      this.#rows.set(row, []);
    }
    const segments = this.#rows.get(row);
    if (segments.at(-1)?.status !== status) segments.push({ status, from: Date.now() });
    this.draw();
  }

  /** From now on the picture may be old, or it is not. */
  stale(stale) {
    const open = this.#gaps.at(-1)?.until === null;
    if (stale && !open && this.#rows.size) this.#gaps.push({ from: Date.now(), until: null });
    if (!stale && open) this.#gaps.at(-1).until = Date.now();
    this.draw();
  }

  draw() {
    const now = Date.now();
    const start = now - LENGTH;
    const rows = [...this.#rows].filter(([, segments]) => forget(segments, start));
    this.#gaps = this.#gaps.filter(({ until }) => until === null || until > start);
    const [width, height] = [this.#place.clientWidth, rows.length * ROW + AXIS];
    if (!width) return;
    const x = (time) => LABELS + (Math.max(0, time - start) / LENGTH) * (width - LABELS - EDGE);
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" });
    picture.setAttribute("aria-label", `Statuses of the last three minutes. ${rows.map(inWords).join(" ")}`);
    for (let minute = 0; minute <= LENGTH / 60_000; minute += 1) {
      const at = x(now - minute * 60_000);
      const words = minute === 0 ? "now" : `−${minute} min`;
      picture.append(
        svg("line", { class: "grid", x1: at, x2: at, y1: 0, y2: height - AXIS }),
        svg("text", { class: "axis", x: at, y: height - 5, "text-anchor": minute ? "middle" : "end" }, words),
      );
    }
    for (const { from, until } of this.#gaps) {
      const [left, right] = [x(from), x(until ?? now)];
      picture.append(svg("rect", { class: "gap", x: left, y: 0, width: right - left, height: height - AXIS }));
    }
    rows.forEach(([row, segments], place) => {
      const middle = place * ROW + ROW / 2;
      picture.append(svg("text", { class: "label", x: 0, y: middle + 4 }, short(row)));
      segments.forEach(({ status, from }, index) => {
        if (status === null) return;
        const until = segments[index + 1]?.from ?? now;
        const title = `${nameOf(row)}: ${STATUS[status]} since ${atSecond(from)}, ${lasting(until - from)}`;
        const bar = { "data-user": row, "data-status": status, "data-from": from };
        const [top, tall] = [middle + 8 - HEIGHT[status], HEIGHT[status]];
        const box = { x: x(from), y: top, width: Math.max(1, x(until) - x(from)), height: tall, rx: Math.min(3, tall / 2) };
        picture.append(svg("rect", { ...bar, ...box }, svg("title", {}, title)));
        if (status === "busy") picture.append(svg("rect", { class: "stripes", ...box }));
      });
    });
    this.#place.replaceChildren(picture);
  }
}

/** Drop what is out of sight; gives whether anything is left. */
function forget(segments, start) {
  while (segments.length > 1 && segments[1].from <= start) segments.shift();
  return segments.length > 1 || segments[0].status !== null;
}

const short = (row) => (row.length > 10 ? `${nameOf(row).slice(0, 9)}…` : nameOf(row));

const inWords = ([row, segments]) =>
  `${nameOf(row)}: ${segments.map(({ status }) => STATUS[status]?.toLowerCase() ?? "not known").join(", then ")}.`;
