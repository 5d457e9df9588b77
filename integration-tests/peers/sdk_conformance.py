"""Drives a sandbox with the provider's official Python client, unmodified: the whole story from customer to payout.

usage: sdk_conformance.py BASE_URL        (needs PyPI `stripe` 16.1.0)

Every object that comes back is checked against the client's own type annotations: whatever is not Optional there must be
present with the right base type. Advances the sandbox's virtual clock; give it a sandbox of its own. Prints
`N passed, M failed` and exits 1 if anything failed.
"""

import http.server
import json
import sys
import threading
import time
import typing
import urllib.error
import urllib.request
import uuid

import stripe
from stripe._http_client import RequestsClient

BASE = sys.argv[1].rstrip("/")
PINNED = "16.1.0"
passed, failed = 0, []


def check(name, ok, detail=""):
    global passed
    if ok:
        passed += 1
    else:
        failed.append(name)
        print(f"FAIL {name} {detail}", file=sys.stderr)


def equal(name, actual, expected):
    check(name, actual == expected, f"got {actual!r}, expected {expected!r}")


def refused(name, status, code, call, message=None):
    """The call must fail with this HTTP status and code."""
    try:
        call()
    except stripe.StripeError as error:
        actual = error.error.code if error.error else error.code
        ok = error.http_status == status and actual == code and (message is None or message in str(error))
        check(name, ok, f"got {error.http_status} {actual} {error}")
        return error
    check(name, False, "was not refused")
    return None


# --- the client's annotations -----------------------------------------------------------------------------------------

CLASSES = {
    getattr(stripe, name).OBJECT_NAME: getattr(stripe, name)
    for name in (
        "Customer PaymentMethod Product Price InvoiceItem Invoice InvoiceLineItem InvoicePayment PaymentIntent Charge Refund Balance "
        "BalanceTransaction Payout Dispute Event WebhookEndpoint Subscription SubscriptionItem Plan"
    ).split()
}
seen_kinds = set()


def base_types(annotation):
    """The JSON types an annotation allows, or None where it says nothing we can check."""
    origin = typing.get_origin(annotation)
    if annotation is type(None):
        return {type(None)}
    if annotation in (int, str, bool, float):
        return {annotation}
    if origin is typing.Union:
        parts = [base_types(a) for a in typing.get_args(annotation)]
        return None if any(p is None for p in parts) else set().union(*parts)
    if origin is typing.Literal:
        return {type(a) for a in typing.get_args(annotation)}
    if origin in (list, typing.List):
        return {list}
    if isinstance(annotation, typing.ForwardRef):
        return {dict}
    name = getattr(annotation, "__name__", "")
    if name == "Decimal":
        return {str}
    if isinstance(annotation, type) or origin is not None:
        return {dict}
    return None


def is_optional(annotation):
    """`Optional[X]` exactly; `Union[str, X, None]` means a member that is there and may be null."""
    args = typing.get_args(annotation)
    return typing.get_origin(annotation) is typing.Union and len(args) == 2 and type(None) in args


def mistakes(cls, value, path):
    found = []
    for member, annotation in getattr(cls, "__annotations__", {}).items():
        if typing.get_origin(annotation) is typing.ClassVar:
            continue
        if member not in value:
            if not is_optional(annotation):
                found.append(f"{path}.{member} is missing")
            continue
        allowed, actual = base_types(annotation), value[member]
        if allowed is not None and type(actual) not in allowed:
            found.append(f"{path}.{member} is {type(actual).__name__}, not {sorted(t.__name__ for t in allowed)}")
        for inner in (annotation, *typing.get_args(annotation)):
            if isinstance(inner, type) and isinstance(actual, dict) and issubclass(inner, stripe.StripeObject):
                found += mistakes(inner, actual, f"{path}.{member}")
            for element in typing.get_args(inner):
                if isinstance(element, type) and issubclass(element, stripe.StripeObject) and isinstance(actual, list):
                    for index, item in enumerate(actual):
                        found += mistakes(element, item, f"{path}.{member}[{index}]")
    return found


def walk(value):
    """Every provider object inside a decoded answer."""
    if isinstance(value, dict):
        kind = value.get("object")
        if isinstance(kind, str) and kind in CLASSES and not value.get("deleted"):
            yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def check_annotations(body):
    for value in walk(body):
        kind = value["object"]
        seen_kinds.add(kind)
        found = mistakes(CLASSES[kind], value, kind)
        check(f"annotations of {kind}", not found, "; ".join(found[:5]))


class Checked(RequestsClient):
    """The client's own transport, with a look at every successful answer."""

    def request(self, method, url, headers, post_data=None):
        body, status, answer_headers = super().request(method, url, headers, post_data)
        text = body.decode() if isinstance(body, bytes) else body
        answer = json.loads(text)
        check("every answer has a request id", any(k.lower() == "request-id" for k in answer_headers))
        if status < 300:
            check_annotations(answer)
        return body, status, answer_headers


# --- the sandbox's own controls -----------------------------------------------------------------------------------------


def control(path, body=None, method=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{BASE}/_control/{path}", data=data, method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


class Receiver(http.server.BaseHTTPRequestHandler):
    """A webhook endpoint that verifies with the official client. Answers 503 as often as `refuse` says."""

    secret = None
    refuse = 0
    events, invalid = [], []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if Receiver.refuse > 0:
            Receiver.refuse -= 1
            self.send_response(503)
            self.end_headers()
            return
        try:
            event = stripe.Webhook.construct_event(body, self.headers["stripe-signature"], Receiver.secret)
            Receiver.events.append((event["id"], event["type"], self.headers["stripe-signature"].count("v1="), json.loads(body)))
        except Exception as error:  # any refusal by the client is a finding
            Receiver.invalid.append(str(error))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


# --- the story ------------------------------------------------------------------------------------------------------------


def keys():
    for key, why in ((None, "no key"), ("sk_live_abcdefghijkl", "a live key"), ("pk_test_abcdefghijkl", "a publishable key"), ("nonsense", "nonsense")):
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        request = urllib.request.Request(f"{BASE}/v1/balance", headers=headers)
        try:
            urllib.request.urlopen(request)
            check(f"{why} is refused", False)
        except urllib.error.HTTPError as error:
            body = json.load(error)["error"]
            check(f"{why} is refused", error.code == 401 and body["type"] == "invalid_request_error", (error.code, body))
    restricted = stripe.Balance.retrieve(api_key="rk_test_restricted")
    equal("a restricted test key works", restricted.livemode, False)


def webhooks_start():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    endpoint = stripe.WebhookEndpoint.create(url=url, enabled_events=["*"])
    Receiver.secret = endpoint.secret
    check("the secret is shown once", endpoint.secret.startswith("whsec_") and "secret" not in stripe.WebhookEndpoint.retrieve(endpoint.id).to_dict())
    return server, endpoint


def customers():
    email = f"Mixed.{uuid.uuid4().hex[:8]}@example.com"
    customer = stripe.Customer.create(email=email, name="A & B <c>", metadata={"a": "1"}, address={"city": "Köln", "line1": "x"})
    equal("customer by email", [c.id for c in stripe.Customer.list(email=email)], [customer.id])
    equal("email is case-sensitive", len(stripe.Customer.list(email=email.lower()).data), 0)
    equal("nested parameters arrive", customer.address.city, "Köln")
    changed = stripe.Customer.modify(customer.id, description="d", metadata={"a": "", "b": "2"})
    equal("metadata is merged", changed.metadata.to_dict(), {"b": "2"})
    refused("unknown customer", 404, "resource_missing", lambda: stripe.Customer.retrieve("cus_none"), "No such customer: 'cus_none'")
    refused("unknown parameter", 400, "parameter_unknown", lambda: stripe.Customer.create(nonsense="x"), "Received unknown parameter: nonsense")
    refused("invalid email", 400, "email_invalid", lambda: stripe.Customer.create(email="nobody"))
    gone = stripe.Customer.create()
    check("a deleted customer says so", stripe.Customer.delete(gone.id).deleted and stripe.Customer.retrieve(gone.id).deleted)
    method = stripe.PaymentMethod.attach("pm_card_visa", customer=customer.id)
    stripe.Customer.modify(customer.id, invoice_settings={"default_payment_method": method.id})
    equal("attached methods are listed", [m.id for m in stripe.PaymentMethod.list(customer=customer.id, type="card")], [method.id])
    return customer


def invoice_paid(customer):
    invoice = stripe.Invoice.create(
        customer=customer.id, auto_advance=False, collection_method="send_invoice", days_until_due=30, currency="usd", description="Work"
    )
    equal("a draft has no number", (invoice.status, invoice.number, invoice.hosted_invoice_url), ("draft", None, None))
    product = stripe.Product.create(name="Hour")
    price = stripe.Price.create(product=product.id, currency="usd", unit_amount=2500)
    stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=4900, currency="usd", description="<b>Setup</b>")
    stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, pricing={"price": price.id}, quantity=2)
    extra = stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=1, currency="usd")
    stripe.InvoiceItem.delete(extra.id)
    refused(
        "currencies are not mixed", 400, None,
        lambda: stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=1, currency="eur"),
    )
    invoice = stripe.Invoice.finalize_invoice(invoice.id)
    equal("finalized", (invoice.status, invoice.amount_due, invoice.amount_remaining, len(invoice.lines.data)), ("open", 9900, 9900, 2))
    check("a finalized invoice has a number and a page", invoice.number and invoice.hosted_invoice_url.startswith(BASE))
    refused("finalized twice", 400, "invoice_not_editable", lambda: stripe.Invoice.finalize_invoice(invoice.id))
    refused("deleted when open", 400, "invoice_not_editable", lambda: stripe.Invoice.delete(invoice.id))
    with urllib.request.urlopen(invoice.hosted_invoice_url) as page:
        html = page.read().decode()
    check("the page is there and escapes", "99.00 USD" in html and "&lt;b&gt;Setup" in html and "<b>Setup" not in html)
    invoice = stripe.Invoice.pay(invoice.id)
    equal("paid", (invoice.status, invoice.amount_paid, invoice.amount_remaining), ("paid", 9900, 0))
    check("the old members are gone", not any(name in invoice.to_dict() for name in ("charge", "payment_intent", "paid")))
    refused("paid twice", 400, None, lambda: stripe.Invoice.pay(invoice.id), "already paid")
    payments = stripe.InvoicePayment.list(invoice=invoice.id)
    equal("one invoice payment", [(p.status, p.amount_paid, p.payment.type) for p in payments], [("paid", 9900, "payment_intent")])
    expanded = stripe.Invoice.retrieve(invoice.id, expand=["payments.data.payment.payment_intent", "customer"])
    equal("payments can be expanded", expanded.payments.data[0].payment.payment_intent.status, "succeeded")
    equal("the customer can be expanded", expanded.customer.id, customer.id)
    intent = stripe.PaymentIntent.retrieve(payments.data[0].payment.payment_intent, expand=["latest_charge.balance_transaction"])
    charge = intent.latest_charge
    check("the charge does not know its invoice", "invoice" not in charge.to_dict() and "invoice" not in intent.to_dict())
    movement = charge.balance_transaction
    equal("the fee is 2.9 % + 30", (movement.amount, movement.fee, movement.net, movement.status), (9900, 317, 9583, "pending"))
    equal("fee details add up", sum(f.amount for f in movement.fee_details), movement.fee)
    return invoice, charge


def refunds(charge):
    first = stripe.Refund.create(charge=charge.id, amount=3300, reason="requested_by_customer")
    equal("partly refunded", (first.status, first.amount), ("succeeded", 3300))
    half = stripe.Charge.retrieve(charge.id)
    equal("a partial refund is not `refunded`", (half.refunded, half.amount_refunded), (False, 3300))
    refused(
        "more than is left", 400, None, lambda: stripe.Refund.create(charge=charge.id, amount=6601),
        "Refund amount ($66.01) is greater than unrefunded amount on charge ($66.00)",
    )
    refused("an amount of 0", 400, "parameter_invalid_integer", lambda: stripe.Refund.create(charge=charge.id, amount=0))
    refused("no charge", 404, "resource_missing", lambda: stripe.Charge.retrieve("ch_none"))
    rest = stripe.Refund.create(payment_intent=charge.payment_intent)
    equal("the rest", rest.amount, 6600)
    refused("again", 400, "charge_already_refunded", lambda: stripe.Refund.create(charge=charge.id), f"Charge {charge.id} has already been refunded.")
    whole = stripe.Charge.retrieve(charge.id, expand=["refunds"])
    equal("a full refund is", (whole.refunded, whole.amount_refunded, len(whole.refunds.data)), (True, 9900, 2))
    equal("refunds of a charge", [r.id for r in stripe.Refund.list(charge=charge.id)], [rest.id, first.id])
    movements = stripe.BalanceTransaction.list(source=first.id).data
    equal("a refund moves the money back without the fee", [(m.amount, m.fee, m.type) for m in movements], [(-3300, 0, "refund")])


def declines(customer):
    error = refused(
        "a declined card", 402, "card_declined",
        lambda: stripe.PaymentIntent.create(amount=1000, currency="usd", payment_method="pm_card_chargeDeclinedInsufficientFunds", confirm=True),
        "Your card has insufficient funds.",
    )
    if error is not None:
        check("it is a card error with its reason", isinstance(error, stripe.CardError) and error.error.decline_code == "insufficient_funds")
        failed_charge = stripe.Charge.retrieve(error.error.charge)
        equal("a failed charge is left behind", (failed_charge.status, failed_charge.failure_code), ("failed", "card_declined"))
    invoice = stripe.Invoice.create(customer=customer.id, currency="usd")
    stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=2000, currency="usd")
    stripe.Invoice.finalize_invoice(invoice.id)
    refused("an invoice with a declined card", 402, "card_declined", lambda: stripe.Invoice.pay(invoice.id, payment_method="pm_card_chargeDeclined"))
    again = stripe.Invoice.retrieve(invoice.id)
    equal("it stays open and counts the attempt", (again.status, again.attempt_count), ("open", 1))
    equal("and can be voided", stripe.Invoice.void_invoice(invoice.id).status, "void")
    refused("too little", 400, "amount_too_small", lambda: stripe.PaymentIntent.create(amount=49, currency="usd"))
    refused("not a number", 400, "parameter_invalid_integer", lambda: stripe.PaymentIntent.create(amount="1.5", currency="usd"))
    refused("an unknown currency", 400, None, lambda: stripe.PaymentIntent.create(amount=500, currency="zzz"))
    held = stripe.PaymentIntent.create(amount=5000, currency="usd", payment_method="pm_card_mastercard", confirm=True, capture_method="manual")
    equal("an authorisation waits", held.status, "requires_capture")
    equal("and is captured", stripe.PaymentIntent.capture(held.id, amount_to_capture=4000).amount_received, 4000)
    later = stripe.PaymentIntent.create(amount=5000, currency="eur")
    equal("an intent is canceled", stripe.PaymentIntent.cancel(later.id).status, "canceled")
    refused("and not confirmed then", 400, "payment_intent_unexpected_state", lambda: stripe.PaymentIntent.confirm(later.id, payment_method="pm_card_visa"))
    equal("the older way", stripe.Charge.create(amount=700, currency="usd", source="tok_visa").status, "succeeded")


def invoices_other_ways(customer):
    def fresh(amount=1500):
        invoice = stripe.Invoice.create(customer=customer.id, collection_method="send_invoice", days_until_due=1, currency="usd")
        if amount:
            stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=amount, currency="usd")
        return invoice

    equal("nothing to pay is paid", stripe.Invoice.finalize_invoice(fresh(0).id).status, "paid")
    equal("sent", stripe.Invoice.send_invoice(fresh().id).status, "open")
    away = fresh()
    stripe.Invoice.finalize_invoice(away.id)
    equal("uncollectible", stripe.Invoice.mark_uncollectible(away.id).status, "uncollectible")
    out = stripe.Invoice.pay(fresh().id, paid_out_of_band=True)
    equal("paid elsewhere", (out.status, out.amount_paid_off_stripe), ("paid", 1500))
    draft = fresh()
    check("a draft is deleted", stripe.Invoice.delete(draft.id).deleted)
    refused("and gone", 404, "resource_missing", lambda: stripe.Invoice.retrieve(draft.id))
    page = fresh()
    stripe.Invoice.finalize_invoice(page.id)
    url = stripe.Invoice.retrieve(page.id).hosted_invoice_url
    with urllib.request.urlopen(urllib.request.Request(f"{url}/pay", data=b"", method="POST")) as answer:
        check("the page's button pays", answer.status == 200 and b"paid" in answer.read())
    equal("and the invoice knows", stripe.Invoice.retrieve(page.id).status, "paid")
    check("open invoices are found by status", all(i.status == "open" for i in stripe.Invoice.list(customer=customer.id, status="open")))
    equal("lines are a list of their own", len(stripe.Invoice.list_lines(page.id).data), 1)


def paging():
    made = [stripe.Customer.create(email="paging@example.com").id for _ in range(23)]
    pages = stripe.Customer.list(email="paging@example.com", limit=10)
    check("there is more", pages.has_more and len(pages.data) == 10)
    equal("auto-pagination finds all, newest first", [c.id for c in pages.auto_paging_iter()], made[::-1])
    back = stripe.Customer.list(email="paging@example.com", limit=5, ending_before=made[10])
    equal("backwards", [c.id for c in back.data], made[11:16][::-1])
    refused("a cursor that is not there", 400, "resource_missing", lambda: stripe.Customer.list(starting_after="cus_none"))
    refused("a limit of 101", 400, "parameter_invalid_integer", lambda: stripe.Customer.list(limit=101))


def idempotency():
    key = f"key-{uuid.uuid4()}"
    first = stripe.PaymentIntent.create(amount=1000, currency="usd", payment_method="pm_card_visa", confirm=True, idempotency_key=key)
    second = stripe.PaymentIntent.create(amount=1000, currency="usd", payment_method="pm_card_visa", confirm=True, idempotency_key=key)
    equal("the same key replays", second.id, first.id)
    equal("and says so", second.last_response.headers.get("Idempotent-Replayed"), "true")
    error = refused("other parameters", 400, None, lambda: stripe.PaymentIntent.create(amount=1001, currency="usd", idempotency_key=key))
    check("are an idempotency error", isinstance(error, stripe.IdempotencyError))
    invalid = f"key-{uuid.uuid4()}"
    refused("a refused parameter", 400, "amount_too_small", lambda: stripe.PaymentIntent.create(amount=1, currency="usd", idempotency_key=invalid))
    equal("is not stored", stripe.PaymentIntent.create(amount=1000, currency="usd", idempotency_key=invalid).amount, 1000)
    declined = f"key-{uuid.uuid4()}"

    def pay():
        return stripe.PaymentIntent.create(amount=900, currency="usd", payment_method="pm_card_chargeDeclined", confirm=True, idempotency_key=declined)

    one, two = refused("a decline", 402, "card_declined", pay), refused("is stored", 402, "card_declined", pay)
    check("with the same charge", one is not None and two is not None and one.error.charge == two.error.charge)
    control("chaos", {"slow_ms": 400}, "PUT")
    busy = f"key-{uuid.uuid4()}"
    answers = []

    def call():
        try:
            answers.append(stripe.Customer.create(idempotency_key=busy).id)
        except stripe.StripeError as caught:
            answers.append((caught.http_status, caught.error.code))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    control("chaos", {"slow_ms": 0}, "PUT")
    check("two at once: one works, one is told", (409, "idempotency_key_in_use") in answers and len(answers) == 2, answers)
    control("chaos", {"error_after_commit": 1}, "PUT")
    lost = f"lost.{uuid.uuid4().hex}@example.com"
    refused("an error after the commit", 500, None, lambda: stripe.Customer.create(email=lost, idempotency_key=lost))
    equal("did its work", len(stripe.Customer.list(email=lost).data), 1)
    refused("and is replayed", 500, None, lambda: stripe.Customer.create(email=lost, idempotency_key=lost))
    control("chaos", {"status_429": 1}, "PUT")
    refused("too many requests", 429, "rate_limit", lambda: stripe.Balance.retrieve())


def settlement():
    yen = stripe.PaymentIntent.create(amount=5000, currency="jpy", payment_method="pm_card_visa", confirm=True)
    equal("yen are charged", yen.status, "succeeded")
    before = control("clock")[1]["now"]
    status, clock = control("clock", {"advance_seconds": 5 * 86400})
    check("the clock moves", status == 200 and 5 * 86400 <= clock["now"] - before < 5 * 86400 + 60, (status, clock))
    balance = stripe.Balance.retrieve()
    check("everything settled and was paid out", all(b.amount == 0 for b in [*balance.available, *balance.pending]), balance)
    payouts = list(stripe.Payout.list(status="paid", limit=100).auto_paging_iter())
    equal("a payout per currency", sorted({p.currency for p in payouts}), ["jpy", "usd"])
    for payout in payouts:
        equal("reconciled", (payout.reconciliation_status, payout.automatic), ("completed", True))
        movements = list(stripe.BalanceTransaction.list(payout=payout.id, limit=100).auto_paging_iter())
        equal("the movements of a payout sum to zero", sum(m.net for m in movements), 0)
        own = [m for m in movements if m.id == payout.balance_transaction]
        equal("its own is among them", [(m.type, m.net) for m in own], [("payout", -payout.amount)])
        check("amount - fee = net", all(m.amount - m.fee == m.net and m.currency == payout.currency for m in movements))
    refused("the movements of no payout", 400, "resource_missing", lambda: stripe.BalanceTransaction.list(payout="po_none"))
    equal("sources can be expanded", stripe.BalanceTransaction.list(type="charge", limit=1, expand=["data.source"]).data[0].source.object, "charge")
    equal("nothing before the beginning", stripe.Payout.list(created={"lt": 1000}).data, [])
    response = stripe.Balance.retrieve().last_response
    date = time.mktime(time.strptime(response.headers["Date"], "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone
    check("Date is the virtual clock", abs(date - control("clock")[1]["now"]) <= 2, response.headers["Date"])


def catalog():
    product = stripe.Product.create(
        name="Team", description="d", default_price_data={"currency": "usd", "unit_amount": 4900, "recurring": {"interval": "month"}}
    )
    monthly = stripe.Price.retrieve(product.default_price)
    equal("a default price is made with its product", (monthly.unit_amount, monthly.recurring.interval, monthly.type), (4900, "month", "recurring"))
    yearly = stripe.Price.create(product=product.id, currency="usd", unit_amount=49000, recurring={"interval": "year"}, nickname="yearly")
    euro = stripe.Price.create(product=product.id, currency="eur", unit_amount=4500, recurring={"interval": "month"})
    equal("prices of a product", [p.id for p in stripe.Price.list(product=product.id)], [euro.id, yearly.id, monthly.id])
    equal("prices by currency", [p.id for p in stripe.Price.list(product=product.id, currency="eur")], [euro.id])
    stripe.Price.modify(euro.id, active=False)
    equal("active prices", {p.id for p in stripe.Price.list(product=product.id, active=True)}, {yearly.id, monthly.id})
    equal("a product is renamed", stripe.Product.modify(product.id, name="Crew", metadata={"a": "b"}).name, "Crew")
    check("products are listed", product.id in [p.id for p in stripe.Product.list(active=True, limit=100)])
    refused("an interval of a fortnight", 400, "parameter_invalid_string",
            lambda: stripe.Price.create(product=product.id, currency="usd", unit_amount=1, recurring={"interval": "fortnight"}))
    return product, monthly, yearly, euro


def subscriber(card="pm_card_visa"):
    customer = stripe.Customer.create(email=f"{uuid.uuid4().hex[:8]}@example.com")
    use_card(customer, card)
    return customer


def use_card(customer, card):
    method = stripe.PaymentMethod.attach(card, customer=customer.id)
    stripe.Customer.modify(customer.id, invoice_settings={"default_payment_method": method.id})


def to_period_end(subscription):
    """Past the period's end and the hour of the draft."""
    end = stripe.Subscription.retrieve(subscription.id)["items"].data[0].current_period_end
    control("clock", {"advance_seconds": end - control("clock")[1]["now"] + 3601})


def invoices_of(subscription):
    found = stripe.Invoice.list(subscription=subscription.id, limit=100).data
    return [(i.billing_reason.removeprefix("subscription_"), i.status, i.total) for i in reversed(found)]


def subscriptions():
    _, monthly, yearly, euro = catalog()
    customer = subscriber()
    s = stripe.Subscription.create(customer=customer.id, items=[{"price": monthly.id}], metadata={"a": "b"}, expand=["latest_invoice.payments"])
    item = s["items"].data[0]
    equal("a paid subscription is active", (s.status, s.latest_invoice.status, s.latest_invoice.amount_paid), ("active", "paid", 4900))
    equal("the invoice knows its subscription", s.latest_invoice.parent.subscription_details.subscription, s.id)
    line = s.latest_invoice.lines.data[0]
    equal("the line has the price", (line.pricing.price_details.price, line.parent.subscription_item_details.subscription_item), (monthly.id, item.id))
    equal("and the period", (line.period.start, line.period.end), (item.current_period_start, item.current_period_end))
    equal("it was paid by one payment", [p.status for p in s.latest_invoice.payments.data], ["paid"])
    to_period_end(s)
    equal("and renewed", invoices_of(s), [("create", "paid", 4900), ("cycle", "paid", 4900)])
    control("clock", {"advance_seconds": 10 * 86400})
    changed = stripe.Subscription.modify(s.id, items=[{"id": item.id, "quantity": 3}], proration_behavior="always_invoice")
    invoice = stripe.Invoice.retrieve(changed.latest_invoice)
    equal("an upgrade is invoiced", (invoice.billing_reason, invoice.status), ("subscription_update", "paid"))
    amounts = [l.amount for l in invoice.lines.data]
    check("credit and debit are thirds", len(amounts) == 2 and amounts[0] < 0 and abs(amounts[1] + 3 * amounts[0]) <= 2, amounts)
    equal("the sum is exact", (invoice.total, invoice.amount_paid), (sum(amounts), sum(amounts)))
    waiting = stripe.Subscription.modify(s.id, items=[{"id": item.id, "quantity": 1}])
    items = stripe.InvoiceItem.list(customer=customer.id, pending=True).data
    equal("a downgrade waits for the next invoice", (waiting.latest_invoice, len(items)), (invoice.id, 2))
    to_period_end(s)
    credit = sum(i.amount for i in items)
    equal("which is so much less", stripe.Invoice.retrieve(stripe.Subscription.retrieve(s.id).latest_invoice).total, 4900 + credit)
    moved = stripe.Subscription.modify(s.id, items=[{"id": item.id, "price": yearly.id}])
    period = moved["items"].data[0]
    check("a year begins now", moved.billing_cycle_anchor == period.current_period_start and period.current_period_end - period.current_period_start >= 365 * 86400)
    equal("found by price", [x.id for x in stripe.Subscription.list(price=yearly.id)], [s.id])
    wish = stripe.Subscription.modify(s.id, cancel_at_period_end=True)
    equal("it will end", (wish.status, wish.cancel_at), ("active", period.current_period_end))
    gone = stripe.Subscription.cancel(s.id, prorate=True, invoice_now=True)
    check("and ends at once", gone.status == "canceled" and gone.ended_at is not None)
    check("with the rest of the year on the balance", stripe.Customer.retrieve(customer.id).balance < -40000)
    refused("ended twice", 404, "resource_missing", lambda: stripe.Subscription.cancel(s.id))
    equal("what has ended is not listed", (len(stripe.Subscription.list(customer=customer.id).data), len(stripe.Subscription.list(customer=customer.id, status="all").data)), (0, 1))
    refused("an inactive price", 400, "price_inactive", lambda: stripe.Subscription.create(customer=customer.id, items=[{"price": euro.id}]))
    refused("no card", 400, "resource_missing", lambda: stripe.Subscription.create(customer=stripe.Customer.create().id, items=[{"price": monthly.id}]))
    trial = stripe.Subscription.create(customer=subscriber().id, items=[{"price": monthly.id}], trial_period_days=14)
    equal("a trial costs nothing", (trial.status, invoices_of(trial)), ("trialing", [("create", "paid", 0)]))
    to_period_end(trial)
    equal("and then it does", (stripe.Subscription.retrieve(trial.id).status, invoices_of(trial)[-1]), ("active", ("cycle", "paid", 4900)))
    dunning(monthly)


def dunning(price):
    lost, saved = subscriber(), subscriber()
    a, b = (stripe.Subscription.create(customer=c.id, items=[{"price": price.id}]) for c in (lost, saved))
    for customer in (lost, saved):
        use_card(customer, "pm_card_chargeCustomerFail")
    to_period_end(b)
    equal("a declined renewal is past due", [stripe.Subscription.retrieve(s.id).status for s in (a, b)], ["past_due", "past_due"])
    equal("with an open invoice", invoices_of(a)[-1], ("cycle", "open", 4900))
    use_card(saved, "pm_card_visa")
    control("clock", {"advance_seconds": 16 * 86400})
    ended, back = stripe.Subscription.retrieve(a.id), stripe.Subscription.retrieve(b.id)
    equal("after the last try it ends", (ended.status, ended.cancellation_details.reason), ("canceled", "payment_failed"))
    equal("with four attempts", stripe.Invoice.retrieve(ended.latest_invoice).attempt_count, 4)
    equal("a new card saves it", (back.status, invoices_of(b)[-1]), ("active", ("cycle", "paid", 4900)))
    incomplete = stripe.Subscription.create(customer=lost.id, items=[{"price": price.id}])
    equal("a first payment that fails", incomplete.status, "incomplete")
    waits = stripe.Subscription.create(customer=lost.id, items=[{"price": price.id}], payment_behavior="default_incomplete")
    stripe.Invoice.pay(waits.latest_invoice, payment_method="pm_card_visa")
    control("clock", {"advance_seconds": 86400})
    equal("expires, unless it is paid", [stripe.Subscription.retrieve(s.id).status for s in (incomplete, waits)], ["incomplete_expired", "active"])


def disputes():
    intent = stripe.PaymentIntent.create(amount=8000, currency="usd", payment_method="pm_card_visa", confirm=True)
    status, dispute = control("dispute", {"charge": intent.latest_charge, "outcome": "open"})
    equal("a dispute is opened", (status, dispute.get("status")), (200, "needs_response"))
    listed = stripe.Dispute.list(charge=intent.latest_charge).data
    equal("listed, with the money taken", [(d.amount, len(d.balance_transactions)) for d in listed], [(8000, 1)])
    refused("a disputed charge is not refunded", 400, "charge_disputed", lambda: stripe.Refund.create(charge=intent.latest_charge))
    control("dispute", {"charge": intent.latest_charge, "outcome": "won"})
    won = stripe.Dispute.retrieve(listed[0].id)
    equal("won", (won.status, len(won.balance_transactions)), ("won", 2))


def controls():
    equal("a web page may not control", control("clock", headers={"Origin": "http://evil.example"})[0], 403)
    status, body = control("chaos", {"nonsense": 1, "drop_webhook": 0.5}, "PUT")
    check("an unknown switch is named", status == 400 and "nonsense" in json.dumps(body), body)
    equal("an impossible probability", control("chaos", {"drop_webhook": 2}, "PUT")[0], 400)
    equal("and nothing was changed", control("chaos")[1]["drop_webhook"], 0.0)
    equal("time does not go back", control("clock", {"advance_seconds": -1})[0], 400)


def webhooks_end(endpoint):
    control("clock", {"advance_seconds": 0})  # returns when everything was delivered
    check("no signature was refused", not Receiver.invalid, Receiver.invalid[:3])
    types = {kind for _, kind, _, _ in Receiver.events}
    expected = {
        "customer.created", "customer.updated", "customer.deleted", "invoice.created", "invoice.finalized", "invoice.paid", "invoice.voided",
        "invoice.payment_failed", "invoice.marked_uncollectible", "invoice_payment.paid", "payment_intent.succeeded",
        "payment_intent.payment_failed", "payment_intent.canceled", "charge.succeeded", "charge.failed", "charge.captured", "charge.refunded",
        "refund.created", "charge.dispute.created", "charge.dispute.closed", "payout.created", "payout.updated", "payout.paid",
        "payout.reconciliation_completed", "balance.available", "product.created", "product.updated", "price.created", "price.updated",
        "customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted",
        "customer.subscription.trial_will_end", "invoiceitem.created",
    }
    check("every expected event arrived", expected <= types, expected - types)
    ids = [event for event, _, _, _ in Receiver.events]
    equal("each once", len(ids), len(set(ids)))
    for _, _, _, body in Receiver.events:
        check_annotations(body)
    arrived = len(ids)
    Receiver.refuse = 2
    stripe.Customer.create(email="retry@example.com")
    wait_for(lambda: Receiver.refuse < 2)
    control("clock", {"advance_seconds": 3600})
    check("a refused delivery is tried again", any(b["data"]["object"].get("email") == "retry@example.com" for *_, b in Receiver.events[arrived:]))
    secret = control("roll_secret", {"endpoint": endpoint.id})[1]["secret"]
    stripe.Customer.create(email="roll@example.com")
    check("while a secret is rolled two signatures are sent", wait_for(lambda: Receiver.events[-1][2] == 2))
    Receiver.secret = secret
    control("chaos", {"duplicate_webhook": 1}, "PUT")
    twice = stripe.Customer.create(email="twice@example.com")
    count = lambda: sum(b["data"]["object"].get("id") == twice.id for *_, b in Receiver.events)
    check("a duplicate is sent twice", wait_for(lambda: count() == 2), count())
    control("chaos", {"duplicate_webhook": 0, "drop_webhook": 1}, "PUT")
    dropped = stripe.Customer.create(email="dropped@example.com")
    control("clock", {"advance_seconds": 2 * 86400})
    control("chaos", {"drop_webhook": 0}, "PUT")
    check("a dropped event never arrives", not any(b["data"]["object"].get("id") == dropped.id for *_, b in Receiver.events))
    lost = stripe.Event.list(delivery_success=False, type="customer.created", limit=100).data
    check("but is listed as undelivered", dropped.id in [e.data.object.id for e in lost])
    kinds = {"charge.dispute.created", "charge.dispute.closed"}
    some = stripe.Event.list(types=sorted(kinds), limit=100).data
    equal("events by several types", {e.type for e in some}, kinds)
    equal("one event", stripe.Event.retrieve(some[0].id).id, some[0].id)
    check("an endpoint is disabled", stripe.WebhookEndpoint.modify(endpoint.id, disabled=True).status == "disabled")
    check("and deleted", stripe.WebhookEndpoint.delete(endpoint.id).deleted)


def main():
    if stripe.VERSION != PINNED:
        sys.exit(f"PyPI stripe {PINNED} is needed, found {stripe.VERSION}")
    stripe.api_base, stripe.api_key, stripe.max_network_retries = BASE, "sk_test_conformance", 0
    stripe.default_http_client = Checked()
    control("reset", {})
    keys()
    server, endpoint = webhooks_start()
    customer = customers()
    _, charge = invoice_paid(customer)
    refunds(charge)
    declines(customer)
    invoices_other_ways(customer)
    paging()
    idempotency()
    settlement()
    subscriptions()
    disputes()
    controls()
    webhooks_end(endpoint)
    server.shutdown()
    equal("every kind of object was seen", sorted(set(CLASSES) - seen_kinds), [])
    print(f"{passed} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
