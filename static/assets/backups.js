// Backups: the last proof and its age, sizes and times, the archives and why they stay, what is in one, the proofs with their checks.
import { follow, get, post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { bars } from "./bars.js";
import { bytes, duration, milliseconds, toDate, utc, words } from "./format.js";
import { count, tell } from "./schedule.js";
import { watch } from "./watch.js";

const VERIFY_MS = 600_000;
const BACKUP_MS = 6 * 3_600_000;
const body = (id) => byId(id).querySelector("[data-body]");
const known = (value) => value !== null && value !== undefined;
const whole = (columns, text) => el("tr", {}, el("td.muted", { colspan: columns }, text));
const share = (ratio) => (known(ratio) ? `${Math.floor(ratio * 100)} %` : "");
const archivePath = (date) => `/api/backups/${encodeURIComponent(date)}`;

function button(label, what, does, attributes = {}) {
  const node = el("button.button.small", { type: "button", "data-key": `${what} ${label}`, "aria-label": `${label}: ${what}`, ...attributes }, label);
  node.addEventListener("click", () => busy(node, does));
  return node;
}

// --- figures ------------------------------------------------------------------------------------------------------------------

let list = null;
let nextDue = null;
let alerts = [];

/** Green, amber or red: a check that failed outranks a good archive, and an old proof is none. */
function verdict() {
  const limit = list.proof_max_age_s;
  const failing = alerts.filter((alert) => alert.state === "firing" && alert.severity === "critical");
  const age = list.last_proof?.age_s;
  if (failing.length) return ["text-bad", failing[0].reason];
  if (!known(age)) return ["text-warn", "No archive was proven to restore yet."];
  if (age > limit) return ["text-bad", `The last proof is older than ${duration(limit)}.`];
  if (list.backups[0]?.state === "partial") return ["text-warn", "The newest archive is not complete."];
  if (age > limit * 0.75) return ["text-warn", `A proof may be ${duration(limit)} old.`];
  return ["text-ok", `of ${list.last_proof.date}`];
}

function drawFigures() {
  if (!list) return;
  const [newest] = list.backups;
  const proof = list.last_proof;
  const [tone, below] = verdict();
  const cell = (label, value, small, className = "") => el("div" + (className ? `.${className}` : ""), {}, el("p.label", {}, label), el("p.value", {}, value), el("small.wrap-anywhere", {}, small));
  const { age_s: _, ...still } = proof ?? {};
  fill(byId("figures"), [newest ?? null, still, tone, below, nextDue, list.total], () => [
    cell("Last proof of restore", proof ? time(proof.at) : "None yet", below, tone),
    cell("Time to restore", proof ? milliseconds(proof.restore_ms) : "not known", proof ? `measured ${utc(toDate(proof.at)).slice(0, 10)}` : "measured with the first proof"),
    cell("Newest archive", newest ? bytes(newest.size_bytes) : "None yet", newest ? ["made ", time(newest.made_at), newest.encrypted ? ", encrypted" : ""] : "Make the first one now."),
    cell("Reused", newest ? share(newest.reused_ratio) || "nothing" : "nothing", newest ? (newest.full ? "made without reusing anything" : `${bytes(newest.reused_bytes)} taken over from the one before`) : "of the archive before"),
    cell("Next due", nextDue ? time(nextDue) : "Not scheduled", count(list.total, "archive")),
  ]);
  const firing = alerts.filter((alert) => alert.state === "firing");
  byId("trouble").hidden = firing.length === 0;
  fill(byId("trouble"), firing.map((alert) => alert.reason), () => firing.map((alert) => el("span.line", {}, `${words(alert.name)}: ${alert.reason}`)));
}

function drawBars() {
  const shown = [...list.backups].slice(0, 30).reverse();
  const [sizes, durations] = [byId("sizes"), byId("durations")];
  const newest = shown.at(-1);
  setPill(sizes, newest ? `${share(newest.reused_ratio) || "0 %"} reused` : "", "");
  fill(body("sizes"), shown.map((b) => [b.date, b.size_bytes, b.reused_bytes, b.state]), () =>
    shown.length ? bars(shown.map((b) => ({ label: b.date, value: b.size_bytes, part: Math.min(b.reused_bytes, b.size_bytes), bad: b.proof?.state === "failed", warn: b.state === "partial" })), bytes, "Size of each archive; the darker part was taken over from the one before", ["New", "Taken over"]) : el("p.muted", {}, "There is no archive yet."));
  setPill(durations, newest ? milliseconds(newest.took_ms) : "", "");
  fill(body("durations"), shown.map((b) => [b.date, b.took_ms, b.proof?.restore_ms]), () =>
    shown.length ? bars(shown.map((b) => ({ label: b.date, value: b.took_ms, part: Math.min(b.proof?.restore_ms ?? 0, b.took_ms), bad: b.proof?.state === "failed", warn: b.state === "partial" })), milliseconds, "How long each backup took; the darker part was the restore of its proof", ["Backup", "Restore"]) : el("p.muted", {}, "There is no archive yet."));
}

// --- archives -----------------------------------------------------------------------------------------------------------------

let extra = [];
let nextArchive = null;
let withReasons = false;
const checked = new Map();
const openProblems = new Set();
const listPath = (after) => `/api/backups?limit=30${withReasons ? "&reasons=true" : ""}${after ? `&after=${encodeURIComponent(after)}` : ""}`;

async function verify(date) {
  checked.set(date, { text: "Being checked…", tone: "run" });
  drawArchives();
  try {
    const report = await post(`${archivePath(date)}/verify`, undefined, undefined, VERIFY_MS);
    const manifest = { signed: "signed", unsigned: "not signed", none: "no manifest", differs: "not the file of its manifest" }[report.manifest];
    checked.set(date, report.ok ? { text: `Whole, ${manifest}`, tone: "ok" } : { text: report.problem, tone: "bad" });
    tell(report.ok ? `The archive of ${date} is whole.` : `The archive of ${date} is damaged.`, !report.ok);
  } catch (error) {
    checked.delete(date);
    tell(error.message, true);
  }
  drawArchives();
}

function statePills(b) {
  const partial = b.state === "partial";
  return el("div.inline", {},
    b.present === false ? pill("File missing", "bad") : pill(partial ? "Partial" : words(b.state || "ok"), partial ? "warn" : "ok"),
    b.encrypted ? pill("Encrypted") : null,
    partial ? button(openProblems.has(b.date) ? "Hide" : `${b.problems.length} not whole`, b.date, () => {
      if (!openProblems.delete(b.date)) openProblems.add(b.date);
      drawArchives();
    }, { "aria-expanded": String(openProblems.has(b.date)) }) : null);
}

function archiveRows(b) {
  const proof = b.proof ?? {};
  const check = checked.get(b.date);
  const detail = [
    openProblems.has(b.date) ? el("ul.attempts", {}, b.problems.map((p) => el("li", {}, el("b.mono.wrap-anywhere", {}, p.path), `: ${p.what}`))) : null,
    check ? el(check.tone === "bad" ? "p.text-bad.wrap-anywhere" : "p", {}, pill({ ok: "Checked", bad: "Damaged", run: "Checking" }[check.tone], check.tone), ` ${check.text}`) : null,
    withReasons && b.retention ? el("p", {}, pill(b.retention.keep ? "Stays" : "Goes", b.retention.keep ? "ok" : "warn"), ` ${b.retention.reasons.join("; ")}`) : null,
    proof.error ? el("p.text-bad.wrap-anywhere", {}, proof.error) : null,
  ].filter(Boolean);
  return [
    el("tr", {},
      el("th.nowrap", { scope: "row" }, b.date, el("small", {}, "made ", time(b.made_at))),
      el("td", { "data-label": "State" }, statePills(b)),
      el("td.num", { "data-label": "Size" }, bytes(b.size_bytes)),
      el("td.num", { "data-label": "Content" }, el("div", {}, bytes(b.content_bytes), el("small", {}, count(b.files, "file")))),
      el("td.num", { "data-label": "Reused" }, b.full ? "made anew" : share(b.reused_ratio)),
      el("td", { "data-label": "Proven" }, el("div.inline", {}, pill({ passed: "Passed", failed: "Failed", pending: "Pending" }[proof.state] ?? "No proof", { passed: "ok", failed: "bad", pending: "run" }[proof.state] ?? ""), el("small", {}, time(proof.at, "")))),
      el("td.num", { "data-label": "Restores in" }, known(proof.restore_ms) ? milliseconds(proof.restore_ms) : ""),
      el("td.end", {}, el("div.actions", {}, button("Contents", b.date, () => browse(b.date, ""), { disabled: b.present === false }), button("Verify", b.date, () => verify(b.date), { disabled: b.present === false })))),
    detail.length ? el("tr.detail", {}, el("td", { colspan: 8 }, detail)) : null,
  ];
}

function drawArchives() {
  const all = [...list.backups, ...extra];
  const strangers = list.unrecorded;
  const bad = all.filter((b) => b.present === false || b.proof?.state === "failed").length;
  setPill(byId("archives"), all.length ? (bad ? `${bad} to look at` : count(list.total, "archive")) : "", bad ? "bad" : "ok");
  fill(body("archives"), [all, strangers, withReasons, [...checked], [...openProblems]], () => [
    ...all.flatMap(archiveRows),
    ...strangers.map((b) => el("tr", {},
      el("th.nowrap", { scope: "row" }, b.date, el("small", {}, b.made_at ? ["made ", time(b.made_at)] : "")),
      el("td", { "data-label": "State" }, el("div.inline", {}, pill("Unrecorded", "warn"), b.encrypted ? pill("Encrypted") : null, el("small", {}, b.problem ?? "the database does not know it"))),
      el("td.num", { "data-label": "Size" }, bytes(b.size_bytes)),
      ...["Content", "Reused", "Proven", "Restores in"].map((label) => el("td", { "data-label": label })),
      el("td.end", {}, el("div.actions", {}, button("Contents", b.date, () => browse(b.date, "")), button("Verify", b.date, () => verify(b.date)))))),
    all.length + strangers.length ? null : whole(8, "There is no archive yet. The first is made at 00:30 UTC, or now."),
  ]);
  byId("more-archives").hidden = !nextArchive;
}

function showList(answer) {
  list = answer;
  if (extra.length === 0) nextArchive = answer.next;
  drawFigures();
  drawBars();
  drawArchives();
}

async function moreArchives() {
  try {
    const answer = await get(listPath(nextArchive));
    extra = [...extra, ...answer.backups];
    nextArchive = answer.next;
    drawArchives();
  } catch (error) {
    tell(error.message, true);
  }
}

// --- contents -----------------------------------------------------------------------------------------------------------------

let open = null;

async function browse(date, prefix, after = null) {
  const query = new URLSearchParams({ level: "true", limit: "200" });
  if (prefix) query.set("prefix", prefix);
  if (after) query.set("after", after);
  try {
    const answer = await get(`${archivePath(date)}/files?${query}`);
    const before = after && open?.date === date && open.prefix === prefix ? open.entries : [];
    const moved = open === null || open.date !== date;
    open = { date, prefix, entries: [...before, ...answer.entries], next: answer.next };
    drawBrowser();
    if (moved) byId("browser").scrollIntoView({ block: "nearest" });
  } catch (error) {
    tell(error.message, true);
  }
}

function entryRow(e) {
  const { date } = open;
  const link = `${archivePath(date)}/file?path=${encodeURIComponent(e.path)}`;
  const name = e.type === "dir" ? el("button.link", { type: "button", "data-key": `folder ${e.path}` }, `${e.name}/`) : el("span.mono.wrap-anywhere", {}, e.name);
  if (e.type === "dir") name.addEventListener("click", () => browse(date, e.path));
  const takes = ["file", "link"].includes(e.type);
  return el("tr", {},
    el("th", { scope: "row" }, name, e.link ? el("small.wrap-anywhere", {}, `${e.type === "link" ? "the same file as" : "points to"} ${e.link}`) : null),
    el("td.num", { "data-label": "Size" }, e.type === "symlink" || e.type === "link" ? "" : el("div", {}, bytes(e.size ?? 0), e.files ? el("small", {}, count(e.files, "file")) : null)),
    el("td.nowrap", { "data-label": "Changed" }, e.mtime ? utc(toDate(e.mtime)) : ""),
    el("td.end", {}, takes ? el("a.button.small", { href: link, download: e.name, "aria-label": `Download ${e.path}` }, "Download") : null));
}

function drawBrowser() {
  const section = byId("browser");
  section.hidden = open === null;
  if (!open) return;
  byId("browser-title").textContent = `Contents of ${open.date}`;
  const parts = open.prefix ? open.prefix.split("/") : [];
  const step = (label, prefix, last) => {
    if (last) return el("b.wrap-anywhere", { "aria-current": "location" }, label);
    const node = el("button.link", { type: "button", "data-key": `crumb ${prefix}` }, label);
    node.addEventListener("click", () => browse(open.date, prefix));
    return node;
  };
  fill(byId("crumbs"), [open.date, open.prefix], () =>
    [step("archive", "", parts.length === 0), ...parts.flatMap((part, i) => [el("span", { "aria-hidden": "true" }, "/"), step(part, parts.slice(0, i + 1).join("/"), i === parts.length - 1)])]);
  fill(body("browser"), open, () => (open.entries.length ? open.entries.map(entryRow) : whole(4, "This folder is empty.")));
  byId("more-entries").hidden = !open.next;
}

// --- proofs -------------------------------------------------------------------------------------------------------------------

const openProofs = new Set();
let proofs = [];

function evidence(value) {
  if (!known(value)) return "";
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([name, v]) => `${words(name).toLowerCase()} ${evidence(v)}`).join(", ");
}

function drawProofs() {
  const failed = proofs.filter((p) => p.state === "failed").length;
  setPill(byId("proofs"), proofs.length ? (failed ? `${failed} failed` : `All ${proofs.length} passed`) : "", failed ? "bad" : "ok");
  fill(body("proofs"), [proofs, [...openProofs]], () =>
    proofs.length ? proofs.flatMap((p) => {
      const key = `${p.run_id} ${p.at}`;
      const toggle = () => {
        if (!openProofs.delete(key)) openProofs.add(key);
        drawProofs();
      };
      return [
        el("tr", {},
          el("th", { scope: "row" }, time(p.at)),
          el("td", { "data-label": "Of" }, p.date),
          el("td", { "data-label": "Result" }, el("div", {}, pill(words(p.state), p.state === "passed" ? "ok" : "bad"), p.error ? el("small.text-bad.wrap-anywhere", {}, p.error) : null)),
          el("td.num", { "data-label": "Restored in" }, milliseconds(p.restore_ms)),
          el("td.end", {}, el("div.actions", {}, button("Checks", `proof of ${p.date}, ${p.at}`, toggle, { "aria-expanded": String(openProofs.has(key)) })))),
        openProofs.has(key) ? el("tr.detail", {}, el("td", { colspan: 5 }, el("ul.attempts", {}, p.checks.map((c) => el("li", {}, pill(c.ok ? "Passed" : "Failed", c.ok ? "ok" : "bad"), " ", el("b", {}, words(c.check)), el("small.wrap-anywhere", {}, ` ${evidence(c.evidence)}`)))))) : null,
      ];
    }) : whole(5, "Nothing was proven yet."));
}

// --- making one ---------------------------------------------------------------------------------------------------------------

function showGoing(run) {
  const now = run?.progress;
  byId("going").hidden = !run;
  if (!run) return;
  const bar = byId("going-bar");
  if (now && now.total_bytes > 0) {
    bar.max = now.total_bytes;
    bar.value = now.done_bytes;
  } else {
    bar.removeAttribute("value");
  }
  byId("going-text").textContent = now ? `${words(now.phase)}${now.total_bytes > 0 ? `: ${bytes(now.done_bytes)} of ${bytes(now.total_bytes)}` : "…"}` : "The backup begins…";
}

let following = null;

/** Follows a run to its end and says how it ended. */
async function followBackup(runId) {
  if (following === runId) return;
  following = runId;
  try {
    const run = await follow(runId, BACKUP_MS, showGoing);
    const made = run.result;
    if (made?.ok) tell(`Done: ${bytes(made.size_bytes)}, ${made.size_bytes ? share(made.reused_bytes / made.size_bytes) : "0 %"} reused, restored and compared.`);
    else if (made?.state === "partial") tell(`The archive is not complete: ${made.partial?.[0]?.path ?? ""} ${made.partial?.[0]?.what ?? ""}.`, true);
    else tell(run.error ?? "The backup failed.", true);
  } catch (error) {
    tell(error.message, true);
  } finally {
    following = null;
    showGoing(null);
  }
  await refresh();
}

async function backUp() {
  tell("");
  showGoing({});
  try {
    const accepted = await post("/api/backup/run", undefined, { Prefer: "respond-async" });
    await followBackup(accepted.run_id);
  } catch (error) {
    showGoing(null);
    if (error.status === 409 && error.body?.run_id) return followBackup(error.body.run_id);
    tell(error.message, true);
  }
}

const refresh = watch([
  { path: () => listPath(null), sections: ["figures", "sizes", "durations", "archives"], show: showList },
  { path: "/api/backups/proofs?limit=20", sections: ["proofs"], show: (answer) => { proofs = answer.proofs; drawProofs(); } },
  { path: "/api/alerts", sections: [], show: (answer) => { alerts = (answer.alerts ?? []).filter((alert) => alert.name.startsWith("backup_")); drawFigures(); } },
  { path: "/api/tasks/daily_backup", sections: [], show: (task) => {
    nextDue = task.state === "paused" ? null : task.next;
    drawFigures();
    if (task.last_run?.state === "running") followBackup(task.last_run.run_id);
  } },
]);
byId("backup-now").addEventListener("click", (event) => busy(event.currentTarget, backUp));
byId("more-archives").addEventListener("click", (event) => busy(event.currentTarget, moreArchives));
byId("more-entries").addEventListener("click", (event) => busy(event.currentTarget, () => browse(open.date, open.prefix, open.next)));
byId("close-browser").addEventListener("click", () => {
  open = null;
  drawBrowser();
});
byId("reasons").addEventListener("click", (event) => {
  withReasons = !withReasons;
  event.currentTarget.setAttribute("aria-pressed", String(withReasons));
  extra = [];
  refresh();
});
