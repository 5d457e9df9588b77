"""The same refunds and idempotency keys against any server that speaks the provider's charges and refunds.

usage: refund_conformance.py BASE_URL

Uses nothing but the standard library, so that what is compared is the servers and not a client. Prints one JSON object: the step's
name to {http_status, type, code, param} of an error, or to the figures of a success. Ids and sentences are left out: they differ
by design.
"""

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid

BASE = sys.argv[1].rstrip("/")
KEY = "sk_test_conformance0123456789"
RUN = uuid.uuid4().hex
steps = {}


def call(method, path, form=None, key=None, auth="bearer"):
    body = None if form is None else urllib.parse.urlencode(form).encode()
    request = urllib.request.Request(f"{BASE}/v1/{path}", data=body, method=method)
    if auth == "bearer":
        request.add_header("Authorization", f"Bearer {KEY}")
    elif auth == "basic":
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{KEY}:".encode()).decode())
    elif auth:
        request.add_header("Authorization", f"Bearer {auth}")
    if key:
        request.add_header("Idempotency-Key", f"{RUN}-{key}")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()), error.headers


def step(name, members, method, path, form=None, **more):
    status, body, headers = call(method, path, form, **more)
    if "error" in body:
        error = body["error"]
        steps[name] = {"http_status": status, **{m: error.get(m) for m in ("type", "code", "param", "decline_code")}}
    else:
        steps[name] = {"http_status": status, **{m: body.get(m) for m in members}}
    if headers.get("Idempotent-Replayed"):
        steps[name]["replayed"] = headers["Idempotent-Replayed"]
    return body


CHARGE = ("object", "amount", "amount_refunded", "captured", "currency", "paid", "refunded", "status")
REFUND = ("object", "amount", "currency", "reason", "status")


def charge(amount=1234, **more):
    return call("POST", "charges", {"amount": amount, "currency": "usd", "source": "tok_visa", **more})[1]["id"]


def refunds():
    paid = step("charge", CHARGE, "POST", "charges", {"amount": 1234, "currency": "usd", "source": "tok_visa"})["id"]
    step("part", REFUND, "POST", "refunds", {"charge": paid, "amount": 234, "reason": "requested_by_customer"})
    step("after a part", CHARGE, "GET", f"charges/{paid}")
    step("more than is left", REFUND, "POST", "refunds", {"charge": paid, "amount": 1001})
    step("the rest", REFUND, "POST", "refunds", {"charge": paid})
    step("after the rest", CHARGE, "GET", f"charges/{paid}")
    step("again", REFUND, "POST", "refunds", {"charge": paid})
    step("again with an amount", REFUND, "POST", "refunds", {"charge": paid, "amount": 1})
    fresh = charge()
    step("nothing", REFUND, "POST", "refunds", {"charge": fresh, "amount": 0})
    step("less than nothing", REFUND, "POST", "refunds", {"charge": fresh, "amount": -1})
    step("too much at once", REFUND, "POST", "refunds", {"charge": fresh, "amount": 1235})
    step("not a number", REFUND, "POST", "refunds", {"charge": fresh, "amount": "many"})
    step("not a reason", REFUND, "POST", "refunds", {"charge": fresh, "reason": "mood"})
    step("no charge named", REFUND, "POST", "refunds", {"amount": 5})
    step("a charge that is not there", REFUND, "POST", "refunds", {"charge": "ch_nobody"})
    step("a refund that is not there", REFUND, "GET", "refunds/re_nobody")
    # One of the servers has no order within a second.
    listed = call("GET", f"refunds?charge={paid}")[1]
    steps["refunds of a charge"] = {"amounts": sorted(r["amount"] for r in listed["data"]), "has_more": listed["has_more"], "object": listed["object"]}
    one = call("GET", f"refunds?charge={paid}&limit=1")[1]
    steps["one of them"] = {"rows": len(one["data"]), "has_more": one["has_more"]}
    noted = step("with notes", (*REFUND, "metadata"), "POST", "refunds", {"charge": fresh, "amount": 100, "metadata[a]": "b"})["id"]
    step("read again", (*REFUND, "metadata"), "GET", f"refunds/{noted}")


def charges():
    step("too small", CHARGE, "POST", "charges", {"amount": 49, "currency": "usd", "source": "tok_visa"})
    step("too large", CHARGE, "POST", "charges", {"amount": 100_000_000, "currency": "usd", "source": "tok_visa"})
    step("an amount of letters", CHARGE, "POST", "charges", {"amount": "abc", "currency": "usd", "source": "tok_visa"})
    step("no amount", CHARGE, "POST", "charges", {"currency": "usd", "source": "tok_visa"})
    step("no currency", CHARGE, "POST", "charges", {"amount": 1234, "source": "tok_visa"})
    step("a currency that is none", CHARGE, "POST", "charges", {"amount": 1234, "currency": "zzz", "source": "tok_visa"})
    step("declined", CHARGE, "POST", "charges", {"amount": 1234, "currency": "usd", "source": "tok_chargeDeclined"})
    step("no funds", CHARGE, "POST", "charges", {"amount": 1234, "currency": "usd", "source": "tok_chargeDeclinedInsufficientFunds"})
    step("a token that is not there", CHARGE, "POST", "charges", {"amount": 1234, "currency": "usd", "source": "tok_nobody"})
    step("a charge that is not there, read", CHARGE, "GET", "charges/ch_nobody")
    held = charge(capture="false")
    step("a hold", CHARGE, "GET", f"charges/{held}")
    step("more than the hold", CHARGE, "POST", f"charges/{charge(capture='false')}/capture", {"amount": 1235})
    step("captured", CHARGE, "POST", f"charges/{held}/capture", {})
    step("captured twice", CHARGE, "POST", f"charges/{held}/capture", {})
    changed = charge()
    step("changed", (*CHARGE, "description", "metadata"), "POST", f"charges/{changed}", {"description": "d", "metadata[a]": "b"})


def keys():
    paid = charge()
    form = {"charge": paid, "amount": 100}
    step("with a key", REFUND, "POST", "refunds", form, key="one")
    step("the same key", REFUND, "POST", "refunds", form, key="one")
    step("the key with another amount", REFUND, "POST", "refunds", {"charge": paid, "amount": 101}, key="one")
    step("the key at another address", REFUND, "POST", "charges", {"amount": 1234, "currency": "usd", "source": "tok_visa"}, key="one")
    step("refunded once for the two", CHARGE, "GET", f"charges/{paid}")
    declined = {"amount": 1234, "currency": "usd", "source": "tok_chargeDeclined"}
    step("a decline with a key", CHARGE, "POST", "charges", declined, key="declined")
    step("the decline again", CHARGE, "POST", "charges", declined, key="declined")
    too_small = {"amount": 1, "currency": "usd", "source": "tok_visa"}
    step("refused with a key", CHARGE, "POST", "charges", too_small, key="small")
    step("mended under the same key", CHARGE, "POST", "charges", {**too_small, "amount": 1234}, key="small")
    step("no key of ours", CHARGE, "GET", "charges", auth="")
    step("a key that is wrong", CHARGE, "GET", "charges", auth="nonsense")
    step("the key as a user name", ("object", "has_more"), "GET", "charges?limit=1", auth="basic")


refunds()
charges()
keys()
print(json.dumps(steps, indent=1))
