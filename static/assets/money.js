// Money: what does not agree and what to do about it, payouts down to their rows, what is to come, events that went missing.
import { get, post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { duration, milliseconds, money, toDate, utc, words } from "./format.js";
import { count, runNow, tell } from "./schedule.js";
import { watch } from "./watch.js";

const SEVERITY_TONES = { high: "bad", medium: "warn", low: "" };
const STATUS_TONES = { open: "bad", acknowledged: "warn", resolved: "ok", auto_resolved: "ok" };
const PAYOUT_TONES = { balanced: "ok", in_transit: "run", pending: "run", failed_reversed: "warn", not_itemizable: "", stale_reconciliation: "warn" };
const ROW_TONES = { matched: "ok", fee_booked: "ok", matched_pending_payout: "ok", pending_provider: "run" };
const body = (id) => byId(id).querySelector("[data-body]");
const whole = (columns, text) => el("tr", {}, el("td.muted", { colspan: columns }, text));
const mono = (text) => el("span.mono.wrap-anywhere", {}, text);
const day = (seconds) => (seconds ? utc(toDate(seconds)).slice(0, 10) : "");
const known = (value) => value !== null && value !== undefined;

/** A button that says what it does to whom, for those who cannot see where it stands. */
function button(label, what, does, attributes = {}) {
  const node = el("button.button.small", { type: "button", "data-key": `${what} ${label}`, "aria-label": `${label}: ${what}`, ...attributes }, label);
  node.addEventListener("click", () => busy(node, does));
  return node;
}

// --- exceptions ---------------------------------------------------------------------------------------------------------------

let exceptions = [];
let nextException = null;
const openExceptions = new Set();
const exceptionsPath = (after) => `/api/recon/exceptions?limit=20${byId("status").value ? `&status=${byId("status").value}` : ""}${after ? `&after=${encodeURIComponent(after)}` : ""}`;
const ACTIONS = {
  acknowledge: { title: "Acknowledge this exception?", text: "Somebody is looking into it. It stays quiet until either side says something else.", done: "The exception is acknowledged." },
  resolve: { title: "Resolve this exception?", text: "It is settled as it is. It stays quiet until either side says something else.", done: "The exception is resolved." },
  reopen: { title: "Open this exception again?", text: "It was decided too early.", done: "The exception is open again." },
};
const ALLOWED = { open: ["acknowledge", "resolve"], acknowledged: ["resolve", "reopen"], resolved: ["reopen"], auto_resolved: [] };

function side(value, currency) {
  if (!known(value)) return "nothing";
  return Number.isSafeInteger(value) && currency ? money(value, currency) : String(value);
}

function exceptionDetail(e) {
  const amounts = new Set(["amount", "gross", "fee", "net", "sum_net", "residual", "amount_due", "amount_paid", "amount_remaining", "balance", "difference"]);
  // Where several objects differ, each is named with its amounts.
  const named = ["balance_drift", "duplicate_payment"].includes(e.kind);
  const currency = (v) => (named || amounts.has(v.field) ? e.currency : "");
  const ids = [["Exception", e.id], ["Payout", e.payout_id], ["Balance transaction", e.balance_transaction_id], ["Source", e.source_id], ["Invoice", e.invoice_id], ["Customer", e.customer_id], ["Ledger rows", e.ledger_ids?.join(", ")]].filter(([, id]) => id);
  const decided = e.decided_at ? [el("p", {}, `${words(e.status)} by `, el("b", {}, e.decided_by ?? "unknown"), " ", time(e.decided_at), e.decision ? `: ${e.decision}` : "")] : [];
  return el("tr.detail", {}, el("td", { colspan: 5 },
    el("dl.pairs.left", {}, ids.flatMap(([label, id]) => [el("dt", {}, label), el("dd", {}, mono(id))])),
    e.evidence?.length ? el("h3", {}, "Evidence") : null,
    e.evidence?.length ? el("ul.attempts", {}, e.evidence.map((v) => el("li", {}, named ? mono(v.field) : el("b", {}, words(v.field)), `: ledger ${side(v.ledger, currency(v))}, provider ${side(v.provider, currency(v))}`))) : null,
    e.suspects?.length ? el("h3", {}, "What might explain it") : null,
    e.suspects?.length ? el("ul.attempts", {}, e.suspects.map((s) => el("li", {}, mono(s.balance_transaction_ids.join(", ")), ` ${s.reason}`))) : null,
    e.suggested_action ? el("h3", {}, "What to do") : null,
    e.suggested_action ? el("p", {}, e.suggested_action) : null,
    ...decided));
}

function exceptionRow(e) {
  const shown = openExceptions.has(e.id);
  const what = `${words(e.kind)} ${e.source_id ?? e.invoice_id ?? e.payout_id ?? e.id}`;
  const toggle = () => {
    if (!openExceptions.delete(e.id)) openExceptions.add(e.id);
    drawExceptions();
  };
  return el("tr", {},
    el("th", { scope: "row" }, words(e.kind), el("div.inline", {}, pill(words(e.severity), SEVERITY_TONES[e.severity]), pill(words(e.status), STATUS_TONES[e.status]))),
    el("td.wrap-anywhere", { "data-label": "Explanation" }, e.explanation ?? ""),
    el("td.num", { "data-label": "At risk" }, e.currency && e.at_risk_minor ? money(e.at_risk_minor, e.currency) : ""),
    el("td", { "data-label": "Seen" }, el("div", {}, "first ", time(e.first_seen), el("small", {}, `${count(e.occurrences, "time")}, last `, time(e.last_seen)))),
    el("td.end", {}, el("div.actions", {},
      (ALLOWED[e.status] ?? []).map((action) => button(words(action), what, () => decide(action, e))),
      button("Details", what, toggle, { "aria-expanded": String(shown) }))));
}

function drawExceptions() {
  fill(body("exceptions"), [exceptions, [...openExceptions]], () =>
    exceptions.length ? exceptions.flatMap((e) => [exceptionRow(e), openExceptions.has(e.id) ? exceptionDetail(e) : null]) : whole(5, byId("status").value === "open" ? "Nothing is open: both sides agree." : "None in this state."));
  byId("more-exceptions").hidden = !nextException;
}

function showExceptions(answer) {
  const fresh = new Set(answer.exceptions.map((e) => e.id));
  const state = byId("status").value;
  if (exceptions.length <= answer.exceptions.length) nextException = answer.next;
  // What was loaded below the first page stays below it.
  exceptions = [...answer.exceptions, ...(nextException === answer.next ? [] : exceptions.slice(20).filter((e) => !fresh.has(e.id) && (!state || e.status === state)))];
  const high = exceptions.filter((e) => e.status === "open" && e.severity === "high").length;
  setPill(byId("exceptions"), state === "open" ? (exceptions.length ? `${exceptions.length}${nextException ? " and more" : ""}` : "None") : "", high ? "bad" : exceptions.length ? "warn" : "ok");
  drawExceptions();
}

async function moreExceptions() {
  try {
    const answer = await get(exceptionsPath(nextException));
    const have = new Set(exceptions.map((e) => e.id));
    exceptions = [...exceptions, ...answer.exceptions.filter((e) => !have.has(e.id))];
    nextException = answer.next;
    drawExceptions();
  } catch (error) {
    tell(error.message, true);
  }
}

let deciding = null;

function decide(action, exception) {
  deciding = { action, id: exception.id };
  byId("decide-title").textContent = ACTIONS[action].title;
  byId("decide-text").textContent = ACTIONS[action].text;
  byId("decide-yes").textContent = words(action);
  byId("decide-form").reset();
  byId("decide-problem").hidden = true;
  byId("decide-dialog").showModal();
  byId("decide-reason").focus();
}

async function decided() {
  const problem = (text) => {
    byId("decide-problem").textContent = text;
    byId("decide-problem").hidden = false;
  };
  const reason = byId("decide-reason").value.trim();
  if (!reason) return problem("Say why, for whoever looks at it later.");
  try {
    await post(`/api/recon/exceptions/${encodeURIComponent(deciding.id)}/${deciding.action}`, { reason });
  } catch (error) {
    return problem(error.message);
  }
  byId("decide-dialog").close();
  tell(ACTIONS[deciding.action].done);
  return refresh();
}

// --- payouts ------------------------------------------------------------------------------------------------------------------

let report = null;
let payoutsShown = 20;
const members = new Map();

function figure(label, value, below, tone = "") {
  return el("div" + (tone ? `.${tone}` : ""), {}, el("p.label", {}, label), el("p.value", {}, value), below ? el("small", {}, below) : null);
}

function showReport(answer) {
  if (report?.run_id !== answer.run_id) members.clear(); // the rows of another run
  report = answer;
  const { summary } = answer;
  const rows = summary.transactions ?? {};
  fill(byId("figures"), [summary, answer.complete, answer.ts], () => [
    figure("Payouts balanced, every row matched", `${summary.matched} of ${summary.total}`, summary.amount_mismatch ? `${summary.amount_mismatch} with a difference` : "none with a difference", summary.amount_mismatch ? "text-bad" : ""),
    figure("Rows compared", String(rows.total ?? 0), `${rows.matched ?? 0} matched · ${rows.matched_pending_payout ?? 0} wait for their payout · ${rows.pending_provider ?? 0} wait for the provider`),
    figure("Not in the ledger", String(summary.missing_in_ledger), `${summary.unsettled_missing} of them not paid out yet`, summary.missing_in_ledger ? "text-bad" : ""),
    figure("Exceptions of payouts", String(summary.exceptions.open), Object.entries(summary.exceptions.by_severity).map(([s, n]) => `${n} ${s}`).join(" · "), summary.exceptions.open ? "text-warn" : ""),
    figure("Compared", time(answer.ts), answer.complete ? "everything could be read" : `incomplete: ${answer.errors.join(" ")}`, answer.complete ? "" : "text-bad"),
  ]);
  fill(body("totals"), answer.totals, () =>
    answer.totals.length ? answer.totals.map((t) => el("tr", {},
      el("th", { scope: "row" }, t.currency.toUpperCase()),
      ...[["Charges", t.gross], ["Refunds", t.refunds], ["Disputes", t.disputes], ["Fees", t.fees], ["Other", t.other], ["Net", t.net], ["Paid out", t.payout_amount], ["Unexplained", t.unexplained]].map(([label, minor]) =>
        el(label === "Unexplained" && minor ? "td.num.text-bad" : "td.num", { "data-label": label }, money(minor, t.currency))))) : whole(9, "No payout has been reconciled yet."));
  drawPayouts();
}

function memberRows(payout) {
  const { rows } = members.get(payout.id);
  return el("tr.detail", {}, el("td", { colspan: 7 },
    payout.by_category?.length ? el("p", {}, payout.by_category.map((c, i) => [i ? " · " : "", `${words(c.reporting_category)}: ${c.count}, `, el("b", {}, money(c.net, payout.currency))]).flat()) : null,
    el("div.scroll", { tabindex: 0, role: "region", "aria-label": `Rows of ${payout.id}` }, el("table", {},
      el("thead", {}, el("tr", {}, ["Row", "Kind", "Source", "State", "Gross", "Fee", "Net"].map((h, i) => el(i > 3 ? "th.num" : "th", { scope: "col" }, h)))),
      el("tbody", {}, rows.map((r) => el("tr", {},
        el("td", {}, mono(r.id), el("small", {}, utc(toDate(r.created)))),
        el("td", {}, words(r.reporting_category)),
        el("td", {}, r.source ? mono(r.source) : ""),
        el("td", {}, pill(words(r.status), ROW_TONES[r.status] ?? "bad")),
        ...[r.gross, r.fee, r.net].map((minor) => el("td.num", {}, money(minor, r.currency)))))))),
    rows.length ? null : el("p.muted", {}, "The provider has not listed its rows yet."),
    members.get(payout.id).next ? el("p.muted", {}, "The first hundred rows; the CSV has all.") : null));
}

async function togglePayout(payout) {
  if (!members.delete(payout.id)) {
    try {
      members.set(payout.id, await get(`/api/recon/payouts/${encodeURIComponent(payout.id)}?limit=100`));
    } catch (error) {
      tell(error.message, true);
    }
  }
  drawPayouts();
}

function drawPayouts() {
  const all = [...(report?.payouts ?? [])].sort((a, b) => b.created - a.created);
  const shown = all.slice(0, payoutsShown);
  const wrong = all.filter((p) => !(p.status in PAYOUT_TONES) || p.exceptions.length).length;
  setPill(byId("payouts"), all.length ? (wrong ? `${count(wrong, "payout")} to look at` : `All ${all.length} in order`) : "", wrong ? "bad" : "ok");
  fill(body("payouts"), [shown, [...members.keys()]], () =>
    shown.length ? shown.flatMap((p) => [el("tr", {},
      el("th", { scope: "row" }, mono(p.id), el("small", {}, `made ${utc(toDate(p.created))}`)),
      el("td", { "data-label": "State" }, el("div.inline", {}, pill(words(p.status), PAYOUT_TONES[p.status] ?? "bad"), p.exceptions.length ? el("small", {}, count(p.exceptions.length, "exception")) : null)),
      el("td.nowrap", { "data-label": "Arrives" }, day(p.arrival_date)),
      el("td.num", { "data-label": "Amount" }, money(p.amount, p.currency)),
      el("td.num", { "data-label": "Rows" }, String(p.items)),
      el(p.residual ? "td.num.text-bad" : "td.num", { "data-label": "Difference" }, known(p.residual) ? money(p.residual, p.currency) : "not yet"),
      el("td.end", {}, el("div.actions", {}, button("Rows", p.id, () => togglePayout(p), { "aria-expanded": String(members.has(p.id)) })))),
    members.has(p.id) ? memberRows(p) : null]) : whole(7, "There was no payout in the window."));
  byId("more-payouts").hidden = all.length <= payoutsShown;
}

// --- invoices -----------------------------------------------------------------------------------------------------------------

const AGES = ["0-30", "31-60", "61-90", "90+"];

function showFinance(answer) {
  const { summary, totals, balances } = answer;
  const open = summary.exceptions.open;
  setPill(byId("finance"), !answer.complete ? "Incomplete" : open ? count(open, "exception") : "All agrees", !answer.complete ? "warn" : summary.ok ? "ok" : "bad");
  fill(body("finance"), [totals, balances], () =>
    totals.length ? totals.map((t) => {
      const balance = balances.find((b) => b.currency === t.currency);
      const aging = AGES.filter((age) => t.aging[age]).map((age, i) => [i ? " · " : "", `${age} d `, el("b", {}, money(t.aging[age], t.currency))]).flat();
      const drift = balance?.drift;
      return el("tr", {},
        el("th", { scope: "row" }, t.currency.toUpperCase()),
        ...[["Invoiced", t.invoiced], ["Collected", t.collected], ["Refunded", t.refunded], ["Disputed", t.disputed], ["Outstanding", t.outstanding]].map(([label, minor]) => el("td.num", { "data-label": label }, money(minor, t.currency))),
        el("td", { "data-label": "Overdue by age" }, aging.length ? el("div", {}, aging) : "nothing"),
        el(drift ? "td.num.text-bad" : "td.num", { "data-label": "Balance drift", title: balance ? balance.items.map((item) => `${words(item.name)} ${money(item.amount, t.currency)}`).join(", ") : null }, known(drift) ? money(drift, t.currency) : "not judged"));
    }) : whole(8, "There is no invoice in the window."));
}

// --- what is to come, what went missing, trials -----------------------------------------------------------------------------

function showComing(answer) {
  const { expected = [], problems = [], errors = [], complete } = answer;
  const [word, tone] = problems.length ? [count(problems.length, "problem"), "bad"] : complete ? ["In order", "ok"] : ["Not read", "warn"];
  setPill(byId("coming"), word, tone);
  fill(body("coming"), [expected, problems, errors, complete, answer.ts], () => [
    expected.length ? el("ul.attempts", {}, expected.slice(0, 6).map((p) => el("li", {}, el("b", {}, money(p.amount, p.currency)), " on ", day(p.arrives_at), p.payout ? [" · ", mono(p.payout)] : el("small", {}, ` · not made yet, ${count(p.rows, "row")} so far`)))) : el("p.muted", {}, "No payout is on its way."),
    ...problems.map((p) => el("p.text-bad.wrap-anywhere", {}, p.reason)),
    ...errors.map((error) => el("p.text-bad.wrap-anywhere", {}, `The last look could not be made: ${error}`)),
    answer.ts ? el("p.muted", {}, complete ? "Looked " : "Tried ", time(answer.ts)) : null,
  ]);
}

/** Gaps of a class in every state. */
const sum = (states = {}) => Object.values(states).reduce((all, n) => all + n, 0);

function showGaps(answer) {
  const { counts, gaps, last } = answer;
  const failed = Object.values(counts).reduce((all, states) => all + (states.failed ?? 0), 0);
  setPill(byId("gaps"), failed ? `${failed} not filled` : last ? "None open" : "", failed ? "bad" : "ok");
  fill(body("gaps"), answer, () => [
    el("dl.pairs", {}, [["Never delivered", counts.never_delivered], ["Failed here", counts.failed_here], ["Changed outside", counts.changed_outside]].flatMap(([label, states]) => [el("dt", {}, label), el("dd", {}, String(sum(states)))])),
    el("p.muted", {}, last ? [`${count(last.looked_at, "event")} compared `, time(last.at), ". What is missing is filled in by itself."] : "Not looked yet."),
    ...gaps.filter((g) => g.state !== "filled").slice(0, 3).map((g) => el("p.text-bad.wrap-anywhere", {}, `${g.event_type} ${g.object_id ?? ""}: ${g.error ?? "waits"}`)),
  ]);
}

function showTrials(answer) {
  const [last] = answer.trials;
  setPill(byId("canary"), !answer.on ? "Off" : last ? words(last.state) : "None yet", !answer.on ? "" : { passed: "ok", failed: "bad", running: "run" }[last?.state]);
  fill(body("canary"), [answer.on, answer.every_s, answer.trials.slice(0, 10)], () => {
    if (!answer.on) return [el("p.muted", {}, "Trial payments are off (canary.mode).")];
    if (!last) return [el("p.muted", {}, `One is made every ${duration(answer.every_s)}: invoice, payment, webhook, refund, webhook.`)];
    const passed = answer.trials.filter((t) => t.state === "passed");
    return [
      el("p.figure", {}, known(last.total_ms) ? milliseconds(last.total_ms) : words(last.state), el("small", {}, known(last.total_ms) ? " from end to end" : ` at ${words(last.step).toLowerCase()}`)),
      el("dl.pairs", {}, [["Payment took effect in", known(last.paid_ms) ? milliseconds(last.paid_ms) : "never"], ["Refund took effect in", known(last.refunded_ms) ? milliseconds(last.refunded_ms) : "never"], [`Passed of the last ${answer.trials.length}`, String(passed.length)]].flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)])),
      el("p.muted", {}, "Made ", time(last.started_at), `, every ${duration(answer.every_s)}`),
      last.error ? el("p.text-bad.wrap-anywhere", {}, last.error) : null,
    ];
  });
}

/** Each as it was found last; null before the first time. */
function showLatest({ payouts, finance, watch: coming }) {
  const nothing = (section, text) => {
    const columns = byId(section).querySelectorAll("thead th").length;
    fill(body(section), text, () => (columns ? whole(columns, text) : el("p.muted", {}, text)));
  };
  if (payouts) showReport(payouts);
  else ["payouts", "totals"].forEach((section) => nothing(section, "Payouts have not been reconciled yet."));
  if (finance) showFinance(finance);
  else nothing("finance", "Invoices have not been reconciled yet.");
  if (coming) showComing(coming);
  else nothing("coming", "The coming payouts have not been looked at yet.");
}

async function act(text, request) {
  tell(text);
  try {
    tell(await request());
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

const refresh = watch([
  { path: "/api/recon/latest", sections: ["figures", "payouts", "totals", "finance", "coming"], show: showLatest },
  { path: () => exceptionsPath(null), sections: ["exceptions"], show: showExceptions },
  { path: "/api/payments/gaps", sections: ["gaps"], show: showGaps },
  { path: "/api/slo/canary?limit=20", sections: ["canary"], show: showTrials },
]);
byId("status").addEventListener("change", () => {
  [exceptions, nextException] = [[], null];
  refresh();
});
byId("more-exceptions").addEventListener("click", (event) => busy(event.currentTarget, moreExceptions));
byId("more-payouts").addEventListener("click", () => {
  payoutsShown += 20;
  drawPayouts();
});
byId("decide-no").addEventListener("click", () => byId("decide-dialog").close());
byId("decide-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(byId("decide-yes"), decided);
});
byId("payouts-now").addEventListener("click", (event) => busy(event.currentTarget, () => runNow("payout_recon", tell, refresh)));
byId("finance-now").addEventListener("click", (event) => busy(event.currentTarget, () => runNow("finance_reconcile", tell, refresh)));
byId("scan").addEventListener("click", (event) => busy(event.currentTarget, () => act("Looking for missing events…", async () => {
  await post("/api/payments/gaps/scan");
  return "The provider's list was compared with what came in.";
})));
byId("trial").addEventListener("click", (event) => busy(event.currentTarget, () => act("A trial payment is being made…", async () => {
  const { trial } = await post("/api/slo/canary/run");
  if (trial.state !== "passed") throw new Error(trial.error ?? "The trial payment failed.");
  return `The trial payment took ${milliseconds(trial.total_ms)} from end to end.`;
})));
