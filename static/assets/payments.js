// The payments card: create a test invoice, look at webhooks, refund the last payment, and say what happened.
import { get, idempotencyKey, post } from "./api.js";
import { busy, byId, el, moment, pill, safeUrl, time } from "./dom.js";
import { digits, money, parseMoney } from "./format.js";

const KEEP = 30;
const output = byId("output");
const TONES = { processed: "ok", failed: "bad", received: "warn", ignored: "" };

/** Adds an entry to the live output: a headline, more below it, and the whole answer on request. */
function say(headline, more, json, isError = false) {
  byId("output-empty").hidden = true;
  byId("clear-output").hidden = false;
  const head = el("div.entry-head", {}, el("b", {}, headline), moment(Date.now() / 1000));
  const raw = json ? el("details", {}, el("summary", {}, "JSON"), el("pre", { tabindex: 0 }, JSON.stringify(json, null, 2))) : null;
  const entry = el("div.entry" + (isError ? ".error" : ""), {}, head, more, raw);
  output.append(entry);
  const entries = output.querySelectorAll(".entry");
  for (const old of [...entries].slice(0, Math.max(0, entries.length - KEEP))) old.remove();
  output.scrollTop = entry.offsetTop - 4;
}

function sayError(doing, error) {
  say(doing, el("p", {}, error.message), error.body, true);
}

/** The body of the invoice, or null after marking the field that is wrong. */
function readForm() {
  const [amount, currency, email] = ["amount", "currency", "email"].map(byId);
  const minor = parseMoney(amount.value, currency.value);
  const emailRight = email.value.trim() !== "" && email.checkValidity();
  amount.setAttribute("aria-invalid", String(minor === null));
  email.setAttribute("aria-invalid", String(!emailRight));
  if (minor === null) {
    const places = digits(currency.value);
    const rule = places ? `with at most ${places} decimals` : "without decimals";
    say("The amount cannot be used", el("p", {}, `“${amount.value}” is not an amount in ${currency.value.toUpperCase()}: write digits, ${rule}.`), null, true);
    amount.focus();
    return null;
  }
  if (!emailRight) {
    say("The e-mail address cannot be used", el("p", {}, "Write an address like customer@example.com."), null, true);
    email.focus();
    return null;
  }
  return { amount_minor: minor, currency: currency.value, email: email.value.trim(), description: "Test invoice from the dashboard" };
}

async function createInvoice() {
  const body = readForm();
  if (!body) return;
  try {
    const answer = await post("/api/payments/create-invoice", body, { "Idempotency-Key": idempotencyKey() });
    const url = safeUrl(answer.hosted_invoice_url);
    const link = url && el("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, "Open the payment page");
    const more = el("p", {}, `Number ${answer.number ?? "not given yet"} for ${body.email}. `, link);
    say(`Invoice ${answer.invoice_id} (${answer.status}) for ${money(answer.amount_minor, answer.currency)}`, more, answer);
  } catch (error) {
    sayError("The invoice was not created", error);
  }
}

/** Lets a stored event be processed again; what was processed already changes nothing. */
async function replay(hook) {
  try {
    const answer = await post(`/api/payments/webhooks/${encodeURIComponent(hook.event_id)}/replay`, {});
    const more = answer.replayed ? "It is being processed again; nothing is booked twice." : "It waits to be processed already.";
    say(`Replay of ${hook.event_type}`, el("p", {}, more), answer);
  } catch (error) {
    sayError("The event could not be replayed", error);
  }
}

function replayButton(hook) {
  const button = el("button.button.quiet", { type: "button", "aria-label": `Replay ${hook.event_type} ${hook.event_id}` }, "Replay");
  button.addEventListener("click", () => busy(button, () => replay(hook)));
  return button;
}

function webhookTable(webhooks) {
  const row = (hook) =>
    el("tr", {},
      el("td", {}, hook.event_type, hook.error ? el("small", {}, hook.error) : null),
      el("td", {}, pill(hook.status, TONES[hook.status])),
      el("td.mono", {}, hook.object_id ?? hook.event_id),
      el("td.nowrap", {}, moment(hook.received_at)),
      el("td.num", {}, String(hook.duplicates ?? 0)),
      el("td", {}, replayButton(hook)));
  const head = ["Event", "Status", "Object", "Received", "Repeated", "Again"].map((title) => el("th", { scope: "col" }, title));
  return el("div.scroll", {}, el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, webhooks.map(row))));
}

async function viewWebhooks() {
  try {
    const answer = await get("/api/payments/webhooks?limit=10");
    const more = answer.webhooks.length ? webhookTable(answer.webhooks) : el("p", {}, "No webhook has arrived yet. Pay an invoice, and its events appear here.");
    say(answer.webhooks.length ? `The newest ${answer.webhooks.length} webhooks` : "No webhooks", more, answer);
  } catch (error) {
    sayError("The webhooks cannot be shown", error);
  }
}

/** The newest payment: its id, and its amount where the overview knows it. */
async function lastPayment() {
  const [hooks, overview] = await Promise.all([get("/api/payments/webhooks?type=charge.succeeded&limit=1"), get("/api/overview")]);
  const hook = hooks.webhooks[0];
  if (!hook?.object_id) return null;
  const known = overview.last_payment;
  return { id: hook.object_id, at: hook.created, ...(known?.payment_id === hook.object_id ? known : {}) };
}

let asked = null;

function closeQuestion() {
  asked = null;
  byId("refund-confirm").hidden = true;
}

async function askRefund() {
  closeQuestion();
  try {
    const payment = await lastPayment();
    if (!payment) {
      say("Nothing to refund", el("p", {}, "No payment has been received yet. Create an invoice and pay it first."));
      return;
    }
    const amount = Number.isSafeInteger(payment.amount_minor) ? money(payment.amount_minor, payment.currency) : "the last payment";
    // The key belongs to the question: a second click on the same question is the same refund.
    asked = { payment, key: idempotencyKey() };
    byId("refund-question").replaceChildren("Refund ", el("b", {}, amount), " of payment ", el("span.mono.wrap-anywhere", {}, payment.id), ", made ", time(payment.at), "?");
    byId("refund-yes").textContent = `Refund ${amount}`;
    byId("refund-confirm").hidden = false;
    byId("refund-yes").focus();
  } catch (error) {
    sayError("The last payment cannot be looked up", error);
  }
}

async function refund() {
  if (!asked) return;
  const { payment, key } = asked;
  try {
    const answer = await post("/api/payments/refund-last", { expected_payment_id: payment.id }, { "Idempotency-Key": key });
    const replayed = answer.replayed ? " This had been done before; nothing was refunded twice." : "";
    closeQuestion();
    say(`Refund ${answer.refund_id} (${answer.status}) of ${money(answer.amount_minor, answer.currency)}`, el("p", {}, `Payment ${answer.payment_id}.${replayed}`), answer);
  } catch (error) {
    // Without an answer it may have happened: the question stays, with its key, and can be asked again safely.
    const unknown = error.status === 0 || error.status >= 500;
    if (!unknown) closeQuestion();
    sayError(unknown ? "It is not known whether the refund was made; asking again is safe" : "The refund was refused", error);
  }
  if (!asked) byId("process-refund").focus();
}

export function startPayments(refresh) {
  const [create, view, process, yes] = ["create-invoice", "view-webhooks", "process-refund", "refund-yes"].map(byId);
  byId("invoice-form").addEventListener("submit", (event) => {
    event.preventDefault();
    busy(create, createInvoice).then(refresh);
  });
  view.addEventListener("click", () => busy(view, viewWebhooks));
  process.addEventListener("click", () => busy(process, askRefund));
  yes.addEventListener("click", () => busy(yes, refund).then(refresh));
  byId("refund-no").addEventListener("click", () => {
    closeQuestion();
    process.focus();
  });
  byId("clear-output").addEventListener("click", () => {
    for (const entry of output.querySelectorAll(".entry")) entry.remove();
    byId("output-empty").hidden = false;
    byId("clear-output").hidden = true;
    view.focus();
  });
}

