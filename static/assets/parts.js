// The supervisor's tree: how every part is, what it does now, and releasing one that was put aside.
import { post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { milliseconds, words } from "./format.js";
import { tell } from "./schedule.js";
import { watch } from "./watch.js";

const TONES = { running: "ok", finished: "ok", starting: "warn", restarting: "warn", hung: "bad", quarantined: "bad", failed: "bad", stopped: "bad" };
const STATE_WORDS = { quarantined: "Put aside", hung: "Does not answer" };
const KIND_WORDS = { permanent: "always started again", transient: "started again after a failure", temporary: "never started again" };
const known = (value) => value !== null && value !== undefined;

async function release(name) {
  try {
    await post(`/api/supervisor/${encodeURIComponent(name)}/release`);
    tell(`${name} is started again.`);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

function part(child) {
  const rows = [
    ["Generation", String(child.generation)],
    ["Restarts", String(child.restarts)],
    ["Up since", time(child.started_at, "not started")],
    known(child.last_recovery_us) && child.restarts > 0 && ["Last recovery took", milliseconds(child.last_recovery_us / 1000)],
    known(child.mailbox_depth) && ["Messages waiting", String(child.mailbox_depth)],
    known(child.handled) && ["Messages handled", String(child.handled)],
    "in_handler_ms" in child && ["Handling a message for", known(child.in_handler_ms) ? milliseconds(child.in_handler_ms) : "none now"],
    known(child.handler_longest_ms) && ["Longest message", milliseconds(child.handler_longest_ms)],
  ].filter(Boolean);
  const aside = child.state === "quarantined";
  const button = aside && el("button.button.small", { type: "button", "data-key": `release ${child.name}`, "aria-label": `Release ${child.name}` }, "Release");
  if (button) button.addEventListener("click", () => busy(button, () => release(child.name)));
  return el("section.tile.part", { "aria-label": child.name, "data-part": child.name },
    el("div.tile-head", {}, el("h3", {}, child.name), pill(STATE_WORDS[child.state] ?? words(child.state), TONES[child.state] ?? "warn")),
    el("p.muted", {}, [child.critical ? "critical" : "not critical", child.restart && KIND_WORDS[child.restart]].filter(Boolean).join(", ")),
    el("dl.pairs", {}, rows.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)])),
    child.last_failure ? el("p.text-bad.wrap-anywhere", {}, "Last failure ", time(child.last_failure_at, "at an unknown time"), `: ${child.last_failure}`) : el("p.muted", {}, "No failure since the daemon began."),
    child.down ? el("p.text-bad.wrap-anywhere", {}, child.down) : null,
    aside ? el("div.tile-foot", {}, button, child.quarantined_until ? el("p.muted", {}, "or by itself ", time(child.quarantined_until)) : null) : null);
}

function showParts(answer) {
  const section = byId("parts");
  const children = answer.tree ?? [];
  const down = children.filter((child) => child.state !== "running" && child.state !== "finished");
  setPill(section, down.length ? `${down.length} of ${children.length} not running` : `All ${children.length} running`, down.length ? "bad" : "ok");
  // Uptime changes at every look; the start time says the same and `tick` keeps it true.
  const data = children.map(({ uptime_s: _, handler_total_ms: __, ...child }) => child);
  fill(section.querySelector("[data-body]"), data, () => children.map(part));
}

const refresh = watch([{ path: "/api/supervisor/status", sections: ["parts"], show: showParts }]);
