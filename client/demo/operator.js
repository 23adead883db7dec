/**
 * The operator view: metrics of functions and of Lambda from GET /demo/metrics, and the service's health. The service
 * defines the metrics; this file labels and draws them.
 */

import { callDemo } from "./account.js";
import { duration } from "./format.js";
import { svg } from "./svg.js";
import { $, drawFacts, showNotice } from "./view.js";

const FETCH_EVERY = 2_000; // ms
const RATE_PERIODS = 12; // a rate covers the last minute

const sum = (values) => values.reduce((total, value) => total + value, 0);
const sumLists = (lists, length) => Array.from({ length }, (_, index) => sum(lists.map((list) => list[index])));
/** Events per second over the last periods; `period` is in ms. */
const rate = (counts, period) => short.format((sum(counts.slice(-RATE_PERIODS)) * 1_000) / (RATE_PERIODS * period));

const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
/** A duration: `7.3 ms`, `250 ms`, `60 s`. */
function formatMs(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 10_000) return `${Math.round(ms / 1_000)} s`;
  return `${ms >= 100 ? Math.round(ms) : short.format(ms)} ms`;
}

/** `dueLate` as `due late`. */
const label = (name) => name.replace(/(?<=[a-z])[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);

/**
 * The tiles: each has a `number` with its `unit`, a chart of `points` (null: not measured), and `parts` below, as
 * `[name, value, isBad]`.
 */
function tiles({ counts, durations, gauges, functions, period }) {
  const length = Object.values(gauges)[0]?.length ?? 60;
  const none = Array(length).fill(0);
  const ofFunctions = (metric) => Object.values(functions).map((each) => each.counts[metric] ?? none);
  const events = sumLists(ofFunctions("Invocations"), length);
  const open = gauges.OpenConnections ?? [];
  const problems = {
    errors: sum(sumLists(ofFunctions("Errors"), length)),
    throttles: sum(sumLists(ofFunctions("Throttles"), length)),
    "Redis failures": sum(counts.RedisFailures ?? none),
    "tokens rejected": sum(counts.TokensRefused ?? none),
    "messages rejected": sum(counts.MessagesRefused ?? none),
  };
  const posts = ["PostsSent", "PostsGone", "PostsThrottled", "PostsFailed"];
  const bad = ["PostsThrottled", "PostsFailed"];
  const changes = ["Connections", "Updates", "Announcements", "Settled"];
  return [
    { title: "Open connections", number: open.at(-1) ?? 0, unit: "now", points: open },
    {
      title: "Events",
      number: rate(events, period),
      unit: "per second",
      points: events,
    },
    {
      title: "Problems",
      number: sum(Object.values(problems)),
      unit: "in five minutes",
      points: sumLists([...ofFunctions("Errors"), ...ofFunctions("Throttles"), counts.RedisFailures ?? none], length),
      parts: Object.entries(problems).map(([name, value]) => [name, value, value > 0]),
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
    timeTile("Push latency", durations.PostTime, length),
    timeTile("Redis latency", durations.RedisTime, length),
    timeTile("Due lateness", durations.DueLateness, length),
    {
      title: "Changes",
      number: sum(counts.Updates ?? none),
      unit: "updates",
      points: counts.Updates ?? none,
      parts: changes.map((name) => [name.toLowerCase(), sum(counts[name] ?? none)]),
    },
  ];
}

function timeTile(title, durations, length) {
  const { all } = durations ?? { all: {} };
  const parts = ["p50", "p95", "p99"].map((percentile) => [percentile, formatMs(all[percentile])]);
  const points = durations?.p95 ?? Array(length).fill(null);
  return { title, number: formatMs(all.p95), unit: "p95", points, parts };
}

function drawTiles(list) {
  const container = $("tiles");
  while (container.children.length < list.length) container.append($("tile").content.cloneNode(true));
  list.forEach(({ title, number, unit, points, parts = [] }, index) => {
    const tile = container.children[index];
    tile.querySelector("h2").textContent = title;
    tile.querySelector("b").textContent = number;
    tile.querySelector(".number .dim").textContent = unit;
    tile.querySelector(".chart").replaceChildren(sparkline(title, points));
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
    const { all = {} } = durations.Duration ?? {};
    const row = document.createElement("tr");
    const head = element("th", name);
    head.scope = "row";
    const chart = document.createElement("td");
    chart.className = "spark";
    chart.append(sparkline(`Events of ${name}`, events));
    const problems = ["Errors", "Throttles"].map((metric) => sum(counts[metric] ?? [0]));
    const numbers = [rate(events, period), sum(events), formatMs(all.p50), formatMs(all.p95), ...problems];
    row.append(head, chart, ...numbers.map((value) => element("td", value)));
    return row;
  });
  $("functions").replaceChildren(...rows);
}

function element(name, content) {
  const created = document.createElement(name);
  created.textContent = content;
  return created;
}

/** A line chart with gaps where nothing was measured. */
function sparkline(title, points) {
  const known = points.filter((point) => point !== null);
  const top = Math.max(1e-9, ...known);
  const [width, height] = [Math.max(1, points.length - 1), 40];
  const y = (value) => height - (value / top) * (height - 4);
  const numbers = known.length ? `: maximum ${short.format(top)}, last ${short.format(known.at(-1))}` : "";
  const name = { role: "img", "aria-label": title + numbers };
  const box = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" };
  const floor = svg("line", { class: "floor", x1: 0, x2: width, y1: height, y2: height });
  const image = svg("svg", { ...box, ...name }, floor);
  for (const run of runs(points)) {
    // A single point is half a period wide.
    const line = run.length > 1 ? run : [run[0], [run[0][0] + 0.5, run[0][1]]];
    const path = line.map(([x, value]) => `${x},${y(value).toFixed(2)}`).join(" ");
    const area = `${line[0][0]},${height} ${path} ${line.at(-1)[0]},${height}`;
    image.append(svg("polygon", { class: "area", points: area }), svg("polyline", { class: "line", points: path }));
  }
  return image;
}

/** The measured points as `[index, value]`, in runs without a gap. */
function runs(points) {
  const found = [];
  points.forEach((value, index) => {
    if (value === null) return;
    if (index > 0 && points[index - 1] !== null && found.length) found.at(-1).push([index, value]);
    else found.push([[index, value]]);
  });
  return found;
}

function drawHealth(health) {
  document.body.dataset.health = health.detail ? "unhealthy" : "healthy";
  $("health").textContent = health.detail ? "Unhealthy" : "Healthy";
  const { type, title, status, ...fields } = health;
  const facts = Object.entries(fields).map(([name, value]) => [label(name), formatFact(name, value)]);
  drawFacts(Object.fromEntries(facts));
}

function formatFact(name, value) {
  if (name.endsWith("Late")) return duration(value);
  if (typeof value !== "object" || value === null) return String(value).replace("_", " ");
  return Object.entries(value).map(([key, count]) => `${label(key)} ${count}`).join(", ");
}

async function refresh() {
  if (document.hidden) return;
  try {
    const report = await callDemo("/demo/metrics");
    drawTiles(tiles(report));
    drawFunctions(report);
    drawHealth(await (await fetch("/v1/health")).json()); // 503 while unhealthy
    showNotice("");
  } catch {
    showNotice("No response from `presence run`: it has ended or is busy. These numbers are out of date.");
  }
}

refresh();
setInterval(refresh, FETCH_EVERY);
document.addEventListener("visibilitychange", refresh);
