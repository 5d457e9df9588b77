// Alerts: what is wrong with its effects below it, who looks after it, what people were told; acknowledging, snoozing, silencing;
// the channels, each with a test.
import { get, post } from "./api.js";
import { busy, byId, el, fill, pill, setPill, time } from "./dom.js";
import { words } from "./format.js";
import { tell } from "./schedule.js";
import { watch } from "./watch.js";

const TONES = { critical: "bad", warning: "warn", info: "" };
const STATE_TONES = { firing: "bad", pending: "warn", resolved: "ok" };
const KINDS = { fired: "began", escalated: "got worse", resolved: "is over", told: "was told", inhibited: "follows from another", uninhibited: "stands by itself", maintenance: "falls into a maintenance" };
const SENT_TONES = { sent: "ok", dead: "bad", queued: "warn" };
const body = (id) => byId(id).querySelector("[data-body]");
let alerts = [];
const open = new Map();
let events = [];
let older = null;

function button(text, what, work, more = {}) {
  const node = el("button.button.small", { type: "button", "data-key": `${text} ${what}`, "aria-label": `${text} ${what}`, ...more }, text);
  node.addEventListener("click", () => busy(node, work));
  return node;
}

function quietness(alert) {
  return [
    alert.acknowledged && `Acknowledged by ${alert.acknowledged.by}${alert.acknowledged.note ? `: ${alert.acknowledged.note}` : ""}`,
    alert.silenced_by.length && "Silenced",
    alert.maintenance && `Maintenance: ${alert.maintenance}`,
    alert.waits_for && `Not told yet: ${waiting(alert.waits_for)}`,
    alert.flapping && "Comes and goes",
  ].filter(Boolean);
}

// An alert that is not told: another may be its cause, or was it and has just ended. That other need not be among what is shown.
function waiting(id) {
  const other = alerts.find((a) => a.id === id);
  if (!other) return "it should end with its cause";
  return other.state === "resolved" ? `it should end as ${words(other.name)} did` : `it may follow from ${words(other.name)}`;
}

function row(alert, isEffect) {
  const own = Object.entries(alert.labels).filter(([name]) => name !== "alertname" && name !== "system").map(([name, value]) => `${name} ${value}`);
  const what = [alert.name, ...own].join(", ");
  const firing = alert.state === "firing";
  const snoozed = alert.snoozed_until && Date.parse(alert.snoozed_until) > Date.now();
  const later = firing && !isEffect && [
    alert.acknowledged ? button("Take back", what, () => act(alert, "unack")) : button("Acknowledge", what, () => ask(alert, "ack")),
    button("Snooze", what, () => ask(alert, "snooze")),
  ];
  return el("tr", {},
    el("th", { scope: "row" }, isEffect ? el("span.muted", {}, "follows: ") : null, words(alert.name), el("small.wrap-anywhere", {}, [...own, alert.what].filter(Boolean).join(" · "))),
    el("td", { "data-label": "State" }, el("div", {}, el("div.inline", {}, pill(words(alert.severity), TONES[alert.severity]), pill(words(alert.state), STATE_TONES[alert.state])),
      quietness(alert).map((text) => el("small.wrap-anywhere", {}, text)), snoozed ? el("small", {}, "Snoozed, again ", time(alert.snoozed_until)) : null)),
    el("td", { "data-label": "Value" }, el("div", {}, alert.value ?? "", el("small", {}, alert.threshold))),
    el("td.wrap-anywhere", { "data-label": "Why" }, alert.reason),
    el("td", { "data-label": "Since" }, el("div", {}, time(alert.since), alert.until ? el("small", {}, "over ", time(alert.until)) : null)),
    el("td.end", {}, el("div.actions", {}, later || [], firing ? button("Silence", what, () => startSilence(alert)) : null,
      button("Details", what, () => toggle(alert.id), { "aria-expanded": String(open.has(alert.id)) }))));
}

function detail(alert) {
  const known = open.get(alert.id);
  const pairs = [
    ["Owner", alert.owner], ["What to do", alert.runbook], ["Last fine", alert.last_good && [alert.last_good.value, " ", time(alert.last_good.at)]],
    ["Component", alert.component], ["Times it fired", String(alert.fire_count)], ["Episode", alert.episode],
  ].filter(([, value]) => value);
  const timeline = (known?.timeline ?? []).map((e) => el("li", {}, time(e.at), " ", eventText(e)));
  const sent = (known?.deliveries ?? []).map((d) => el("li", {}, pill(words(d.state), SENT_TONES[d.state]), " ", time(d.sent_at ?? d.created_at), ` ${d.channel}, ${d.kind}: ${d.title}`,
    d.attempts.filter((a) => a.error).map((a) => el("small.text-bad.wrap-anywhere", {}, `attempt ${a.attempt}: ${a.error}`))));
  return el("tr.detail", {}, el("td", { colspan: "6" },
    el("dl.pairs.left", {}, pairs.flatMap(([label, value]) => [el("dt", {}, label), el("dd", {}, value)])),
    el("h3", {}, "What happened"), el("ul.attempts", {}, timeline.length ? timeline : el("li.muted", {}, known ? "Nothing yet." : "Loading…")),
    el("h3", {}, "Messages"), el("ul.attempts", {}, sent.length ? sent : el("li.muted", {}, known ? "Nobody was told yet." : "Loading…"))));
}

function eventText(event) {
  const detail = event.detail ?? {};
  const more = event.kind === "told" ? `over ${detail.channel}` : detail.reason ?? detail.note ?? (detail.until ? `until ${detail.until}` : "");
  return [KINDS[event.kind] ?? words(event.kind).toLowerCase(), event.by ? `by ${event.by}` : "", more ? `(${more})` : ""].filter(Boolean).join(" ");
}

function ordered() {
  const shown = new Set(alerts.map((a) => a.id));
  const tops = alerts.filter((a) => !a.effect_of || !shown.has(a.effect_of));
  return tops.flatMap((top) => [[top, false], ...alerts.filter((a) => a.effect_of === top.id).map((a) => [a, true])]);
}

function draw() {
  const data = [alerts, [...open]];
  fill(body("alerts"), data, () => alerts.length
    ? ordered().flatMap(([alert, isEffect]) => [row(alert, isEffect), open.has(alert.id) ? detail(alert) : null])
    : [el("tr", {}, el("td.muted", { colspan: "6" }, byId("state").value ? "None." : "Nothing is wrong."))]);
}

function showAlerts(answer) {
  alerts = answer.alerts;
  const firing = alerts.filter((a) => a.state === "firing");
  const critical = firing.some((a) => a.severity === "critical");
  setPill(byId("alerts"), firing.length ? `${firing.length} firing` : "None fires", critical ? "bad" : firing.length ? "warn" : "ok");
  draw();
  for (const id of open.keys()) load(id);
}

async function load(id) {
  try {
    const answer = await get(`/api/alerts/${encodeURIComponent(id)}`);
    if (open.has(id)) open.set(id, { timeline: answer.timeline, deliveries: answer.deliveries });
    draw();
  } catch (error) {
    tell(error.message, true);
  }
}

function toggle(id) {
  if (open.delete(id)) return draw();
  open.set(id, null);
  draw();
  return load(id);
}

function showSilences(answer) {
  const now = answer.silences.filter((s) => s.state !== "expired");
  setPill(byId("silences"), now.length ? `${now.length} in force` : "None", now.length ? "warn" : "");
  fill(body("silences"), answer.silences, () => answer.silences.length ? answer.silences.map((s) => el("li", {},
    el("div.row", {}, el("b", {}, s.matches.join(" and ")), pill(words(s.state), s.state === "active" ? "warn" : ""),
      s.state === "expired" ? el("span") : button("End it", s.matches.join(" "), () => endSilence(s))),
    el("p", {}, `${s.reason} (${s.author}), until `, time(s.ended_at ?? s.ends_at)))) : el("li.muted", {}, "Nothing is silenced."));
}

function channelText(channel) {
  if (!channel.on) return [`It needs ${channel.missing.join(", ")}.`];
  const counts = [channel.queued && `${channel.queued} wait`, channel.dead && `${channel.dead} were given up`].filter(Boolean).join(", ");
  const last = channel.last_success_at ? [", last taken ", time(channel.last_success_at)] : [", nothing was sent yet"];
  return [`Told from ${channel.min_severity} up`, ...last, counts ? `; ${counts}.` : "."];
}

function showChannels(answer) {
  const on = answer.channels.filter((c) => c.on);
  const fails = (c) => c.dead > 0 || (c.last_error_at && !(Date.parse(c.last_success_at) > Date.parse(c.last_error_at)));
  setPill(byId("channels"), on.length ? `${on.length} on` : "All are off", on.some(fails) ? "bad" : on.length ? "ok" : "warn");
  const inOrder = [...on, ...answer.channels.filter((c) => !c.on)];
  fill(body("channels"), answer.channels, () => inOrder.map((c) => el("li", {},
    el("div.row", {}, el("b", {}, words(c.name)), pill(c.on ? (fails(c) ? "Fails" : "On") : "Off", c.on ? (fails(c) ? "bad" : "ok") : ""),
      c.on ? button("Send a test", `over ${c.name}`, () => tryOut(c)) : el("span")),
    el("p", {}, ...channelText(c)),
    c.on && c.last_error && fails(c) ? el("p.text-bad", {}, `Last error: ${c.last_error}`) : null)));
}

async function tryOut(channel) {
  try {
    const answer = await post(`/api/channels/${channel.name}/test`);
    tell(answer.ok ? `It was taken: look whether it arrived over ${channel.name}.` : `Not taken: ${answer.error}`, !answer.ok);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

function showHistory(answer) {
  if (events.length <= answer.events.length) {
    events = answer.events;
    older = answer.next;
  } else {
    const fresh = new Set(answer.events.map((e) => e.n));
    events = [...answer.events, ...events.filter((e) => !fresh.has(e.n))];
  }
  drawHistory();
}

function drawHistory() {
  const names = new Map(alerts.map((a) => [a.id, a.name]));
  fill(body("history"), [events, [...names]], () => events.length ? events.map((e) => el("li", {},
    el("div.row", {}, el("b", {}, words(e.detail?.name ?? names.get(e.alert) ?? e.alert)), time(e.at)), el("p", {}, eventText(e)))) : el("li.muted", {}, "Nothing happened."));
  byId("more-history").hidden = !older;
}

async function moreHistory() {
  try {
    const answer = await get(`/api/alerts/history?limit=50&after=${encodeURIComponent(older)}`);
    events = [...events, ...answer.events];
    older = answer.next;
    drawHistory();
  } catch (error) {
    tell(error.message, true);
  }
}

async function act(alert, verb, data) {
  try {
    await post(`/api/alerts/${encodeURIComponent(alert.id)}/${verb}`, data);
    tell({ ack: "It is acknowledged.", unack: "It is nobody's again.", snooze: "It is snoozed." }[verb]);
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

async function endSilence(silence) {
  try {
    await post(`/api/silences/${encodeURIComponent(silence.id)}/end`);
    tell("The silence is over.");
  } catch (error) {
    tell(error.message, true);
  }
  await refresh();
}

let asked = null;

function ask(alert, verb) {
  asked = { alert, verb };
  const snooze = verb === "snooze";
  byId("answer-title").textContent = `${snooze ? "Snooze" : "Acknowledge"} ${words(alert.name)}`;
  byId("answer-text").textContent = snooze ? "It is not told again for a while, unless it gets worse." : "You look after it: it is not told again until it is over or gets worse.";
  byId("answer-yes").textContent = snooze ? "Snooze" : "Acknowledge";
  byId("note-field").hidden = snooze;
  byId("length-field").hidden = !snooze;
  byId("answer-problem").hidden = true;
  byId("answer-form").reset();
  byId("answer-dialog").showModal();
}

function startSilence(alert) {
  byId("silence-form").reset();
  byId("silence-problem").hidden = true;
  byId("silence-matchers").value = alert ? Object.entries(alert.labels).map(([name, value]) => `${name}="${value}"`).join(" ") : "";
  byId("silence-dialog").showModal();
  byId(alert ? "silence-reason" : "silence-matchers").focus();
}

function problem(id, text) {
  byId(id).textContent = text;
  byId(id).hidden = false;
}

byId("answer-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(byId("answer-yes"), async () => {
    const data = asked.verb === "snooze" ? { minutes: Number(byId("answer-length").value) } : { note: byId("answer-note").value.trim() };
    byId("answer-dialog").close();
    await act(asked.alert, asked.verb, data);
  });
});
byId("silence-form").addEventListener("submit", (event) => {
  event.preventDefault();
  busy(byId("silence-yes"), async () => {
    const matchers = byId("silence-matchers").value.match(/[^\s"]+(?:"[^"]*")?/g) ?? [];
    try {
      await post("/api/silences", { matchers, reason: byId("silence-reason").value.trim(), duration_s: Number(byId("silence-length").value) });
    } catch (error) {
      return problem("silence-problem", error.message);
    }
    byId("silence-dialog").close();
    tell("It is silenced.");
    return refresh();
  });
});
byId("answer-no").addEventListener("click", () => byId("answer-dialog").close());
byId("silence-no").addEventListener("click", () => byId("silence-dialog").close());
byId("new-silence").addEventListener("click", () => startSilence(null));
byId("more-history").addEventListener("click", () => busy(byId("more-history"), moreHistory));
byId("state").addEventListener("change", () => refresh());

const refresh = watch([
  { path: () => `/api/alerts?limit=100&state=${byId("state").value}`, sections: ["alerts"], show: showAlerts },
  { path: "/api/silences?limit=100", sections: ["silences"], show: showSilences },
  { path: "/api/channels", sections: ["channels"], show: showChannels },
  { path: "/api/alerts/history?limit=20", sections: ["history"], show: showHistory },
]);
