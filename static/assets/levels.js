// Levels: every objective with its verdict, and of one of them the budget burning down, the latencies, what could fire, and the payments.
import { post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { milliseconds, utc, toDate } from "./format.js";
import { lines } from "./lines.js";
import { count, tell } from "./schedule.js";
import { watch } from "./watch.js";

const TONES = { PASS: "ok", FAIL: "bad", NO_DATA: "warn" };
const WORDS = { PASS: "Holds", FAIL: "Broken", NO_DATA: "No data" };
const body = (id) => byId(id).querySelector("[data-body]");
const known = (value) => value !== null && value !== undefined;
const whole = (columns, text) => el("tr", {}, el("td.muted", { colspan: columns }, text));
const percent = (ratio, digits = 1) => (known(ratio) ? `${(ratio * 100).toFixed(digits)} %` : "");
const cut = (ratio) => (known(ratio) ? `${Math.floor(ratio * 1e5) / 1e3} %` : "");
const number = (value) => (known(value) ? value.toLocaleString("en") : "");

let report = null;
let chosen = decodeURIComponent(location.hash.slice(1)) || null;
let detail = null;
let maintenance = [];
let corrections = [];

const tightest = (o) => o.objectives.reduce((worst, i) => ((i.budget.used_ratio ?? 0) > (worst?.budget.used_ratio ?? -1) ? i : worst), null);
const left = (i) => (known(i?.budget.used_ratio) ? 1 - i.budget.used_ratio : null);
const burn = (o) => o.objectives.map((i) => i.burn["1h"]).filter(known).reduce((worst, rate) => Math.max(worst, rate), 0);

function choose(name) {
  chosen = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  detail = null;
  drawList();
  refresh();
}

function drawFigures() {
  const all = report.objectives;
  const tight = all.map((o) => [o, tightest(o)]).filter(([, i]) => known(i?.budget.used_ratio)).sort((a, b) => b[1].budget.used_ratio - a[1].budget.used_ratio)[0];
  const ends = all.flatMap((o) => o.objectives.map((i) => [o.name, i.budget.exhausts_at])).filter(([, at]) => at).sort((a, b) => (a[1] < b[1] ? -1 : 1))[0];
  const excluded = all.reduce((sum, o) => sum + o.excluded_events, 0);
  const cell = (label, value, small, tone = "") => el("div" + (tone ? `.${tone}` : ""), {}, el("p.label", {}, label), el("p.value", {}, value), el("small.wrap-anywhere", {}, small));
  const broken = report.counts.FAIL;
  fill(byId("figures"), [report.counts, tight?.[0].name, tight?.[1].budget.used_ratio, ends, excluded], () => [
    cell("Objectives", `${report.counts.PASS} of ${report.count}`, broken ? `hold; ${count(broken, "objective")} broken` : "hold", broken ? "text-bad" : "text-ok"),
    cell("Least budget left", tight ? percent(left(tight[1]), 0) : "not known", tight ? `${tight[0].name}, ${tight[1].name}` : "no events yet", tight && left(tight[1]) <= 0 ? "text-bad" : ""),
    cell("Used up next", ends ? time(ends[1]) : "none", ends ? `${ends[0]}, at the rate of the last day` : "at the rate of the last day"),
    cell("Left out", count(excluded, "event"), "in maintenance and corrections"),
  ]);
}

function drawList() {
  const all = report.objectives;
  setPill(byId("levels"), report.counts.FAIL ? `${report.counts.FAIL} broken` : "all hold", report.counts.FAIL ? "bad" : report.counts.NO_DATA ? "warn" : "ok");
  if (!report.counts.FAIL && report.counts.NO_DATA) setPill(byId("levels"), `${report.counts.NO_DATA} without data`, "warn");
  fill(body("levels"), [all, chosen, report.warnings], () => [
    ...all.map((o) => {
      const choice = el("button.link", { type: "button", "data-key": o.name, "aria-pressed": String(o.name === chosen) }, o.name);
      choice.addEventListener("click", () => choose(o.name));
      const severity = o.severity ? pill(o.severity === "page" ? "Page" : "Ticket", o.severity === "page" ? "bad" : "warn") : null;
      return el("tr" + (o.name === chosen ? ".chosen" : ""), {},
        el("th", { scope: "row" }, choice, el("small", {}, `${o.service}, ${o.window}`)),
        el("td", { "data-label": "Verdict" }, el("div.inline", {}, pill(WORDS[o.status], TONES[o.status]), severity)),
        el("td.num", { "data-label": "Events" }, number(o.verdict.n)),
        el("td.num", { "data-label": "Good" }, cut(o.verdict.success_rate)),
        el("td.num", { "data-label": "Budget left" }, percent(left(tightest(o)), 0)),
        el("td.num", { "data-label": "Burn, 1 h" }, o.verdict.n ? burn(o).toFixed(1) : ""),
        el("td.wrap-anywhere", { "data-label": "Why" }, o.verdict.clause));
    }),
    ...report.warnings.map((warning) => el("tr.detail", {}, el("td.text-warn", { colspan: 7 }, warning))),
  ]);
}

function drawCharts() {
  const d = detail;
  byId("budget-title").textContent = `Budget left: ${d.name}`;
  byId("latency-title").textContent = `Latency, last day: ${d.name}`;
  const series = d.burn_down.filter((b) => b.points.length && b.points.at(-1)[3] > 0).map((b) => ({ name: b.name, tone: b.name === "latency" ? "two" : "one", points: b.points.map((p) => [p[0], p[1]]) }));
  const spent = d.objectives.some((i) => i.budget.exhausted);
  setPill(byId("budget"), spent ? "used up" : d.worst ? `${d.worst.windows} burns` : "", spent || d.page ? "bad" : "warn");
  fill(body("budget"), [d.name, series], () => (series.length ? lines(series, (v) => percent(v, 0), `Share of the error budget of ${d.name} that is left`) : el("p.muted", {}, "No event yet.")));
  const l = d.latency;
  const one = (name, tone, at) => ({ name, tone, points: l.points.map((p) => [p[0], p[at]]) });
  setPill(byId("latency"), l.n ? `p95 ${milliseconds(l.p95_ms)}` : "", known(d.latency_ms) && l.p95_ms > d.latency_ms ? "warn" : "ok");
  fill(body("latency"), [d.name, l], () => (l.points.length ? lines([one("p50", "one", 1), one("p95", "two", 2), one("p99", "three", 3)], milliseconds, `Latencies of ${d.name}; each within ${percent(l.alpha)} of a measured one`, { rule: known(d.latency_ms) ? d.latency_ms : null, gap: 3600 }) : el("p.muted", {}, "No latencies in the last day.")));
}

function drawTiers() {
  const d = detail;
  const rows = d.objectives.flatMap((i) => [
    ...i.tiers.map((t) => ({
      clause: `${i.name}: ${t.long} and ${t.short} (${t.severity})`, firing: t.firing, bad: t.severity === "page",
      state: t.firing ? "Fires" : t.held_back ? { min_bad: "Held back: few bad", min_events: "Held back: few events", interval: "Held back: may be chance" }[t.held_by] : t.reachable ? "Quiet" : "Can never fire",
      tone: t.held_back || !t.reachable ? "warn" : "", n: t.n, b: t.bad, interval: t.interval, above: `${+t.factor.toFixed(2)} × budget`, since: t.since,
    })),
    { clause: `${i.name}: few events (${i.absolute.window})`, firing: i.absolute.firing, bad: true, state: i.absolute.firing ? "Fires" : "Quiet", tone: "", n: i.absolute.bad + i.absolute.good, b: i.absolute.bad, interval: null, above: `${i.absolute.min_bad} bad, under ${i.absolute.max_good} good`, since: i.absolute.since },
  ]);
  const firing = rows.filter((r) => r.firing).length;
  const silent = d.absence.severity;
  setPill(byId("tiers"), firing ? `${firing} fire` : silent ? "silence" : "quiet", firing || silent ? "bad" : "ok");
  fill(body("tiers"), [d.name, rows, d.absence], () => [
    ...rows.map((r) => el("tr", {},
      el("th", { scope: "row" }, r.clause),
      el("td", { "data-label": "State" }, el("div.inline", {}, pill(r.state, r.firing ? (r.bad ? "bad" : "warn") : r.tone), r.since ? el("small", {}, time(r.since)) : null)),
      el("td.num", { "data-label": "Events" }, number(r.n)),
      el("td.num", { "data-label": "Bad" }, number(r.b)),
      el("td.num", { "data-label": "95 % interval" }, r.interval ? `${percent(r.interval[0])} – ${percent(r.interval[1])}` : ""),
      el("td.num", { "data-label": "Fires above" }, r.above))),
    el("tr", {},
      el("th", { scope: "row" }, "silence"),
      el("td", { "data-label": "State" }, pill(silent ? "Fires" : "Quiet", silent === "page" ? "bad" : silent ? "warn" : "")),
      el("td.num", { "data-label": "Events" }, known(d.absence.expected) ? `${d.absence.expected} expected` : "not known"),
      el("td.num", { "data-label": "Bad" }), el("td.num", { "data-label": "95 % interval" }),
      el("td.num", { "data-label": "Fires above" }, known(d.absence.page_above) ? `${d.absence.ticket_above} ticket, ${d.absence.page_above} page` : "")),
  ]);
}

function drawRisk() {
  const risk = detail.at_risk;
  setPill(byId("risk"), risk.payments ? count(risk.payments, "payment") : "none", risk.failed ? "bad" : risk.payments ? "warn" : "ok");
  const sums = risk.amounts.map((a) => a.amount).join(", ");
  byId("risk-text").textContent = risk.bad_minutes ? `In ${count(risk.bad_minutes, "bad minute")} of ${detail.name}: ${count(risk.payments, "payment")} of ${count(risk.customers, "customer")}${sums ? `, ${sums}` : ""}, ${risk.failed} failed. That they were at risk does not mean that they were lost.` : `No bad minute of ${detail.name} in its window.`;
  fill(body("risk"), [detail.name, risk], () => risk.list.length ? [
    ...risk.list.slice(0, 50).map((p) => el("tr", {},
      el("th.mono.wrap-anywhere", { scope: "row" }, p.id),
      el("td.nowrap", { "data-label": "When" }, utc(toDate(p.at))),
      el("td.mono.wrap-anywhere", { "data-label": "Customer" }, p.customer ?? ""),
      el("td", { "data-label": "State" }, pill(p.failed ? "Failed" : "Paid", p.failed ? "bad" : "ok")),
      el("td.num", { "data-label": "Amount" }, p.amount))),
    risk.payments > 50 ? whole(5, `and ${risk.payments - 50} more`) : null,
  ] : whole(5, "None."));
}

function drawExcluded() {
  const all = [...maintenance, ...corrections].sort((a, b) => (a.starts_at < b.starts_at ? 1 : -1));
  const active = all.filter((m) => m.state === "active").length;
  setPill(byId("excluded"), active ? `${active} now` : all.length ? count(all.length, "entry", "entries") : "", active ? "warn" : "");
  fill(body("excluded"), all, () => all.length ? all.map((m) => {
    const end = ["active", "planned"].includes(m.state) || (m.kind === "correction" && m.state !== "withdrawn") ? el("button.button.small", { type: "button", "data-key": m.id, "aria-label": `${m.kind === "correction" ? "Withdraw" : "End"}: ${m.reason}` }, m.kind === "correction" ? "Withdraw" : "End") : null;
    end?.addEventListener("click", () => busy(end, async () => {
      try {
        await post(`/api/maintenance/${encodeURIComponent(m.id)}/end`);
        tell("It counts again.");
      } catch (error) {
        tell(error.message, true);
      }
      refresh();
    }));
    return el("tr", {},
      el("th.nowrap", { scope: "row" }, utc(toDate(m.starts_at))),
      el("td.nowrap", { "data-label": "Until" }, utc(toDate(m.ended_at && m.ended_at < m.ends_at ? m.ended_at : m.ends_at))),
      el("td", { "data-label": "Of" }, m.service),
      el("td", { "data-label": "State" }, el("div.inline", {}, pill(m.kind === "correction" && m.state === "over" ? "Correction" : m.state.charAt(0).toUpperCase() + m.state.slice(1), m.state === "active" ? "warn" : ""))),
      el("td.wrap-anywhere", { "data-label": "Reason" }, `${m.reason} (${m.author})`),
      el("td.end", {}, el("div.actions", {}, end)));
  }) : whole(6, "None: every event counts."));
}

function drawProbes(list) {
  const down = list.filter((p) => p.state === "down").length;
  setPill(byId("probes"), list.length ? (down ? `${down} down` : "all answer") : "", down ? "bad" : "ok");
  fill(body("probes"), list, () => list.length ? list.map((p) => el("tr", {},
    el("th", { scope: "row" }, p.name, el("small.wrap-anywhere", {}, p.target || p.kind)),
    el("td", { "data-label": "State" }, pill({ up: "Up", down: "Down", unknown: "Not known", new: "Not asked yet" }[p.state] ?? p.state, { up: "ok", down: "bad", unknown: "warn" }[p.state] ?? "")),
    el("td", { "data-label": "Since" }, time(p.since, "")),
    el("td.num", { "data-label": "Took" }, known(p.took_ms) ? milliseconds(p.took_ms) : ""),
    el("td.wrap-anywhere", { "data-label": "What came back" }, p.reason ?? ""))) : whole(5, "Nothing is asked from outside: [probes.NAME] in the settings does that."));
}

function showReport(answer) {
  report = answer;
  if (!answer.objectives.some((o) => o.name === chosen)) chosen = (answer.objectives.find((o) => o.status === "FAIL") ?? answer.objectives[0]).name;
  drawFigures();
  drawList();
}

function showDetail(answer) {
  if (answer.name !== chosen) return;
  detail = answer;
  drawCharts();
  drawTiers();
  drawRisk();
}

const refresh = watch([
  { path: "/api/slo/report", sections: ["figures", "levels"], show: showReport },
  { path: () => `/api/slo/objectives/${encodeURIComponent(chosen ?? "api")}`, sections: ["budget", "latency", "tiers", "risk"], show: (answer) => { chosen ??= answer.name; showDetail(answer); } },
  { path: "/api/maintenance?limit=50", sections: ["excluded"], show: (answer) => { maintenance = answer.maintenance; drawExcluded(); } },
  { path: "/api/slo/corrections?limit=50", sections: [], show: (answer) => { corrections = answer.corrections; drawExcluded(); } },
  { path: "/api/slo/probes", sections: ["probes"], show: (answer) => drawProbes(answer.probes) },
]);
