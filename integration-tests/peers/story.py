"""The outside client of the main job: the provider's official Python client, unmodified, against the daemon's sandbox.

usage: story.py BASE_URL pay EMAIL AMOUNT_MINOR [DESCRIPTION]   customer, invoice with a line, finalize, pay; prints the ids as JSON
       story.py BASE_URL receive COUNT EMAIL                    registers an endpoint of its own, pays an invoice, prints what
                                                                construct_event accepted; exits 1 on any event it refused
       story.py BASE_URL sign SECRET                            prints a signature header of the client's own making for standard input

Needs PyPI `stripe` 16.1.0. Prints one line of JSON, or a traceback and a non-zero exit.
"""

import http.server
import json
import sys
import threading
import time

import stripe

PINNED = "16.1.0"


def client(base):
    if stripe.VERSION != PINNED:
        raise SystemExit(f"the stripe package is {stripe.VERSION}, not {PINNED}")
    stripe.api_base = base.rstrip("/")
    stripe.api_key = "sk_test_outside_client"
    stripe.max_network_retries = 0


def pay(email, amount, description="Consulting"):
    customer = stripe.Customer.create(email=email, name="An outside customer")
    method = stripe.PaymentMethod.attach("pm_card_visa", customer=customer.id)
    stripe.Customer.modify(customer.id, invoice_settings={"default_payment_method": method.id})
    invoice = stripe.Invoice.create(customer=customer.id, currency="usd", collection_method="send_invoice", days_until_due=30, auto_advance=False)
    stripe.InvoiceItem.create(customer=customer.id, invoice=invoice.id, amount=amount, currency="usd", description=description)
    invoice = stripe.Invoice.finalize_invoice(invoice.id)
    assert (invoice.status, invoice.amount_due) == ("open", amount), invoice
    invoice = stripe.Invoice.pay(invoice.id)
    assert (invoice.status, invoice.amount_paid, invoice.amount_remaining) == ("paid", amount, 0), invoice
    payments = stripe.InvoicePayment.list(invoice=invoice.id, status="paid").data
    assert len(payments) == 1, payments
    intent = stripe.PaymentIntent.retrieve(payments[0].payment.payment_intent, expand=["latest_charge.balance_transaction"])
    charge = intent.latest_charge
    movement = charge.balance_transaction
    return {
        "customer": customer.id,
        "invoice": invoice.id,
        "number": invoice.number,
        "payment_intent": intent.id,
        "charge": charge.id,
        "balance_transaction": movement.id,
        "amount": movement.amount,
        "fee": movement.fee,
        "net": movement.net,
        "available_on": movement.available_on,
        "created": charge.created,
    }


def receive(count, email):
    accepted, refused = [], []

    class Receiver(http.server.BaseHTTPRequestHandler):
        secret = None

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            header = self.headers["stripe-signature"]
            try:
                event = stripe.Webhook.construct_event(body, header, Receiver.secret)
                accepted.append({"id": event["id"], "type": event["type"], "created": event["created"]})
                for wrong in (body + b"\n", body.replace(b'"', b"'", 1)):
                    try:
                        stripe.Webhook.construct_event(wrong, header, Receiver.secret)
                        refused.append("a changed body was accepted")
                    except (stripe.SignatureVerificationError, ValueError):
                        pass
            except Exception as error:  # whatever the client refuses is a finding
                refused.append(f"{type(error).__name__}: {error}")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = stripe.WebhookEndpoint.create(url=f"http://127.0.0.1:{server.server_address[1]}/hook", enabled_events=["*"])
    Receiver.secret = endpoint.secret
    paid = pay(email, 4200)
    deadline = time.monotonic() + 30
    wanted = {"charge.succeeded", "invoice.paid", "payment_intent.succeeded"}
    while time.monotonic() < deadline and (len(accepted) < count or not wanted <= {e["type"] for e in accepted}):
        time.sleep(0.02)
    stripe.WebhookEndpoint.delete(endpoint.id)
    server.shutdown()
    return {"accepted": accepted, "refused": refused, "paid": paid}


def main():
    base, action, *rest = sys.argv[1:]
    client(base)
    if action == "pay":
        answer = pay(rest[0], int(rest[1]), *rest[2:])
    elif action == "receive":
        answer = receive(int(rest[0]), rest[1])
    elif action == "sign":
        payload = sys.stdin.read()
        t = int(time.time())
        answer = {"header": f"t={t},v1=" + stripe.WebhookSignature._compute_signature(f"{t}.{payload}", rest[0])}
    else:
        raise SystemExit(__doc__)
    print(json.dumps(answer))
    return 1 if answer.get("refused") else 0


if __name__ == "__main__":
    sys.exit(main())
