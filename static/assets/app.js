// The dashboard: looks at the daemon every five seconds while somebody looks at the page, and starts what is asked for.
import { ApiError, follow, get, post, readiness } from "./api.js";
import { busy, byId, setPill, tick } from "./dom.js";
import { bytes, utc } from "./format.js";
import { startPayments } from "./payments.js";
import { showAlerts, showBackups, showExceptions, showMoney, showRecon, showSlo, showSupervisor, showTasks } from "./tiles.js";

const EVERY_MS = 5000;

/** Which sections an endpoint fills. */
const SOURCES = [
  { path: "/api/overview", sections: ["money", "backups", "recon"], show: (a) => [showMoney, showBackups, showRecon].forEach((show) => show(a)) },
  { path: "/api/slo/status", sections: ["slo"], show: showSlo },
  { path: "/api/alerts", sections: ["alerts"], show: showAlerts },
  { path: "/api/tasks", sections: ["tasks"], show: (a) => showTasks(a, runTask) },
  { path: "/api/supervisor/status", sections: ["supervisor"], show: showSupervisor },
  { path: "/api/recon/exceptions?status=open&limit=20", sections: ["exceptions"], show: showExceptions },
];

let lastAnswer = null;
let looking = null;
let timer = 0;

function showHealth(state) {
  const tone = { ready: "ok", "not ready": "warn", "no answer": "bad" }[state];
  const text = { ready: "Healthy", "not ready": "Not ready", "no answer": "No answer" }[state];
  byId("health").className = `health ${tone}`;
  if (byId("health-text").textContent !== text) byId("health-text").textContent = text;
}

function notice(text) {
  const node = byId("notice");
  node.hidden = !text;
  if (node.textContent !== text) node.textContent = text;
}

/** Shows one answer; what cannot be had leaves the old figures, greyed. */
async function lookAt({ path, sections, show }) {
  let problem = null;
  try {
    show(await get(path));
  } catch (error) {
    problem = error;
    if (!(error instanceof ApiError)) console.error(error);
  }
  for (const id of sections) {
    const section = byId(id);
    section.classList.toggle("stale", problem !== null);
    if (problem && section.querySelector("[data-pill]") && id !== "exceptions") setPill(section, "Not up to date", "warn");
  }
  return problem;
}

async function look() {
  const [health, ...problems] = await Promise.all([readiness(), ...SOURCES.map(lookAt)]);
  showHealth(health);
  const failed = problems.filter(Boolean);
  if (failed.length === 0) {
    lastAnswer = new Date();
    notice("");
  } else if (failed.every((problem) => problem.status === 0)) {
    const since = lastAnswer ? `The figures are from ${utc(lastAnswer)}.` : "There are no figures yet.";
    notice(`EchoPilot does not answer. ${since} Trying again every 5 seconds.`);
  } else {
    notice(`Not everything is up to date: ${[...new Set(failed.map((problem) => problem.message))].join(" ")}`);
  }
  if (lastAnswer) {
    const updated = byId("updated");
    updated.dateTime = lastAnswer.toISOString();
    updated.title = utc(lastAnswer);
    updated.dataset.relative = "";
  }
  tick();
}

/** One look at a time; the next five seconds after the last, and none while the tab is hidden. */
function refresh() {
  clearTimeout(timer);
  looking ??= look().finally(() => {
    looking = null;
    if (!document.hidden) timer = setTimeout(refresh, EVERY_MS);
  });
  return looking;
}

function note(section, text, isError = false) {
  const node = byId(section).querySelector("[data-note]");
  node.textContent = text;
  node.classList.toggle("text-bad", isError);
}

/** Starts a run and says in the section's note how it ended. */
async function start(section, request, told) {
  note(section, "Working…");
  try {
    const answer = await request();
    const runId = answer.run_id;
    const run = runId && !("archive" in answer) ? await follow(runId) : { state: "succeeded", result: answer };
    if (run.state === "succeeded") note(section, told(run.result ?? {}));
    else note(section, run.error ?? `It ended as ${run.state}.`, true);
  } catch (error) {
    note(section, error.message, true);
  }
  await refresh();
}

function runTask(name, button) {
  return busy(button, () => start("tasks", () => post(`/api/tasks/${encodeURIComponent(name)}/run`), () => `${name} succeeded.`));
}

byId("backup-now").addEventListener("click", (event) =>
  busy(event.currentTarget, () => start("backups", () => post("/api/backup/run"), (made) => (made.size_bytes ? `Done: ${bytes(made.size_bytes)}.` : "Done."))));
byId("recon-now").addEventListener("click", (event) =>
  busy(event.currentTarget, () => start("recon", () => post("/api/tasks/payout_recon/run"), () => "Done.")));
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
setInterval(() => document.hidden || tick(), 1000);
startPayments(refresh);
refresh();
