// The dashboard: which answer fills which section, and what its buttons start.
import { follow, post } from "./api.js";
import { busy, byId } from "./dom.js";
import { bytes } from "./format.js";
import { startPayments } from "./payments.js";
import { showAlerts, showBackups, showExceptions, showMoney, showRecon, showSlo, showSupervisor, showTasks } from "./tiles.js";
import { watch } from "./watch.js";

const refresh = watch([
  { path: "/api/overview", sections: ["money", "backups", "recon"], show: (a) => [showMoney, showBackups, showRecon].forEach((show) => show(a)) },
  { path: "/api/slo/status", sections: ["slo"], show: showSlo },
  { path: "/api/alerts", sections: ["alerts"], show: showAlerts },
  { path: "/api/tasks", sections: ["tasks"], show: (a) => showTasks(a, runTask) },
  { path: "/api/supervisor/status", sections: ["supervisor"], show: showSupervisor },
  { path: "/api/recon/exceptions?status=open&limit=20", sections: ["exceptions"], show: showExceptions },
]);

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
startPayments(refresh);
