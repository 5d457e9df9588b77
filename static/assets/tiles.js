// The tiles: each takes an answer of the daemon and shows it. Nothing here asks for anything.
import { byId, el, fill, pill, setPill, time } from "./dom.js";
import { bytes, duration, milliseconds, money, percent, toDate, words } from "./format.js";

const body = (section) => section.querySelector("[data-body]");
const pairs = (...rows) => el("dl.pairs", {}, rows.filter(Boolean).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
const figure = (value, unit) => el("p.figure", {}, value, unit ? " " : null, unit ? el("small", {}, unit) : null);
const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

export function showSlo(answer) {
  const section = byId("slo");
  const { status, p95_ms: p95, success_rate: rate, details = {} } = answer;
  const tone = { PASS: "ok", FAIL: "bad" }[status] ?? "";
  setPill(section, { PASS: "Pass", FAIL: "Fail", NO_DATA: "No data" }[status] ?? status, tone);
  fill(body(section), { p95, rate, n: details.n, targets: details.targets, window: details.window_s }, () => {
    const window = details.window_s ? `in ${duration(details.window_s)}` : "";
    if (status === "NO_DATA") return [figure("No requests", ""), el("p.muted", {}, `Nothing to judge ${window || "yet"}.`)];
    const target = details.targets ?? {};
    return [
      figure(percent(rate), "succeeded"),
      pairs(
        ["95 % answered within", milliseconds(p95)],
        target.p95_ms && ["Target", `${milliseconds(target.p95_ms)}, ${target.success_ppm / 10000} %`],
        ["Requests", `${details.n ?? "unknown"} ${window}`],
      ),
    ];
  });
}

export function showBackups(overview) {
  const section = byId("backups");
  const [newest] = overview.backups ?? [];
  const state = newest?.proof?.state;
  setPill(section, newest ? ({ passed: "Proven", failed: "Proof failed", pending: "Being proven" }[state] ?? "Not proven") : "None yet", { passed: "ok", failed: "bad", pending: "warn" }[state] ?? "");
  fill(body(section), overview.backups ?? [], () => {
    if (!newest) return [figure("No archive", ""), el("p.muted", {}, "The first is made at 00:30 UTC, or now.")];
    return [
      figure(bytes(newest.size_bytes)),
      pairs(
        ["Newest", time(newest.made_at)],
        ["Restored and checked", time(newest.proof?.at)],
        ["Archives kept", overview.backups.length >= 7 ? "7 or more" : String(overview.backups.length)],
      ),
      el("p.muted.mono.wrap-anywhere", {}, newest.archive),
      newest.proof?.error ? el("p.text-bad", {}, newest.proof.error) : null,
    ];
  });
}

export function showRecon(overview) {
  const section = byId("recon");
  const recon = overview.reconciliation;
  const open = recon?.open_exceptions ?? 0;
  if (!recon) setPill(section, "Not run yet");
  else if (!recon.complete) setPill(section, "Incomplete", "warn");
  else setPill(section, open ? count(open, "exception") : "All agrees", open ? "bad" : "ok");
  fill(body(section), recon ?? null, () => {
    if (!recon) return [figure("No result", ""), el("p.muted", {}, "Payouts are compared with the ledger every 6 hours, or now.")];
    const { matched = 0, total = 0, amount_mismatch: wrong = 0, missing_in_ledger: missing = 0 } = recon.summary ?? {};
    const open = Math.max(0, total - matched - wrong - missing);
    return [
      figure(`${matched} of ${total}`, total === 1 ? "payout matched" : "payouts matched"),
      pairs(["Amount differs", String(wrong)], ["Missing in the ledger", String(missing)], ["Not comparable yet", String(open)], ["Compared", time(recon.ts)]),
    ];
  });
}

export function showExceptions(answer) {
  const section = byId("exceptions");
  const open = (answer.exceptions ?? []).filter((e) => ["open", "acknowledged"].includes(e.status ?? "open"));
  section.hidden = open.length === 0;
  setPill(section, String(open.length), "bad");
  const tones = { high: "bad", medium: "warn", low: "" };
  fill(body(section), open, () =>
    open.map((row) => {
      const e = { ...row.body, ...row };
      const difference = Number.isSafeInteger(e.difference) && e.currency ? `Difference ${money(e.difference, e.currency)}` : null;
      const where = [e.payout_id, e.balance_transaction_id, e.source_id].filter(Boolean).join(" · ");
      return el("li", {},
        el("div.row", {}, el("b", {}, words(e.kind)), pill(words(e.severity), tones[e.severity]), el("small", {}, "first seen ", time(e.first_seen ?? e.first_seen_at, "just now"))),
        el("p.why", {}, e.explanation ?? ""),
        e.suggested_action ? el("p", {}, e.suggested_action) : null,
        difference || where ? el("p", {}, [difference, where].filter(Boolean).join(" · ")) : null);
    }));
}

export function showAlerts(answer) {
  const section = byId("alerts");
  const alerts = answer.alerts ?? [];
  const firing = alerts.filter((alert) => alert.state === "firing");
  const worst = firing.some((alert) => alert.severity === "critical") ? "bad" : "warn";
  setPill(section, firing.length ? `${firing.length} firing` : "Quiet", firing.length ? worst : "ok");
  fill(body(section), alerts, () => {
    if (alerts.length === 0) return [figure("None", ""), el("p.muted", {}, "Nothing is wrong that we know of.")];
    return alerts.slice(0, 6).map((alert) =>
      el("div", {},
        el("div.row", {}, el("b", {}, words(alert.name)), " ", pill(alert.state === "firing" ? words(alert.severity) : words(alert.state), alert.state !== "firing" ? "" : alert.severity === "critical" ? "bad" : "warn")),
        el("small.wrap-anywhere", {}, alert.reason, " · since ", time(alert.since))));
  });
}

const LEDGER_WORDS = { refund: "refunded", payout: "paid out", dispute: "disputed", fee: "fees", refund_failure: "refunds failed" };

export function showMoney(overview) {
  const totals = overview.money?.totals ?? [];
  const { last_day: day = {}, unprocessed = 0 } = overview.webhooks ?? {};
  fill(byId("money"), { totals, day, unprocessed }, () => {
    const cell = (label, value, below) => el("div", {}, el("p.label", {}, label), el("p.value", {}, value), el("small", {}, below));
    const currencies = [...new Set(totals.map((t) => t.currency))];
    const received = currencies.map((currency) => {
      const own = totals.filter((t) => t.currency === currency);
      const charges = own.find((t) => t.kind === "charge") ?? { amount_minor: 0, count: 0 };
      const others = own.filter((t) => t.kind !== "charge").map((t) => `${LEDGER_WORDS[t.kind] ?? words(t.kind).toLowerCase()} ${money(Math.abs(t.amount_minor), currency)}`);
      return cell("Received in 30 days", money(charges.amount_minor, currency), [count(charges.count, "payment"), ...others].join(" · "));
    });
    const events = Object.values(day).reduce((sum, n) => sum + n, 0);
    const state = [day.failed ? `${day.failed} failed` : "none failed", unprocessed ? `${unprocessed} waiting` : "none waiting"];
    return [
      ...(received.length ? received : [cell("Received in 30 days", "Nothing yet", "The ledger has no payments.")]),
      cell("Webhooks in 24 hours", String(events), state.join(" · ")),
    ];
  });
}

const RUN_TONES = { succeeded: "ok", failed: "bad", timed_out: "bad", cancelled: "warn", missed: "warn", running: "warn" };

export function showTasks(answer, run) {
  const section = byId("tasks");
  const real = answer.tasks.filter((task) => task.state !== "planned");
  const planned = answer.tasks.filter((task) => task.state === "planned");
  fill(body(section), real, () =>
    real.map((task) => {
      const last = task.last_run;
      const running = task.state === "running";
      const button = el("button.button.small", { type: "button", "data-key": task.name, "aria-label": `Run ${task.name} now`, disabled: running, "aria-busy": running && "true" }, running ? "Running" : "Run");
      button.addEventListener("click", () => run(task.name, button));
      const result = last ? [pill(words(last.state), RUN_TONES[last.state]), el("small", {}, time(last.ended_at ?? last.started_at ?? last.slot)), last.error ? el("small.text-bad.wrap-anywhere", {}, last.error) : null] : [el("span.muted", {}, "Not run yet")];
      return el("tr", {},
        el("th", { scope: "row" }, el("a", { href: `/tasks/${encodeURIComponent(task.name)}` }, task.name), el("small", {}, task.doc)),
        el("td.nowrap", { "data-label": "Schedule" }, task.schedule),
        el("td", { "data-label": "Last result" }, el("div.result", {}, result)),
        el("td.nowrap", { "data-label": "Next" }, task.state === "paused" ? "Paused" : time(task.next, "Not scheduled")),
        el("td.end", {}, button));
    }));
  const more = section.querySelector("[data-planned]");
  more.hidden = planned.length === 0;
  more.querySelector("summary").textContent = `${count(planned.length, "task is", "tasks are")} planned: not built yet, so not scheduled`;
  fill(more.querySelector("ul"), planned, () => planned.map((task) => el("li", {}, el("b", {}, task.name), el("small", {}, task.doc))));
}

const CHILD_TONES = { running: "ok", finished: "ok", starting: "warn", restarting: "warn", hung: "bad", quarantined: "bad", failed: "bad", stopped: "bad" };

export function showSupervisor(answer) {
  const section = byId("supervisor");
  const children = answer.tree ?? [];
  const down = children.filter((child) => child.state !== "running" && child.state !== "finished");
  setPill(section, down.length ? `${down.length} not running` : "All running", down.length ? "bad" : "ok");
  // Uptime would change at every look; the start time says the same and `tick` keeps it true.
  const moving = ["uptime_s", "mailbox_depth", "handled", "in_handler_ms", "handler_longest_ms", "handler_total_ms"];
  const data = children.map((child) => Object.fromEntries(Object.entries(child).filter(([name]) => !moving.includes(name))));
  fill(body(section), data, () => [
    el("li.root", {}, el("div.row", {}, el("b", {}, "supervisor"), el("small", {}, `watches over ${count(children.length, "part")}`))),
    ...children.map((child) =>
      el("li", {},
        el("div.row", {}, el("b", {}, child.name), child.critical ? el("small", {}, "critical") : null, pill(words(child.state), CHILD_TONES[child.state] ?? "warn")),
        el("p", {}, child.started_at ? ["started ", time(child.started_at)] : "not started", ` · ${child.restarts ? count(child.restarts, "restart") : "never restarted"}`),
        child.quarantined_until ? el("p.text-bad", {}, "put aside, tried again ", time(child.quarantined_until)) : null,
        child.last_failure ? el("p.text-bad", {}, `${child.last_failure} `, child.last_failure_at && toDate(child.last_failure_at) ? time(child.last_failure_at) : null) : null)),
  ]);
}
