// Looks at the daemon every five seconds while somebody looks at the page, and says when what is shown is not up to date.
import { ApiError, get, readiness } from "./api.js";
import { byId, setPill, tick } from "./dom.js";
import { utc } from "./format.js";

const EVERY_MS = 5000;

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
    await show(await get(typeof path === "function" ? path() : path));
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

/**
 * Watches the sources (`{path, sections, show}`: an address or a function that says it, the sections it fills, how) and answers a
 * function that looks again at once.
 */
export function watch(sources) {
  let lastAnswer = null;
  let looking = null;
  let timer = 0;

  async function look() {
    const [health, ...problems] = await Promise.all([readiness(), ...sources.map(lookAt)]);
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

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
  setInterval(() => document.hidden || tick(), 1000);
  refresh();
  // Somebody who changed something wants to see what is after it, not a look that had begun before.
  return () => (looking ?? Promise.resolve()).then(refresh);
}
