/**
 * What the operator sees: the numbers that functions write and Lambda counts, from GET /demo/metrics, and what the
 * service says of its health. Which numbers there are is the service's matter; here it is said what they are called.
 */

import { ask } from "./account.js";
import { svg } from "./svg.js";
import { $, drawFacts, warn } from "./view.js";
import { lasting } from "./words.js";

const EVERY = 2_000; // ms
const LATELY = 12; // periods: a minute

const sum = (values) => values.reduce((total, value) => total + value, 0);
const added = (lists, length) => Array.from({ length }, (_, place) => sum(lists.map((list) => list[place])));

const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
/** A measured time: `7.3 ms`, `250 ms`, `60 s`. */
function inMs(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 10_000) return `${Math.round(ms / 1_000)} s`;
  return `${ms >= 100 ? Math.round(ms) : short.format(ms)} ms`;
}

const words = (name) => name.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/** What each tile shows: `number` with its `unit`, a list of `points` (null: not measured), and `parts` below. */
function tiles({ counts, durations, gauges, functions, period }) {
  const length = Object.values(gauges)[0]?.length ?? 60;
  const none = Array(length).fill(0);
  const own = (metric) => Object.values(functions).map((each) => each.counts[metric] ?? none);
  const events = added(own("Invocations"), length);
  const open = gauges.OpenConnections ?? [];
  const trouble = {
    errors: sum(added(own("Errors"), length)),
    throttles: sum(added(own("Throttles"), length)),
    "Redis failures": sum(counts.RedisFailures ?? none),
    "tokens refused": sum(counts.TokensRefused ?? none),
    "messages refused": sum(counts.MessagesRefused ?? none),
  };
  const posts = ["PostsSent", "PostsGone", "PostsThrottled", "PostsFailed"];
  const bad = ["PostsThrottled", "PostsFailed"];
  const changes = ["Connections", "Updates", "Announcements", "Settled"];
  return [
    { title: "Open connections", number: open.at(-1) ?? 0, unit: "now", points: open },
    {
      title: "Events",
      number: short.format((sum(events.slice(-LATELY)) * 1_000) / (LATELY * period)),
      unit: "a second",
      points: events,
    },
    {
      title: "Trouble",
      number: sum(Object.values(trouble)),
      unit: "in five minutes",
      points: added([...own("Errors"), ...own("Throttles"), counts.RedisFailures ?? none], length),
      parts: Object.entries(trouble).map(([name, value]) => [name, value, value > 0]),
    },
    {
      title: "Posts to clients",
      number: sum(counts.PostsSent ?? none),
      unit: "sent",
      points: counts.PostsSent ?? none,
      parts: posts.map((name) => {
        const value = sum(counts[name] ?? none);
        return [name.slice(5).toLowerCase(), value, value > 0 && bad.includes(name)];
      }),
    },
    times("Push latency", durations.PostTime, length),
    times("Redis", durations.RedisTime, length),
    times("Due lateness", durations.DueLateness, length),
    {
      title: "Changes",
      number: sum(counts.Updates ?? none),
      unit: "updates",
      points: counts.Updates ?? none,
      parts: changes.map((name) => [name.toLowerCase(), sum(counts[name] ?? none)]),
    },
  ];
}

function times(title, told, length) {
  const { all } = told ?? { all: {} };
  const parts = ["p50", "p95", "p99"].map((share) => [share, inMs(all[share])]);
  return { title, number: inMs(all.p95), unit: "p95", points: told?.p95 ?? Array(length).fill(null), parts };
}

function drawTiles(list) {
  const place = $("tiles");
  while (place.children.length < list.length) place.append($("tile").content.cloneNode(true));
  list.forEach(({ title, number, unit, points, parts = [] }, index) => {
    const tile = place.children[index];
    tile.querySelector("h2").textContent = title;
    tile.querySelector("b").textContent = number;
    tile.querySelector(".number .dim").textContent = unit;
    tile.querySelector(".picture").replaceChildren(spark(title, points));
    const pairs = parts.map(([name, value, isBad]) => {
      const pair = document.createElement("div");
      pair.className = isBad ? "bad" : "";
      pair.append(element("dt", name), element("dd", value));
      return pair;
    });
    tile.querySelector(".parts").replaceChildren(...pairs);
  });
}

function drawFunctions({ functions, period }) {
  const rows = Object.entries(functions).map(([name, { counts, durations }]) => {
    const events = counts.Invocations ?? [0];
    const rate = (sum(events.slice(-LATELY)) * 1_000) / (LATELY * period);
    const { all = {} } = durations.Duration ?? {};
    const row = document.createElement("tr");
    const head = element("th", name);
    head.scope = "row";
    const picture = document.createElement("td");
    picture.className = "spark";
    picture.append(spark(`Events of ${name}`, events));
    const numbers = [short.format(rate), sum(events), inMs(all.p50), inMs(all.p95), ...trouble(counts)];
    row.append(head, picture, ...numbers.map((value) => element("td", value)));
    return row;
  });
  $("functions").replaceChildren(...rows);
}

const trouble = (counts) => ["Errors", "Throttles"].map((name) => sum(counts[name] ?? [0]));

function element(name, content) {
  const made = document.createElement(name);
  made.textContent = content;
  return made;
}

/** A line of points, with holes where nothing was measured. */
function spark(title, points) {
  const known = points.filter((point) => point !== null);
  const top = Math.max(1e-9, ...known);
  const [width, height] = [Math.max(1, points.length - 1), 40];
  const y = (value) => height - (value / top) * (height - 4);
  const label = known.length ? `${title}: at most ${short.format(Math.max(...known))}, last ${short.format(known.at(-1))}` : title;
  const box = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label };
  const picture = svg("svg", box, svg("line", { class: "floor", x1: 0, x2: width, y1: height, y2: height }));
  for (const run of runs(points)) {
    // One point alone is drawn as wide as a period.
    const line = run.length > 1 ? run : [run[0], [run[0][0] + 0.5, run[0][1]]];
    const path = line.map(([x, value]) => `${x},${y(value).toFixed(2)}`).join(" ");
    const area = `${line[0][0]},${height} ${path} ${line.at(-1)[0]},${height}`;
    picture.append(svg("polygon", { class: "area", points: area }), svg("polyline", { class: "line", points: path }));
  }
  return picture;
}

/** The measured points as `[place, value]`, in runs without a hole. */
function runs(points) {
  const found = [];
  points.forEach((value, place) => {
    if (value === null) return;
    if (place > 0 && points[place - 1] !== null && found.length) found.at(-1).push([place, value]);
    else found.push([[place, value]]);
  });
  return found;
}

function drawHealth(health) {
  document.body.dataset.health = health.detail ? "ill" : "well";
  $("health").textContent = health.detail ? "Ill" : "Well";
  const { type, title, status, ...told } = health;
  const facts = Object.entries(told).map(([name, value]) => [words(name), name.endsWith("Late") ? lasting(value) : said(value)]);
  drawFacts(Object.fromEntries(facts));
}

function said(value) {
  if (typeof value !== "object" || value === null) return String(value).replace("_", " ");
  return Object.entries(value).map(([name, each]) => `${words(name)} ${each}`).join(", ");
}

async function look() {
  if (document.hidden) return;
  try {
    const report = await ask("/demo/metrics");
    drawTiles(tiles(report));
    drawFunctions(report);
    drawHealth(await (await fetch("/v1/health")).json()); // also when it is ill, and answers 503
    warn("");
  } catch {
    warn("The run does not answer: it has ended, or is busy. What you see is old.");
  }
}

look();
setInterval(look, EVERY);
document.addEventListener("visibilitychange", look);
