// The whole story of a business with the provider's official Node client, unmodified, against a sandbox of its own.
//
// usage: node story.mjs BASE_URL        (needs npm `stripe` 23.1.0, installed beside this file by integration-tests/run)
//
// Customer, invoice, decline, payment, 250 rows by auto-pagination, refunds and their refusals, credit note, dispute, payout whose
// movements sum to zero, events, and webhooks verified by the client. Advances the sandbox's virtual clock. Prints
// `N passed, M failed` and exits 1 if anything failed.

import http from 'node:http';
import process from 'node:process';
import Stripe from 'stripe';

const base = new URL(process.argv[2]);
const stripe = new Stripe('sk_test_node', { host: base.hostname, port: base.port, protocol: 'http', maxNetworkRetries: 0, telemetry: false });
let passed = 0;
const failed = [];

function check(name, ok, detail = '') {
  if (ok) {
    passed += 1;
  } else {
    failed.push(name);
    console.error(`FAIL ${name} ${detail}`);
  }
}

function equal(name, actual, expected) {
  const [a, e] = [JSON.stringify(actual), JSON.stringify(expected)];
  check(name, a === e, `got ${a}, expected ${e}`);
}

async function refused(name, status, code, call) {
  try {
    await call();
    check(name, false, 'was not refused');
  } catch (error) {
    equal(name, [error.statusCode, error.code ?? null], [status, code]);
    return error;
  }
  return undefined;
}

async function control(path, body, method = body === undefined ? 'GET' : 'POST') {
  const answer = await fetch(new URL(`/_control/${path}`, base), { method, body: body === undefined ? undefined : JSON.stringify(body) });
  return answer.json();
}

async function all(list) {
  const rows = [];
  for await (const row of list) rows.push(row);
  return rows;
}

// --- the webhook endpoint ---------------------------------------------------------------------------------------------------

const received = { secrets: [], events: [], invalid: [], signatures: [] };
const receiver = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks);
    const header = request.headers['stripe-signature'];
    received.signatures.push((header.match(/v1=/g) ?? []).length);
    const verified = received.secrets.some((secret) => {
      try {
        received.events.push(stripe.webhooks.constructEvent(body, header, secret));
        return true;
      } catch {
        return false;
      }
    });
    if (!verified) received.invalid.push(header);
    response.writeHead(200).end();
  });
});
await new Promise((resolve) => receiver.listen(0, '127.0.0.1', resolve));

// --- the story ---------------------------------------------------------------------------------------------------------------

await control('reset', {});
const url = `http://127.0.0.1:${receiver.address().port}/hook`;
const endpoint = await stripe.webhookEndpoints.create({ url, enabled_events: ['*'] });
received.secrets.push(endpoint.secret);
const picky = await stripe.webhookEndpoints.create({ url, enabled_events: ['payout.paid'] });
received.secrets.push(picky.secret);
check('a secret is shown once', endpoint.secret.startsWith('whsec_') && (await stripe.webhookEndpoints.retrieve(endpoint.id)).secret === undefined);

const customer = await stripe.customers.create({ email: 'node@example.com', metadata: { a: '1' }, address: { city: 'Köln' } });
equal('nested parameters arrive', [customer.metadata, customer.address.city], [{ a: '1' }, 'Köln']);
const method = await stripe.paymentMethods.attach('pm_card_visa', { customer: customer.id });
await stripe.customers.update(customer.id, { invoice_settings: { default_payment_method: method.id } });
const declined = await refused('a declining card cannot be attached', 402, 'card_declined', () =>
  stripe.paymentMethods.attach('pm_card_chargeDeclined', { customer: customer.id }));
check('it is a card error', declined instanceof Stripe.errors.StripeCardError && declined.requestId.startsWith('req_'), declined);
const treacherous = await stripe.paymentMethods.attach('pm_card_chargeCustomerFail', { customer: customer.id });
await refused('one card can be attached and is declined later', 402, 'card_declined', () =>
  stripe.paymentIntents.create({ amount: 900, currency: 'usd', customer: customer.id, payment_method: treacherous.id, confirm: true }));

const draft = await stripe.invoices.create({ customer: customer.id, collection_method: 'send_invoice', days_until_due: 30, currency: 'usd' });
const item = await stripe.invoiceItems.create({ customer: customer.id, invoice: draft.id, amount: 9000, currency: 'usd', description: 'Work' });
await stripe.invoiceItems.update(item.id, { amount: 9900 });
const open = await stripe.invoices.finalizeInvoice(draft.id);
equal('finalized', [open.status, open.amount_due], ['open', 9900]);
const paid = await stripe.invoices.pay(draft.id);
equal('paid', [paid.status, paid.amount_remaining], ['paid', 0]);
const whole = await stripe.invoices.retrieve(draft.id, { expand: ['payments.data.payment.payment_intent'] });
const intent = whole.payments.data[0].payment.payment_intent;
equal('expanded to the intent', intent.status, 'succeeded');
const charge = await stripe.charges.retrieve(intent.latest_charge, { expand: ['balance_transaction'] });
equal('fee and net', [charge.balance_transaction.fee, charge.balance_transaction.net], [317, 9583]);

const made = [];
for (let batch = 0; batch < 10; batch += 1) {
  const rows = await Promise.all(Array.from({ length: 25 }, () => stripe.customers.create({ email: 'many@example.com' })));
  made.push(...rows.map((row) => row.id));
}
const found = (await all(stripe.customers.list({ email: 'many@example.com', limit: 100 }))).map((row) => row.id);
equal('250 rows by auto-pagination, each once', [found.length, new Set(found).size, found.every((id) => made.includes(id))], [250, 250, true]);

const part = await stripe.refunds.create({ charge: charge.id, amount: 3300 }, { idempotencyKey: 'part' });
const again = await stripe.refunds.create({ charge: charge.id, amount: 3300 }, { idempotencyKey: 'part' });
equal('the same key is the same refund', [again.id, again.lastResponse.headers['idempotent-replayed']], [part.id, 'true']);
const other = await refused('other parameters under the key', 400, null, () =>
  stripe.refunds.create({ charge: charge.id, amount: 3301 }, { idempotencyKey: 'part' }));
check('is an idempotency error', other instanceof Stripe.errors.StripeIdempotencyError);
const over = await refused('more than is left', 400, null, () => stripe.refunds.create({ charge: charge.id, amount: 6601 }));
equal('says how much', over.message, 'Refund amount ($66.01) is greater than unrefunded amount on charge ($66.00)');
await stripe.refunds.create({ payment_intent: intent.id });
await refused('again', 400, 'charge_already_refunded', () => stripe.refunds.create({ charge: charge.id }));
equal('refunds of the charge', (await all(stripe.refunds.list({ charge: charge.id }))).map((r) => r.amount), [6600, 3300]);

const second = await stripe.invoices.create({ customer: customer.id, currency: 'usd' });
await stripe.invoiceItems.create({ customer: customer.id, invoice: second.id, amount: 5000, currency: 'usd' });
await stripe.invoices.finalizeInvoice(second.id);
const note = await stripe.creditNotes.create({ invoice: second.id, amount: 2000, reason: 'order_change' });
equal('a credit note lowers what is due', [note.type, (await stripe.invoices.retrieve(second.id)).amount_remaining], ['pre_payment', 3000]);
await stripe.invoices.pay(second.id);
const back = await stripe.creditNotes.create({ invoice: second.id, amount: 1000, refund_amount: 1000 });
equal('or gives money back', [back.type, back.refunds[0].amount_refunded], ['post_payment', 1000]);

const disputed = await stripe.paymentIntents.create({ amount: 8000, currency: 'usd', payment_method: 'pm_card_visa', confirm: true });
await control('dispute', { charge: disputed.latest_charge, outcome: 'open' });
const [dispute] = (await stripe.disputes.list({ charge: disputed.latest_charge })).data;
equal('a dispute takes the money', [dispute.status, dispute.balance_transactions.length], ['needs_response', 1]);
const answered = await stripe.disputes.update(dispute.id, { evidence: { uncategorized_text: 'winning_evidence' } });
equal('and evidence wins it back', [answered.status, answered.balance_transactions.length], ['won', 2]);

await control('clock', { advance_seconds: 5 * 86400 });
const payouts = await all(stripe.payouts.list({ status: 'paid', limit: 100 }));
check('there are payouts', payouts.length > 0);
let sourced = 0;
for (const payout of payouts) {
  const movements = await all(stripe.balanceTransactions.list({ payout: payout.id, limit: 100, expand: ['data.source'] }));
  equal('the movements of a payout sum to zero', movements.reduce((sum, m) => sum + m.net, 0), 0);
  sourced += movements.filter((m) => typeof m.source === 'object' && m.source !== null).length;
}
check('sources are expanded', sourced > 3, sourced);

const rolled = await control(`endpoints/${endpoint.id}/roll`, {});
received.secrets.push(rolled.secret);
const before = received.events.length;
await stripe.customers.create({ email: 'rolled@example.com' });
await control('clock', { advance_seconds: 0 });
equal('while a secret is rolled both sign', received.signatures.slice(before), [2]);
await control('clock', { advance_seconds: 90000 });
const after = received.signatures.length;
await stripe.customers.create({ email: 'later@example.com' });
await control('clock', { advance_seconds: 0 });
equal('and a day later only the new one', received.signatures.slice(after), [1]);
equal('every signature was verified', received.invalid, []);
const kinds = new Set(received.events.map((event) => event.type));
for (const kind of ['invoice.paid', 'charge.succeeded', 'charge.refunded', 'refund.created', 'charge.dispute.closed', 'payout.paid', 'credit_note.created']) {
  check(`${kind} arrived`, kinds.has(kind));
}
const counts = {};
for (const event of received.events) counts[event.id] = (counts[event.id] ?? 0) + 1;
const listed = await all(stripe.events.list({ limit: 100 }));
check('every event that is listed arrived', listed.every((event) => counts[event.id] >= 1), listed.filter((e) => !counts[e.id]).map((e) => e.type));
const twice = received.events.filter((event) => counts[event.id] === 2).map((event) => event.type);
check('the picky endpoint got its type only', twice.length > 0 && twice.every((kind) => kind === 'payout.paid'), twice);

receiver.close();
receiver.closeAllConnections();
console.log(`${passed} passed, ${failed.length} failed`);
process.exit(failed.length ? 1 : 0);
