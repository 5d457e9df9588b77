// What the two pages about tasks share: policies and lateness in words, the service level, running, pausing and resuming.
import { follow, post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { duration, milliseconds, percent, toDate, utc, words } from "./format.js";

export const RUN_TONES = { succeeded: "ok", failed: "bad", timed_out: "bad", cancelled: "warn", missed: "warn", running: "run", pending: "run" };
const TASK_TONES = { scheduled: "ok", running: "run", paused: "warn" };
export const taskPath = (name) => `/api/tasks/${encodeURIComponent(name)}`;
export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;
export const statePill = (task) => pill(words(task.state), TASK_TONES[task.state]);

function catchUpWords(catchUp) {
  if (catchUp === "once") return "A late slot runs; of several, one run stands for all.";
  const all = catchUp?.all;
  if (!all) return "A late slot is missed.";
  const age = all.max_age_s ? ` of the last ${duration(all.max_age_s)}` : "";
  return `Late slots${age} are made up for one by one${all.max_count ? `, ${all.max_count} at most` : ""}.`;
}

const OVERLAP_WORDS = {
  skip: "A slot is skipped while a run is going on.",
  queue_one: "One slot waits for the run that is going on.",
  cancel_other: "A new slot cancels the run that is going on.",
  allow: "Runs may overlap.",
};

/** A task's policies as sentences. */
export function policyWords(policy) {
  const limits = `A try takes at most ${duration(policy.timeout_s)}`;
  return [
    catchUpWords(policy.catch_up),
    OVERLAP_WORDS[policy.overlap],
    policy.retries ? `${limits}; ${count(policy.retries, "retry", "retries")}, ${duration(policy.total_timeout_s)} in all.` : `${limits}; no retry.`,
    policy.after ? `Waits for ${policy.after}.` : null,
    policy.pause_after ? `Paused after ${count(policy.pause_after, "failure")} in a row.` : null,
    policy.jitter_ms ? `Starts ${milliseconds(policy.jitter_ms)} after its slot.` : null,
    policy.blackout?.length ? `Not ${policy.blackout.join(", ")}.` : null,
  ].filter(Boolean);
}

/** The same for a table. */
export function policyShort(policy) {
  const late = policy.catch_up === "skip" ? "late slots are missed" : policy.catch_up === "once" ? "late slots: one run" : "late slots are made up for";
  const overlap = { skip: "no overlap", queue_one: "one waits", cancel_other: "the newer wins", allow: "may overlap" }[policy.overlap];
  const retries = policy.retries ? count(policy.retries, "retry", "retries") : "no retry";
  return [late, overlap, `${duration(policy.timeout_s)} at most`, retries, policy.after && `after ${policy.after}`, policy.pause_after && `paused after ${count(policy.pause_after, "failure")}`, policy.blackout?.length && "with blackout"].filter(Boolean).join(", ");
}

/** How late a scheduled run began ("12 ms", "4 min"); null for one that was asked for, or did not begin. */
export function lateness(run) {
  if (!run.started_at || run.lag_ms === null || run.lag_ms === undefined || !["schedule", "catch_up"].includes(run.trigger)) return null;
  return run.lag_ms < 60_000 ? milliseconds(run.lag_ms) : duration(run.lag_ms / 1000);
}

export function pauseWords(pause) {
  return ["Paused by ", el("b", {}, pause.by), " ", time(pause.at), pause.until ? [", until ", el("b", {}, utc(toDate(pause.until)))] : ", until somebody resumes it", pause.why ? `: ${pause.why}` : ""].flat();
}

const SKIPPED_WORDS = { overlap: "a run was going on", paused: "paused", catch_up: "one run stood for all", maintenance: "maintenance", blackout: "blackout", dependency: "the task before it had not ended" };

/** Shows one line of the level: of all tasks, or of one. */
export function showLevel(section, answer, level) {
  const ratio = level?.on_time_ratio ?? null;
  const status = ratio === null ? "No data" : ratio < answer.objective ? "Below the objective" : "As it should be";
  setPill(section, status, ratio === null ? "" : ratio < answer.objective ? "bad" : "ok");
  fill(section.querySelector("[data-body]"), { level: level ?? null, objective: answer.objective }, () => {
    if (!level || level.due === 0) return [el("p.muted", {}, "No slot came due in this time.")];
    const skipped = Object.entries(level.skipped).filter(([, n]) => n);
    const sum = skipped.reduce((all, [, n]) => all + n, 0);
    const cell = (label, value, below, tone = "") => el("div" + (tone ? `.${tone}` : ""), {}, el("p.label", {}, label), el("p.value", {}, value), below ? el("small", {}, below) : null);
    const l = level.lateness;
    const steps = [["10 ms", l.within_10_ms], ["50 ms", l.within_50_ms], ["100 ms", l.within_100_ms], ["1 s", l.within_1_s], ["later", l.later]];
    return [
      el("div.strip", {},
        cell("Started in time", percent(ratio), `objective ${percent(answer.objective)}, within ${answer.late_ms / 1000} s`, ratio !== null && ratio < answer.objective ? "text-bad" : ""),
        cell("Due", String(level.due), `${level.on_time} in time`),
        cell("Late", String(level.late), "or made up for", level.late ? "text-warn" : ""),
        cell("Missed", String(level.missed), "nothing ran", level.missed ? "text-bad" : ""),
        cell("Skipped", String(sum), skipped.map(([why, n]) => `${n} ${SKIPPED_WORDS[why] ?? words(why).toLowerCase()}`).join(" · ")),
        cell("Failed", String(level.failed), level.cancelled ? `${level.cancelled} cancelled` : "", level.failed ? "text-bad" : "")),
      el("p.muted.steps", {}, "Starts by lateness: ", steps.map(([within, n], i) => [i ? " · " : "", el("b", {}, String(n)), ` ${i < 4 ? "within " : ""}${within}`]).flat()),
    ];
  });
}

/** The switch between 24 hours and 7 days; answers a function that says which hours are chosen. */
export function levelSwitch(section, changed) {
  const buttons = [...section.querySelectorAll("[data-hours]")];
  let hours = "24";
  for (const button of buttons) {
    button.addEventListener("click", () => {
      hours = button.dataset.hours;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      changed();
    });
  }
  return () => hours;
}

/** Runs a task now and tells how it ended. */
export async function runNow(name, tell, refresh) {
  tell(`${name} runs…`);
  try {
    const { run_id: runId } = await post(`${taskPath(name)}/run`);
    refresh();
    const run = await follow(runId);
    if (run.state === "succeeded") tell(`${name} succeeded in ${milliseconds(run.duration_ms)}.`);
    else tell(`${name} ended as ${words(run.state).toLowerCase()}${run.error ? `: ${run.error}` : "."}`, true);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

export async function resume(name, tell, refresh) {
  try {
    await post(`${taskPath(name)}/resume`);
    tell(`${name} is scheduled again.`);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

/** A datetime-local value read as UTC, or null. */
export function fromUtcField(value) {
  const date = toDate(value ? `${value}Z` : null);
  return date ? date.toISOString().replace(/\.\d+Z$/, "Z") : null;
}

export const toUtcField = (date) => date.toISOString().slice(0, 16);

let asking = null;

/** Asks why and until when, and pauses. */
export function askPause(name, tell, refresh) {
  asking = { name, tell, refresh };
  byId("pause-title").textContent = `Pause ${name}?`;
  byId("pause-form").reset();
  byId("pause-at-field").hidden = true;
  byId("pause-problem").hidden = true;
  byId("pause-dialog").showModal();
  byId("pause-reason").focus();
}

function pauseUntil() {
  const length = byId("pause-length").value;
  if (length === "") return null;
  return length === "at" ? fromUtcField(byId("pause-at").value) ?? "" : new Date(Date.now() + Number(length) * 3_600_000).toISOString();
}

async function pause() {
  const problem = (text) => {
    byId("pause-problem").textContent = text;
    byId("pause-problem").hidden = false;
  };
  const reason = byId("pause-reason").value.trim();
  const until = pauseUntil();
  if (!reason) return problem("Say why, for whoever finds it paused.");
  if (until === "") return problem("Say until when, or choose another end.");
  const { name, tell, refresh } = asking;
  try {
    await post(`${taskPath(name)}/pause`, until ? { reason, until } : { reason });
  } catch (error) {
    return problem(error.message);
  }
  byId("pause-dialog").close();
  tell(`${name} is paused.`);
  return refresh();
}

export function startPauseDialog() {
  byId("pause-length").addEventListener("change", () => (byId("pause-at-field").hidden = byId("pause-length").value !== "at"));
  byId("pause-no").addEventListener("click", () => byId("pause-dialog").close());
  byId("pause-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(byId("pause-yes"), pause);
  });
}

/** Run now, and Pause or Resume. */
export function actions(task, tell, refresh) {
  const { name } = task;
  const button = (label, does, attributes) => {
    const node = el("button.button.small", { type: "button", "data-key": `${name} ${label}`, "aria-label": `${label} ${name}`, ...attributes }, label);
    node.addEventListener("click", () => does(node));
    return node;
  };
  const going = task.state === "running";
  return [
    button(going ? "Running" : "Run now", (node) => busy(node, () => runNow(name, tell, refresh)), { disabled: going, "aria-busy": going && "true", "aria-label": going ? `${name} is running` : `Run ${name} now` }),
    task.paused ? button("Resume", (node) => busy(node, () => resume(name, tell, refresh))) : button("Pause", () => askPause(name, tell, refresh)),
  ];
}

/** Says something in the page's note. */
export function tell(text, isError = false) {
  const node = byId("note");
  node.hidden = !text;
  node.textContent = text;
  node.classList.toggle("text-bad", isError);
}

export const levelSource = (hours, section, pick) => ({ path: () => `/api/schedule/level?hours=${hours()}`, sections: ["level"], show: (answer) => showLevel(section, answer, pick(answer)) });
