// Lines over time as SVG, in the colours of the page, with the same as text for those who do not see them.
import { el } from "./dom.js";
import { utc } from "./format.js";

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [600, 160];

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/**
 * `lines`: `{name, tone, points: [[unix seconds, value], …]}`; `show` says a value as text; `rule`: a value that is drawn across.
 * A gap longer than `gap` seconds is no line.
 */
export function lines(series, show, title, { bottom = 0, rule = null, gap = Infinity } = {}) {
  const all = series.flatMap((line) => line.points);
  const [from, to] = [Math.min(...all.map((p) => p[0])), Math.max(...all.map((p) => p[0]))];
  const values = [...all.map((p) => p[1]), ...(rule === null ? [] : [rule])];
  const [low, high] = [Math.min(bottom, ...values), Math.max(...values, low1(values))];
  const x = (at) => (to === from ? WIDTH / 2 : ((at - from) / (to - from)) * WIDTH);
  const y = (value) => HEIGHT - 2 - ((value - low) / (high - low || 1)) * (HEIGHT - 4);
  const path = (points) => points.map((p, i) => `${i === 0 || p[0] - points[i - 1][0] > gap ? "M" : "L"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
  const told = series.map((line) => `${line.name}: ${show(line.points.at(-1)[1])} at the end`).join("; ");
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${told}`, class: "lines", preserveAspectRatio: "none" });
  if (low < 0) chart.append(svg("line", { x1: 0, x2: WIDTH, y1: y(0), y2: y(0), class: "zero" }));
  if (rule !== null) chart.append(svg("line", { x1: 0, x2: WIDTH, y1: y(rule), y2: y(rule), class: "rule" }));
  for (const line of series) {
    chart.append(svg("path", { d: line.points.length === 1 ? `M0 ${y(line.points[0][1])}H${WIDTH}` : path(line.points), class: `line ${line.tone}` }, svg("title", {}, line.name)));
  }
  const day = (at) => utc(new Date(at * 1000)).slice(0, 16);
  return [
    el("div.chart", {}, el("small.chart-top", {}, show(high)), chart),
    el("div.legend", {}, el("span", {}, day(from)), el("span.keys", {}, series.flatMap((line) => [el(`i.key.${line.tone}`, {}), `${line.name} ${show(line.points.at(-1)[1])}`])), el("span", {}, day(to))),
  ];
}

/** A chart of nothing but zeros has a height all the same. */
const low1 = (values) => (values.every((value) => value <= 0) ? 1e-9 : -Infinity);
