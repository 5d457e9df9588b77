// Incidents: those that are open, those that were, and one with its timeline and the payments in its time.
import { post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { money, toDate, utc } from "./format.js";
import { count, tell } from "./schedule.js";
import { watch } from "./watch.js";

const TONES = { critical: "bad", warning: "warn", info: "" };
const KINDS = { opened: "Opened", reopened: "Opened again", signal: "Also", effect: "As an effect", escalated: "Got worse", acknowledged: "Looked into", closed: "Closed" };
let chosen = new URLSearchParams(location.search).get("id");
let closing = null;

const path = (id) => `/api/incidents/${encodeURIComponent(id)}`;
const atRisk = (incident) => incident.money.filter((m) => m.at_risk_payments > 0);
const risk = (incident) => atRisk(incident).map((m) => `${money(m.at_risk_minor, m.currency)} at risk`).join(", ");

function button(label, what, does) {
  const node = el("button.button.small", { type: "button", "data-key": `${what} ${label}`, "aria-label": `${label}: ${what}` }, label);
  node.addEventListener("click", () => busy(node, does));
  return node;
}

function choose(id) {
  chosen = id;
  history.replaceState(null, "", id ? `?id=${encodeURIComponent(id)}` : location.pathname);
  return refresh();
}

async function acknowledge(incident) {
  try {
    await post(`${path(incident.id)}/ack`);
    tell(`You look into "${incident.title}".`);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

function askToClose(incident) {
  closing = incident;
  byId("close-title").textContent = `Close "${incident.title}"`;
  byId("close-reason").value = "";
  byId("close-dialog").showModal();
}

byId("close-no").addEventListener("click", () => byId("close-dialog").close());
byId("close-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("close-dialog").close();
  try {
    await post(`${path(closing.id)}/close`, { reason: byId("close-reason").value });
    tell(`"${closing.title}" is closed.`);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
});

function row(incident) {
  const open = incident.state === "open";
  const facts = [
    `seen ${count(incident.count, "time")}`,
    incident.reopened ? `opened again ${count(incident.reopened, "time")}` : null,
    incident.effects ? count(incident.effects, "effect") : null,
    incident.acknowledged_by ? `looked into by ${incident.acknowledged_by}` : null,
    open ? null : incident.close_reason === "quiet" ? "closed: nothing was seen any more" : `closed by ${incident.closed_by}: ${incident.close_reason}`,
  ].filter(Boolean).join(", ");
  return el("li", { "data-incident": incident.id },
    el("div.row", {}, pill(incident.severity, TONES[incident.severity]), el("b", {}, incident.title), button("Show", incident.title, () => choose(incident.id))),
    el("p", {}, open ? "since " : "", time(open ? incident.opened_at : incident.closed_at), ` · ${facts}`),
    risk(incident) ? el("p.text-bad", {}, risk(incident)) : null);
}

function show(id, empty) {
  return (answer) => {
    const section = byId(id);
    const serious = answer.incidents.some((incident) => incident.severity === "critical");
    const more = answer.next ? " and more" : "";
    setPill(section, answer.count ? `${answer.count}${more}` : "None", id === "closed" || !answer.count ? "" : serious ? "bad" : "warn");
    fill(section.querySelector("[data-body]"), answer.incidents, () => (answer.count ? answer.incidents.map(row) : [el("li.muted", {}, empty)]));
  };
}

function payments(incident) {
  if (!incident.money.length) return el("p.muted", {}, "No payment in its time.");
  const rows = incident.money.map((m) => el("tr", {},
    el("th", { scope: "row" }, m.currency.toUpperCase()),
    el(m.at_risk_payments ? "td.num.text-bad" : "td.num", {}, `${money(m.at_risk_minor, m.currency)} (${m.at_risk_payments})`),
    el("td.num", {}, String(m.customers)),
    el("td.num", {}, `${money(m.paid_minor, m.currency)} (${m.paid_payments})`)));
  const head = ["Currency", "Not through", "Customers", "Paid"].map((name, n) => el(n ? "th.num" : "th", { scope: "col" }, name));
  return el("div.scroll", { role: "region", tabindex: "0", "aria-label": "Payments in its time" }, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)));
}

function detail(incident) {
  const open = incident.state === "open";
  const line = (e) => el("li", {},
    el("div.row", {}, el("b", {}, KINDS[e.kind] ?? e.kind), el("time", { datetime: e.at }, utc(toDate(e.at)))),
    el("p.why", {}, e.text));
  const signal = (s) => el("li", {},
    el("div.row", {}, pill(s.severity, TONES[s.severity]), el("b", {}, s.title), el("span.muted", {}, `${s.source}${s.is_effect ? ", an effect" : ""}`)),
    el("p.why", {}, s.text), el("p", {}, `${count(s.count, "time")}, last `, time(s.last_seen)));
  return [
    el("div.actions", {}, open && !incident.acknowledged_by ? button("I look into it", incident.title, () => acknowledge(incident)) : null,
      open ? button("Close", incident.title, () => askToClose(incident)) : null, button("Hide", incident.title, () => choose(null))),
    el("h3", {}, "Payments in its time"), payments(incident),
    el("h3", {}, "What was found"), el("ul.rows", {}, incident.signals.map(signal)),
    incident.samples.length ? el("h3", {}, "Lines") : null,
    ...incident.samples.map((sample) => el("pre.sample", {}, sample)),
    el("h3", {}, "Timeline"), el("ul.rows", {}, incident.timeline.map(line)),
  ];
}

function showOne({ incident }) {
  const section = byId("one");
  section.hidden = !chosen || incident?.id !== chosen;
  if (section.hidden) return;
  byId("one-title").textContent = incident.title;
  setPill(section, incident.state === "open" ? `open, ${incident.severity}` : "closed", incident.state === "open" ? TONES[incident.severity] : "");
  fill(section.querySelector("[data-body]"), incident, () => detail(incident));
}

const refresh = watch([
  { path: "/api/incidents?state=open&limit=100", sections: ["open"], show: show("open", "Nothing is wrong that anybody knows of.") },
  { path: "/api/incidents?state=closed&limit=20", sections: ["closed"], show: show("closed", "None yet.") },
  { path: () => (chosen ? path(chosen) : "/api/incidents?limit=1"), sections: ["one"], show: showOne },
]);
