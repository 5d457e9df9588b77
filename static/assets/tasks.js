// The task table: what there is, how it is, what runs next; running, pausing and resuming.
import { byId, el, fill, pill, setPill, time } from "./dom.js";
import { milliseconds, words } from "./format.js";
import { actions, count, lateness, levelSource, levelSwitch, pauseWords, policyShort, RUN_TONES, startPauseDialog, statePill, tell } from "./schedule.js";
import { watch } from "./watch.js";

function lastRun(run) {
  if (!run) return [el("span.muted", {}, "Not run yet")];
  const late = lateness(run);
  const figures = [late && `${late} late`, run.duration_ms !== null && run.duration_ms !== undefined && `took ${milliseconds(run.duration_ms)}`].filter(Boolean);
  return [
    el("div.inline", {}, pill(words(run.state), RUN_TONES[run.state]), el("small", {}, time(run.ended_at ?? run.started_at ?? run.slot))),
    figures.length ? el("small", {}, figures.join(", ")) : null,
    run.error ? el("small.text-bad.wrap-anywhere", {}, run.error) : run.reason ? el("small", {}, words(run.reason)) : null,
  ];
}

function row(task) {
  return el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `/tasks/${encodeURIComponent(task.name)}`, "data-key": task.name }, task.name), el("small", {}, task.doc)),
    el("td.policies", { "data-label": "Schedule" }, el("div", {}, el("span", {}, task.schedule), el("small", {}, policyShort(task.policy)))),
    el("td", { "data-label": "State" }, el("div", {}, statePill(task), task.paused ? el("small.pause-note.wrap-anywhere", {}, pauseWords(task.paused)) : null)),
    el("td", { "data-label": "Last run" }, el("div", {}, lastRun(task.last_run))),
    el("td.nowrap", { "data-label": "Next" }, task.state === "paused" ? "Paused" : time(task.next, "Not scheduled")),
    el("td.end", {}, el("div.actions", {}, actions(task, tell, refresh))));
}

function showTasks(answer) {
  const section = byId("tasks");
  const real = answer.tasks.filter((task) => task.state !== "planned");
  const planned = answer.tasks.filter((task) => task.state === "planned");
  const paused = real.filter((task) => task.paused).length;
  setPill(section, paused ? `${paused} paused` : `${real.length} scheduled`, paused ? "warn" : "ok");
  fill(section.querySelector("[data-body]"), real, () => real.map(row));
  const more = section.querySelector("[data-planned]");
  more.hidden = planned.length === 0;
  more.querySelector("summary").textContent = `${count(planned.length, "task is", "tasks are")} planned: not built yet, so not scheduled`;
  fill(more.querySelector("ul"), planned, () => planned.map((task) => el("li", {}, el("b", {}, task.name), el("small", {}, task.doc))));
}

const level = byId("level");
const hours = levelSwitch(level, () => refresh());
const refresh = watch([{ path: "/api/tasks", sections: ["tasks"], show: showTasks }, levelSource(hours, level, (answer) => answer.total)]);
startPauseDialog();
