"""A little business on a localstripe server, told by the provider's official Python client.

usage: localstripe_business.py BASE_URL KEY WEBHOOK_URL WEBHOOK_SECRET

Registers the webhook endpoint, then makes a customer with a payment and another with a subscription, whose first invoice is paid.
Prints the ids of the newest charge and its invoice as JSON.
"""

import json
import sys
import time
import urllib.parse
import urllib.request

import stripe


def customer(email):
    made = stripe.Customer.create(email=email)
    card = {"number": "4242424242424242", "exp_month": 8, "exp_year": 2040, "cvc": "123"}
    method = stripe.PaymentMethod.create(type="card", card=card)
    stripe.PaymentMethod.attach(method.id, customer=made.id)
    return made, method


def main():
    stripe.api_base, stripe.api_key, url, secret = sys.argv[1:5]
    form = urllib.parse.urlencode({"url": url, "secret": secret}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{stripe.api_base}/_config/webhooks/we_test", data=form, method="POST"))
    one, method = customer("ls@example.com")
    stripe.PaymentIntent.create(amount=1234, currency="usd", customer=one.id, payment_method=method.id, confirm=True)
    # It lists the oldest first and knows seconds only: the newest must be of a later one.
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.02)
    two, method = customer("sub@example.com")
    stripe.Customer.modify(two.id, invoice_settings={"default_payment_method": method.id})
    product = stripe.Product.create(name="Plan", type="service")
    plan = stripe.Plan.create(product=product.id, amount=2500, currency="usd", interval="month")
    stripe.Subscription.create(customer=two.id, items=[{"plan": plan.id}])
    [invoice] = stripe.Invoice.list(customer=two.id).data
    [charge] = [c for c in stripe.Charge.list(limit=10) if c.customer == two.id]
    print(json.dumps({"invoice": invoice.id, "charge": charge.id, "customer": two.id}))


if __name__ == "__main__":
    main()
