// A row of bars as SVG, in the colours of the page: one bar for each item, the part of it that is darker, and the same as text for
// those who do not see it.
import { el } from "./dom.js";

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [600, 130];

function svg(name, attributes, ...children) {
  const node = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** `items`: `{label, value, part, bad, warn}`; `show` says a value as text; `legend`: what a bar and its darker part are. */
export function bars(items, show, title, legend) {
  const top = Math.max(1, ...items.map((item) => item.value));
  const step = WIDTH / Math.max(items.length, 12);
  const width = Math.max(2, step * 0.72);
  const height = (value) => (Math.max(0, value) / top) * HEIGHT;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${items.map((item) => `${item.label}: ${show(item.value)}`).join("; ")}`, class: "bars", preserveAspectRatio: "none" });
  items.forEach((item, i) => {
    const x = i * step;
    const tone = item.bad ? "bar bad" : item.warn ? "bar warn" : "bar";
    const tall = Math.max(height(item.value), 2);
    chart.append(svg("g", { class: tone },
      svg("title", {}, `${item.label}: ${show(item.value)}${item.part ? `, ${legend[1].toLowerCase()} ${show(item.part)}` : ""}`),
      svg("rect", { x, y: HEIGHT - tall, width, height: tall, class: "bar-all" }),
      svg("rect", { x, y: HEIGHT - height(item.part), width, height: height(item.part), class: "bar-part" })));
  });
  return [
    el("div.chart", {}, el("small.chart-top", {}, show(top)), chart),
    el("div.legend", {}, el("span", {}, items[0].label), el("span.keys", {}, el("i.key", {}), legend[0], el("i.key.part", {}), legend[1]), el("span", {}, items.length > 1 ? items.at(-1).label : "")),
  ];
}
