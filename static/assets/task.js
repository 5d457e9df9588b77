// One task: its schedule, its runs with what became of each, what is due next, and making up for the past.
import { get, post } from "./api.js";
import { busy, byId, el, fill, moment, pill, setPill, time } from "./dom.js";
import { milliseconds, toDate, utc, words } from "./format.js";
import { actions, count, fromUtcField, lateness, levelSource, levelSwitch, pauseWords, policyWords, RUN_TONES, startPauseDialog, taskPath, tell, toUtcField } from "./schedule.js";
import { watch } from "./watch.js";

const name = byId("task").dataset.task;
const path = taskPath(name);
const body = (id) => byId(id).querySelector("[data-body]");

function showTask(task) {
  byId("task").querySelector("[data-doc]").textContent = task.doc;
  fill(byId("task").querySelector("[data-actions]"), [task.state, task.paused], () => (task.state === "planned" ? [] : actions(task, tell, refresh)));
  const paused = byId("paused");
  paused.hidden = !task.paused;
  if (task.paused) fill(paused, task.paused, () => pauseWords(task.paused));
  setPill(byId("policy"), words(task.state), { scheduled: "ok", running: "run", paused: "warn" }[task.state]);
  fill(body("policy"), [task.schedule, task.policy, task.owner], () => [
    el("p.figure.smaller", {}, task.schedule),
    el("ul.sentences", {}, policyWords(task.policy).map((sentence) => el("li", {}, sentence))),
    el("p.muted", {}, `It belongs to the part ${task.owner}.`),
  ]);
}

function showNext(answer) {
  fill(body("next"), answer.slots, () => {
    if (answer.slots.length === 0) return [el("p.muted", {}, "Nothing is scheduled.")];
    return [el("ol.slots", {}, answer.slots.map((slot) => el("li", {}, el("span", {}, utc(toDate(slot))), el("small", {}, time(slot)))))];
  });
}

// The runs: the first page is looked at again and again; what was loaded before it stays below it.
let known = [];
let oldest = null;
const details = new Map();

async function loadDetail(run) {
  const shown = details.get(run.run_id);
  if (shown?.state === run.state && !["pending", "running"].includes(run.state)) return;
  details.set(run.run_id, await get(`/api/runs/${encodeURIComponent(run.run_id)}`));
}

function detailRow(run) {
  const whole = details.get(run.run_id);
  const facts = [
    ["Run", el("span.mono.wrap-anywhere", {}, run.run_id)],
    run.asked_by && ["Asked for by", run.asked_by],
    run.started_at && ["Began", utc(toDate(run.started_at))],
    run.ended_at && ["Ended", utc(toDate(run.ended_at))],
  ].filter(Boolean);
  const attempts = whole?.failed_attempts ?? [];
  const result = whole?.result;
  return el("tr.detail", {}, el("td", { colspan: 8 },
    el("dl.pairs.left", {}, facts.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)])),
    attempts.length ? el("h3", {}, "Attempts that failed") : null,
    attempts.length ? el("ul.attempts", {}, attempts.map((a) => el("li", {}, el("b", {}, `${a.attempt}. `), pill(words(a.state), RUN_TONES[a.state] ?? "bad"), ` ${a.error ?? "no error text"} `, el("small", {}, moment(a.ended_at), a.retryable ? ", tried again" : ", not to be tried again")))) : null,
    result ? el("h3", {}, "Result") : null,
    result ? el("pre.result-json", { tabindex: 0, "aria-label": "Result" }, JSON.stringify(result, null, 2)) : el("p.muted", {}, ["pending", "running"].includes(run.state) ? "It has no result yet." : "It left no result.")));
}

async function toggle(run) {
  if (details.has(run.run_id)) details.delete(run.run_id);
  else await loadDetail(run).catch((error) => tell(error.message, true));
  drawRuns();
}

async function cancel(run) {
  try {
    const { state } = await post(`/api/runs/${encodeURIComponent(run.run_id)}/cancel`);
    tell(state === "cancelled" ? "The run was cancelled before it began." : "The run was told to end.");
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

function runRow(run) {
  const open = details.has(run.run_id);
  const button = (label, does, attributes = {}) => {
    const node = el("button.button.small", { type: "button", "data-key": `${run.run_id} ${label}`, ...attributes }, label);
    node.addEventListener("click", () => busy(node, () => does(run)));
    return node;
  };
  const slot = utc(toDate(run.slot));
  const late = lateness(run);
  return el("tr", {},
    el("th", { scope: "row" }, slot, el("small", {}, time(run.slot))),
    el("td", { "data-label": "State" }, el("div", {}, pill(words(run.state), RUN_TONES[run.state]), run.reason ? el("small", {}, words(run.reason)) : null)),
    el("td", { "data-label": "Trigger" }, words(run.trigger)),
    el("td.num", { "data-label": "Attempts" }, String(run.attempts)),
    el("td.num", { "data-label": "Late by" }, late ?? ""),
    el("td.num", { "data-label": "Took" }, run.duration_ms === null || run.duration_ms === undefined ? "" : milliseconds(run.duration_ms)),
    el("td.wrap-anywhere", { "data-label": "Error" }, run.error ? el("span.text-bad", {}, run.error) : ""),
    el("td.end", {}, el("div.actions", {},
      ["pending", "running"].includes(run.state) ? button("Cancel", cancel, { "aria-label": `Cancel the run of ${slot}` }) : null,
      button("Details", toggle, { "aria-expanded": String(open), "aria-label": `Details of the run of ${slot}` }))));
}

function drawRuns() {
  const shown = known.map((run) => [run, details.get(run.run_id) ?? null]);
  fill(body("runs"), shown, () => (known.length ? known.flatMap((run) => [runRow(run), details.has(run.run_id) ? detailRow(run) : null]) : el("tr", {}, el("td.muted", { colspan: 8 }, byId("state").value ? "No run in this state." : "No slot has come due yet."))));
  byId("older").hidden = !oldest;
}

const runsPath = (after) => `${path}/runs?limit=20${byId("state").value ? `&state=${byId("state").value}` : ""}${after ? `&after=${after}` : ""}`;

async function showRuns(answer) {
  const fresh = new Set(answer.runs.map((run) => run.run_id));
  if (known.length === 0) oldest = answer.next;
  // With a filter, a run that is not on the page any more may have left the state.
  known = [...answer.runs, ...known.filter((run) => !fresh.has(run.run_id) && !["pending", "running"].includes(run.state))];
  await Promise.all(known.filter((run) => details.has(run.run_id)).map(loadDetail));
  drawRuns();
}

async function older() {
  try {
    const answer = await get(runsPath(oldest));
    const have = new Set(known.map((run) => run.run_id));
    known = [...known, ...answer.runs.filter((run) => !have.has(run.run_id))];
    oldest = answer.next;
    drawRuns();
  } catch (error) {
    tell(error.message, true);
  }
}

// Making up for the past: what was previewed is what is asked for.
let previewed = null;

function readBackfill() {
  const [from, to] = ["from", "to"].map((id) => fromUtcField(byId(id).value));
  byId("from").setAttribute("aria-invalid", String(!from));
  byId("to").setAttribute("aria-invalid", String(!to));
  return from && to ? { from, to, redo_failed: byId("redo").checked } : null;
}

function backfillNote(text, isError = false) {
  byId("backfill-note").textContent = text;
  byId("backfill-note").classList.toggle("text-bad", isError);
}

function forgetPreview() {
  previewed = null;
  byId("queue").hidden = true;
}

async function preview() {
  forgetPreview();
  const ask = readBackfill();
  if (!ask) return backfillNote("Both times are needed.", true);
  try {
    const { slots, queued, kept } = await post(`${path}/backfill`, { ...ask, dry_run: true });
    backfillNote(`${count(slots, "slot")} in the range: ${queued} would run, ${kept} stay as they are.`);
    if (queued > 0) {
      previewed = ask;
      byId("queue").textContent = `Run ${count(queued, "slot")}`;
      byId("queue").hidden = false;
    }
  } catch (error) {
    backfillNote(error.message, true);
  }
}

async function queue() {
  if (!previewed) return;
  try {
    const { queued } = await post(`${path}/backfill`, { ...previewed, dry_run: false });
    backfillNote(`${count(queued, "slot")} queued; the runs are below.`);
  } catch (error) {
    backfillNote(error.message, true);
  }
  forgetPreview();
  await refresh();
}

const level = byId("level");
const hours = levelSwitch(level, () => refresh());
const refresh = watch([
  { path, sections: ["policy"], show: showTask },
  { path: `${path}/next?n=10`, sections: ["next"], show: showNext },
  { path: () => runsPath(null), sections: ["runs"], show: showRuns },
  levelSource(hours, level, (answer) => answer.tasks[name]),
]);
byId("state").addEventListener("change", () => {
  [known, oldest] = [[], null];
  refresh();
});
byId("older").addEventListener("click", (event) => busy(event.currentTarget, older));
const yesterday = new Date(Date.now() - 86_400_000);
[byId("from").value, byId("to").value] = [toUtcField(yesterday), toUtcField(new Date())];
for (const id of ["from", "to", "redo"]) byId(id).addEventListener("input", forgetPreview);
byId("backfill-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(byId("preview"), preview);
});
byId("queue").addEventListener("click", (event) => busy(event.currentTarget, queue));
startPauseDialog();
