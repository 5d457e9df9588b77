// Building the page out of text. Everything that comes from the server becomes a text node or a checked attribute, never markup.
import { relative, toDate, utc } from "./format.js";

export const byId = (id) => document.getElementById(id);

/** el("p.muted", {id: "x"}, "text", child, …); null and false children are left out. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A time shown relative to now, with the exact one in its title; `tick` keeps it true. */
export function time(value, missing = "never") {
  const date = toDate(value);
  if (!date) return el("span", {}, missing);
  return el("time", { datetime: date.toISOString(), title: utc(date), "data-relative": true }, relative(date));
}

/** A time as the clock showed it, for a log that is read aloud and must not change: "17:00:00", with the day in its title. */
export function moment(value) {
  const date = toDate(value);
  return date ? el("time", { datetime: date.toISOString(), title: utc(date) }, `${date.toISOString().slice(11, 19)} UTC`) : el("span", {}, "unknown");
}

export function tick(root = document) {
  for (const node of root.querySelectorAll("time[data-relative]")) {
    const text = relative(new Date(node.dateTime));
    if (node.textContent !== text) node.textContent = text;
  }
}

/** Only https, or the sandbox on this machine; anything else is not made a link. */
export function safeUrl(value) {
  try {
    const url = new URL(value);
    const local = url.protocol === "http:" && (url.hostname === "127.0.0.1" || url.hostname === "[::1]");
    return url.protocol === "https:" || local ? url.href : null;
  } catch {
    return null;
  }
}

export function pill(text, tone = "") {
  return el("span.pill" + (tone ? `.${tone}` : ""), {}, text);
}

export function setPill(section, text, tone = "") {
  const node = section.querySelector("[data-pill]");
  node.hidden = !text;
  if (node.textContent !== text) node.textContent = text;
  node.className = tone ? `pill ${tone}` : "pill";
}

/** Replaces what is inside only if the data changed, and keeps the focus on the element with the same data-key. */
export function fill(container, data, build) {
  const fingerprint = JSON.stringify(data);
  if (container.dataset.shown === fingerprint) return;
  container.dataset.shown = fingerprint;
  const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  container.replaceChildren(...[build()].flat().filter(Boolean));
  if (key) container.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

/** Runs `work` with the button disabled and marked busy. */
export async function busy(button, work) {
  if (button.disabled) return;
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  try {
    await work();
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}
