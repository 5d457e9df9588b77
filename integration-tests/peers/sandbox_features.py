"""The corners of a sandbox, driven by the provider's official Python client: what sdk_conformance.py does not reach.

usage: sandbox_features.py BASE_URL        (needs PyPI `stripe` 16.1.0; imports sdk_conformance.py beside it)

Credit notes, refunds that wait, fail or lack money, payouts by hand and out of a balance below zero, currencies without cents or
with thousandths, disputes that are answered, every try of a webhook, pages that fail. Every object that comes back is checked
against the client's own type annotations. Advances the virtual clock and resets; give it a sandbox of its own. Prints
`N passed, M failed` and exits 1 if anything failed.
"""

import http.server
import sys
import threading
import time

import sdk_conformance as base
import stripe
from sdk_conformance import check, control, equal, refused

DAY = 86400
base.CLASSES.update({cls.OBJECT_NAME: cls for cls in (stripe.CreditNote, stripe.CreditNoteLineItem)})


def days(number):
    return control("clock", {"advance_seconds": number * DAY})[1]["now"]


def charged(amount, currency="usd", card="pm_card_visa", **more):
    return stripe.PaymentIntent.create(amount=amount, currency=currency, payment_method=card, confirm=True, **more)


def fresh():
    """An empty sandbox at one o'clock, so that the next midnight is far whenever the test runs."""
    control("reset", {})
    now = control("clock")[1]["now"]
    control("clock", {"advance_seconds": (3600 - now) % DAY})


def balance(currency):
    now = stripe.Balance.retrieve()
    return tuple(sum(b.amount for b in part if b.currency == currency) for part in (now.available, now.pending))


def members(payout):
    return list(stripe.BalanceTransaction.list(payout=payout.id, limit=100).auto_paging_iter())


def sums_to_zero(what, payout):
    rows = members(payout)
    equal(f"{what}: its movements sum to zero", sum(m.net for m in rows), 0)
    return rows


# --- credit notes -------------------------------------------------------------------------------------------------------------


def invoice_of(customer, *amounts):
    invoice = stripe.Invoice.create(customer=customer.id, currency="usd")
    for amount in amounts:
        stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=amount, currency="usd")
    return stripe.Invoice.finalize_invoice(invoice.id)


def credit_notes():
    fresh()
    customer = stripe.Customer.create(email="credit@example.com")
    invoice = invoice_of(customer, 6000, 4000)
    note = stripe.CreditNote.create(invoice=invoice.id, amount=1500, reason="order_change", memo="sorry")
    equal("before payment", (note.type, note.pre_payment_amount, note.status, note.number), ("pre_payment", 1500, "issued", f"{invoice.number}-CN-01"))
    after = stripe.Invoice.retrieve(invoice.id)
    equal("less is due", (after.amount_due, after.amount_remaining, after.pre_payment_credit_notes_amount, after.total), (8500, 8500, 1500, 10000))
    equal("and is asked for", stripe.InvoicePayment.list(invoice=invoice.id).data[0].amount_requested, 8500)
    line = invoice.lines.data[0]
    other = stripe.CreditNote.create(invoice=invoice.id, lines=[{"type": "invoice_line_item", "invoice_line_item": line.id, "quantity": 1}])
    equal("a line can be credited", (other.amount, other.lines.data[0].type), (line.amount, "invoice_line_item"))
    equal("lines are a list of their own", [i.amount for i in stripe.CreditNote.list_lines(other.id)], [line.amount])
    voided = stripe.CreditNote.void_credit_note(other.id)
    equal("voided", (voided.status, stripe.Invoice.retrieve(invoice.id).amount_remaining), ("void", 8500))
    refused("voided twice", 400, None, lambda: stripe.CreditNote.void_credit_note(other.id))
    refused("more than the invoice", 400, None, lambda: stripe.CreditNote.create(invoice=invoice.id, amount=8501))
    equal("changed", stripe.CreditNote.modify(note.id, memo="really", metadata={"a": "b"}).memo, "really")
    paid = stripe.Invoice.pay(invoice.id, payment_method="pm_card_visa")
    equal("what is left is paid", (paid.status, paid.amount_paid), ("paid", 8500))
    refused("after payment the parts must add up", 400, None, lambda: stripe.CreditNote.create(invoice=invoice.id, amount=1000), "must equal")
    back = stripe.CreditNote.create(invoice=invoice.id, amount=3000, refund_amount=1000, credit_amount=1500, out_of_band_amount=500)
    equal("after payment", (back.type, back.post_payment_amount, back.out_of_band_amount), ("post_payment", 3000, 500))
    refund = stripe.Refund.retrieve(back.refunds[0].refund)
    equal("money was given back", (refund.amount, refund.status), (1000, "succeeded"))
    equal("the invoice knows", stripe.Invoice.retrieve(invoice.id).post_payment_credit_notes_amount, 3000)
    equal("the customer has credit", stripe.Customer.retrieve(customer.id).balance, -1500)
    next_one = invoice_of(customer, 2000)
    equal("which pays of the next invoice", (next_one.amount_due, next_one.starting_balance, next_one.ending_balance), (500, -1500, 0))
    stripe.CreditNote.create(invoice=next_one.id, amount=500)
    equal("a credit note over everything pays it", stripe.Invoice.retrieve(next_one.id).status, "paid")
    equal("listed by invoice", [n.id for n in stripe.CreditNote.list(invoice=invoice.id)], [back.id, other.id, note.id])
    refused("not for a draft", 400, None, lambda: stripe.CreditNote.create(invoice=stripe.Invoice.create(customer=customer.id, currency="usd").id, amount=1))


# --- refunds --------------------------------------------------------------------------------------------------------------------


def refunds():
    fresh()
    waits = charged(5000, card="pm_card_pendingRefund")
    refund = stripe.Refund.create(payment_intent=waits.id)
    equal("a refund waits", (refund.status, refund.pending_reason, refund.balance_transaction), ("pending", "processing", None))
    refused("a card's refund cannot be canceled", 400, None, lambda: stripe.Refund.cancel(refund.id))
    days(1)
    done = stripe.Refund.retrieve(refund.id)
    check("and succeeds a day later", done.status == "succeeded" and done.balance_transaction, done)
    fails = charged(5000, card="pm_card_refundFail")
    lost = stripe.Refund.create(payment_intent=fails.id, amount=2000)
    equal("a refund succeeds at first", lost.status, "succeeded")
    days(1)
    lost = stripe.Refund.retrieve(lost.id, expand=["failure_balance_transaction"])
    equal("and comes back", (lost.status, lost.failure_reason, lost.failure_balance_transaction.net), ("failed", "expired_or_canceled_card", 2000))
    equal("the charge knows", stripe.Charge.retrieve(fails.latest_charge).amount_refunded, 0)
    check("by events", {"refund.failed", "charge.updated"} <= {e.type for e in stripe.Event.list(limit=100)})
    days(5)
    first = charged(3000)
    days(5)
    equal("everything was paid out", balance("usd"), (0, 0))
    debit = stripe.Refund.create(payment_intent=first.id, amount=500)
    equal("no money: the bank account is asked", (debit.status, balance("usd")), ("succeeded", (-500, 0)))
    days(1)
    equal("the next midnight", (stripe.Payout.list(limit=1).data[0].amount, balance("usd")), (-500, (0, 0)))
    control("chaos", {"refund_pending": 1}, "PUT")
    short = stripe.Refund.create(payment_intent=first.id, amount=2500)
    equal("no money there either", (short.status, short.pending_reason), ("pending", "insufficient_funds"))
    charged(9000)
    days(2)
    paid = stripe.Refund.retrieve(short.id)
    check("waits for the next settlement", paid.status == "succeeded" and paid.pending_reason is None, paid)
    days(3)
    for payout in stripe.Payout.list(limit=100):
        sums_to_zero("a payout with late refunds", payout)


def captures():
    fresh()
    held = charged(10000, capture_method="manual")
    equal("nothing moves before the capture", stripe.BalanceTransaction.list(source=held.latest_charge).data, [])
    stripe.PaymentIntent.capture(held.id, amount_to_capture=4000)
    movements = stripe.BalanceTransaction.list(source=held.latest_charge).data
    equal(
        "a partial capture is two movements", [(m.type, m.amount, m.fee, m.net) for m in movements],
        [("partial_capture_reversal", -6000, -174, -5826), ("charge", 10000, 320, 9680)],
    )
    held = stripe.Charge.create(amount=2000, currency="usd", source="tok_visa", capture=False)
    equal("the older way waits too", (held.captured, held.balance_transaction), (False, None))
    taken = stripe.Charge.capture(held.id, amount=1500)
    equal("and is captured", (taken.captured, taken.amount_captured), (True, 1500))
    refused("once", 400, "charge_already_captured", lambda: stripe.Charge.capture(held.id))
    equal("a charge is described", stripe.Charge.modify(held.id, description="d", metadata={"a": "b"}).metadata.to_dict(), {"a": "b"})
    open_one = stripe.PaymentIntent.create(amount=500, currency="usd")
    equal("an intent is changed before it is confirmed", stripe.PaymentIntent.modify(open_one.id, amount=600).amount, 600)
    refused("not after", 400, "payment_intent_unexpected_state", lambda: stripe.PaymentIntent.modify(charged(500).id, amount=600))


def declines():
    fresh()
    table = {
        "pm_card_chargeDeclined": ("card_declined", "generic_decline"),
        "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card"),
        "pm_card_chargeDeclinedExpiredCard": ("expired_card", "expired_card"),
        "pm_card_chargeDeclinedIncorrectCvc": ("incorrect_cvc", "incorrect_cvc"),
        "tok_chargeDeclinedProcessingError": ("processing_error", "processing_error"),
    }
    for card, (code, decline_code) in table.items():
        error = refused(card, 402, code, lambda card=card: charged(1000, card=card))
        equal(f"{card} says why", error.error.decline_code, decline_code)
        failed = stripe.Charge.retrieve(error.error.charge)
        equal(f"{card} leaves a failed charge", (failed.status, failed.failure_code, failed.outcome.reason), ("failed", code, decline_code))


# --- payouts ----------------------------------------------------------------------------------------------------------------------


def payouts():
    fresh()
    refused("no money, no payout", 400, "balance_insufficient", lambda: stripe.Payout.create(amount=1, currency="usd"))
    stripe.Charge.create(amount=100000, currency="usd", source="tok_visa")
    days(2)
    [automatic] = stripe.Payout.list().data
    equal("on its way", (automatic.status, automatic.reconciliation_status), ("pending", "in_progress"))
    refused("its movements are not known yet", 400, "payout_reconciliation_not_ready", lambda: stripe.BalanceTransaction.list(payout=automatic.id))
    refused("an automatic one is not canceled", 400, None, lambda: stripe.Payout.cancel(automatic.id))
    control("chaos", {"payout_fail": 1}, "PUT")
    days(1)
    failed = stripe.Payout.retrieve(automatic.id)
    equal("it failed", (failed.status, failed.failure_code, failed.reconciliation_status), ("failed", "account_closed", "completed"))
    days(2)
    [again] = [p for p in stripe.Payout.list() if p.id != automatic.id]
    rows = sums_to_zero("the next payout", again)
    check("the money that came back is a member of it", failed.failure_balance_transaction in [m.id for m in rows], [m.type for m in rows])


def manual_payouts():
    fresh()
    wait = charged(1000, card="pm_card_refundFail")
    days(3)
    charged(50000)
    stripe.Refund.create(payment_intent=wait.id)
    days(1)
    # The refund came back and is available until the next settlement.
    available = balance("usd")[0]
    equal("something is available", available, 1000)
    manual = stripe.Payout.create(amount=300, currency="usd", description="by hand", metadata={"a": "b"})
    equal("by hand", (manual.automatic, manual.status, manual.reconciliation_status), (False, "pending", "not_applicable"))
    equal("taken from the balance", balance("usd")[0], available - 300)
    refused("cannot be itemised", 400, None, lambda: stripe.BalanceTransaction.list(payout=manual.id), "only be filtered on automatic")
    canceled = stripe.Payout.cancel(manual.id)
    check("canceled", canceled.status == "canceled" and canceled.failure_balance_transaction, canceled)
    equal("and back", balance("usd")[0], available)
    refused("not twice", 400, None, lambda: stripe.Payout.cancel(manual.id))
    refused("more than there is", 400, "balance_insufficient", lambda: stripe.Payout.create(amount=available + 1, currency="usd"))
    instant = stripe.Payout.create(amount=200, currency="usd", method="instant")
    equal("instant", (instant.method, instant.arrival_date - instant.created), ("instant", 1800))
    control("clock", {"advance_seconds": 2000})
    equal("arrived within the hour", stripe.Payout.retrieve(instant.id).status, "paid")
    charged(20000)
    days(4)
    later = [p for p in stripe.Payout.list() if p.automatic and p.created > instant.created]
    sources = [m.source for payout in later for m in sums_to_zero("an automatic payout after it", payout)]
    equal("what was paid out by hand is taken off one of the next", sources.count(instant.id), 1)


def below_zero():
    fresh()
    intent = charged(10000)
    days(4)
    control("dispute", {"charge": intent.latest_charge, "outcome": "open"})
    days(2)
    debit = stripe.Payout.list(limit=1).data[0]
    equal("a dispute after the payout is taken from the bank", (debit.amount, debit.status), (-11500, "paid"))
    sums_to_zero("the debit", debit)


# --- currencies -------------------------------------------------------------------------------------------------------------------


def currencies():
    fresh()
    refused("thousandths end in 0", 400, "invalid_charge_amount_no_decimal_compatible", lambda: charged(1235, "kwd"))
    for code in ("isk", "ugx"):
        refused(f"{code} has whole units only", 400, "invalid_charge_amount_no_decimal_compatible", lambda code=code: charged(50050, code))
    made = {"kwd": charged(12340, "kwd"), "jpy": charged(5000, "jpy"), "isk": charged(50000, "isk"), "huf": charged(100001, "huf"), "eur": charged(5000, "eur")}
    fees = {"kwd": 658, "jpy": 175, "isk": 1480, "huf": 2930, "eur": 170}
    for code, intent in made.items():
        movement = stripe.Charge.retrieve(intent.latest_charge, expand=["balance_transaction"]).balance_transaction
        equal(f"{code} settles as {code} with its own fee", (movement.currency, movement.fee), (code, fees[code]))
    refused("a refund in thousandths too", 400, "invalid_charge_amount_no_decimal_compatible", lambda: stripe.Refund.create(payment_intent=made["kwd"].id, amount=1001))
    over = refused("yen have no point", 400, None, lambda: stripe.Refund.create(payment_intent=made["jpy"].id, amount=5001))
    check("in the sentence", "(¥5001) is greater than unrefunded amount on charge (¥5000)" in str(over), over)
    days(3)
    payouts = {p.currency: p for p in stripe.Payout.list()}
    equal("a payout per currency", sorted(payouts), sorted(made))
    for code, payout in payouts.items():
        sums_to_zero(code, payout)
    equal("forint are paid out in whole units", (payouts["huf"].amount, balance("huf")[0]), (97000, 71))
    equal("never added up", {code: payouts[code].amount for code in ("kwd", "jpy", "eur")}, {"kwd": 11682, "jpy": 4825, "eur": 4830})


# --- disputes ---------------------------------------------------------------------------------------------------------------------


def disputes():
    fresh()
    opened = []
    for _ in range(3):
        intent = charged(4000)
        opened.append(control("dispute", {"charge": intent.latest_charge, "outcome": "open"})[1]["id"])
    draft = stripe.Dispute.modify(opened[0], evidence={"product_description": "A thing"}, submit=False)
    equal("evidence is collected", (draft.status, draft.evidence_details.has_evidence, draft.evidence_details.submission_count), ("needs_response", True, 0))
    sent = stripe.Dispute.modify(opened[0], evidence={"customer_name": "N"}, metadata={"a": "b"})
    equal("and handed in", (sent.status, sent.evidence_details.submission_count, sent.evidence.product_description), ("under_review", 1, "A thing"))
    won = control("dispute", {"charge": sent.charge, "outcome": "won"})[1]
    equal("the bank decides", (won["status"], len(won["balance_transactions"])), ("won", 2))
    lost = stripe.Dispute.modify(opened[1], evidence={"uncategorized_text": "losing_evidence"})
    equal("or a test says so", (lost.status, len(lost.balance_transactions)), ("lost", 1))
    equal("given up", stripe.Dispute.close(opened[2]).status, "lost")
    refused("once", 400, "dispute_already_closed", lambda: stripe.Dispute.close(opened[2]))
    refused("unknown evidence", 400, "parameter_unknown", lambda: stripe.Dispute.modify(opened[0], evidence={"nonsense": "x"}))


# --- idempotency over time ----------------------------------------------------------------------------------------------------------


def idempotency():
    fresh()
    def make(email):
        return stripe.Customer.create(email=email, idempotency_key="over-time")

    first = make("a@example.com")
    control("clock", {"advance_seconds": 23 * 3600})
    equal("a key lives 23 hours of virtual time", make("a@example.com").id, first.id)
    refused("with its parameters", 400, None, lambda: make("b@example.com"), "same parameters")
    refused("at its address", 400, None, lambda: stripe.Product.create(name="P", idempotency_key="over-time"), "same endpoint")
    control("clock", {"advance_seconds": 2 * 3600})
    other = make("b@example.com")
    check("but not 25", other.id != first.id and other.email == "b@example.com", other)
    refused("a reading has no key to be refused for", 404, "resource_missing", lambda: stripe.Customer.retrieve("cus_none", idempotency_key="over-time"))


# --- webhooks and pages -----------------------------------------------------------------------------------------------------------


class Moody(http.server.BaseHTTPRequestHandler):
    """Answers with the statuses it was given, then 200."""

    answers, bodies = [], []

    def do_POST(self):
        Moody.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(Moody.answers.pop(0) if Moody.answers else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


def deliveries():
    fresh()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    endpoint = stripe.WebhookEndpoint.create(url=url, enabled_events=["customer.created", "customer.updated"])
    Moody.answers = [503, 301, 200]
    customer = stripe.Customer.create(email="moody@example.com")
    control("clock", {"advance_seconds": 0})
    event = stripe.Event.list(type="customer.created", limit=1).data[0]

    def history():
        found = control(f"events/{event.id}")[1]
        return [d for d in found["deliveries"] if d["endpoint"] == endpoint.id][0], found

    delivery, whole = history()
    equal("a refused delivery waits", (delivery["state"], [a["code"] for a in delivery["attempts"]]), ("pending", [503]))
    pending = stripe.Event.retrieve(event.id).pending_webhooks
    check("and is counted in the event", pending >= 1, pending)
    equal("the next try is in 10 s", delivery["next_at"] - delivery["attempts"][0]["at"], 10)
    control("clock", {"advance_seconds": 10})
    control("clock", {"advance_seconds": 300})
    delivery, whole = history()
    equal("a redirect is a failure; then it is delivered", (delivery["state"], [a["code"] for a in delivery["attempts"]]), ("delivered", [503, 301, 200]))
    gaps = [b["at"] - a["at"] for a, b in zip(delivery["attempts"], delivery["attempts"][1:])]
    check("with growing pauses of virtual time", gaps[0] >= 10 and gaps[1] >= 300, gaps)
    equal("the event knows", stripe.Event.retrieve(event.id).pending_webhooks, pending - 1)
    Moody.answers = [500] * 4
    stripe.Customer.modify(customer.id, name="N")
    control("clock", {"advance_seconds": 2 * DAY})
    event = stripe.Event.list(type="customer.updated", limit=1).data[0]
    equal("four tries and it is given up", (history()[0]["state"], len(history()[0]["attempts"])), ("failed", 4))
    check("but found as undelivered", event.id in [e.id for e in stripe.Event.list(delivery_success=False)])
    count = len(Moody.bodies)
    stripe.WebhookEndpoint.modify(endpoint.id, disabled=True)
    stripe.Customer.create()
    control("clock", {"advance_seconds": 0})
    equal("a disabled endpoint gets nothing", len(Moody.bodies), count)
    stripe.WebhookEndpoint.modify(endpoint.id, disabled=False, enabled_events=["*"])
    control("chaos", {"delay_webhook_s": 60}, "PUT")
    late = stripe.Customer.create()
    control("clock", {"advance_seconds": 30})
    has = lambda: sum(late.id.encode() in b for b in Moody.bodies)
    equal("a delayed event is not there yet", has(), 0)
    control("clock", {"advance_seconds": 31})
    equal("but a minute later", has(), 1)
    control("chaos", {"delay_webhook_s": 30, "reorder_webhook": 1}, "PUT")
    # Several lines are open at once, so the order of sending can come out as the order of making, by chance: not time after time.
    orders = []
    while len(orders) < 6 and all(order == made for made, order in orders):
        made = [stripe.Customer.create().id for _ in range(8)]
        control("clock", {"advance_seconds": 60})
        orders.append((made, [m for b in Moody.bodies for m in made if m.encode() in b]))
    check("reordered: all arrive", all(sorted(order) == sorted(made) for made, order in orders), orders)
    check("reordered: in another order", any(order != made for made, order in orders), orders)
    server.shutdown()


def pages():
    fresh()
    for _ in range(5):
        stripe.Customer.create()
    control("chaos", {"fail_page": 1}, "PUT")
    refused("a page fails", 500, None, lambda: stripe.Customer.list())
    equal("once", len(stripe.Customer.list().data), 5)
    seen = []
    control("chaos", {"fail_page": 0}, "PUT")

    def walk():
        for customer in stripe.Customer.list(limit=2).auto_paging_iter():
            seen.append(customer.id)
            if len(seen) == 2:
                control("chaos", {"fail_page": 1}, "PUT")

    refused("in the middle of a list too", 500, None, walk)
    equal("and the list is not taken for ended", len(seen), 2)
    check("single objects are not pages", stripe.Customer.retrieve(seen[0]).id == seen[0])
    control("chaos", {"slow_page": 1}, "PUT")
    took = []
    for _ in range(2):
        start = time.monotonic()
        stripe.Customer.list()
        took.append(time.monotonic() - start)
    check("one page is slow", took[0] >= 2 > took[1], took)
    status, body = control("chaos", {"fail_pag": 1}, "PUT")
    check("a misspelt switch", status == 400 and "did you mean fail_page?" in body["error"]["message"], body)


def main():
    stripe.api_base, stripe.api_key, stripe.max_network_retries = base.BASE, "sk_test_features", 0
    stripe.default_http_client = base.Checked()
    for part in (credit_notes, refunds, captures, declines, payouts, manual_payouts, below_zero, currencies, disputes, idempotency, deliveries, pages):
        part()
    equal("credit notes were seen", {"credit_note", "credit_note_line_item"} - base.seen_kinds, set())
    print(f"{base.passed} passed, {len(base.failed)} failed")
    sys.exit(1 if base.failed else 0)


if __name__ == "__main__":
    main()
