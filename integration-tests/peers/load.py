"""Load from outside: delivers signed webhooks as a provider does (each until it is acknowledged) and reads from every part, until told to stop.

Usage: load.py CONTROL SECRET
CONTROL is a folder. Read there: `address` (JSON: address, sandbox, key; it changes when the daemon is started anew), `phase` (a word that
names what is being done to the daemon), `stop` (its presence ends the load). Written there: `acknowledged` (one event id and charge per
line, written once the 200 was read) and, at the end, `summary.json`: per phase and part how many reads were answered and how many not.
"""

import hashlib
import hmac
import http.client
import json
import os
import sys
import threading
import time

CONTROL, SECRET = sys.argv[1], sys.argv[2]
WRITERS, PAUSE_S, LIMIT_S, MOST = 3, 0.012, 900, 60_000
READS = {
    "slo": "/api/slo/status",
    "alert": "/api/alerts",
    "timer": "/api/tasks/heartbeat/next",
    "insight": "/api/overview",
    "recon": "/api/recon/exceptions",
    "backup": "/api/backups",
    "gateway": "/healthz",
}
lock = threading.Lock()
acknowledged = open(os.path.join(CONTROL, "acknowledged"), "a", buffering=1)
summary, writes = {}, {"sent": 0, "acknowledged": 0, "unavailable": 0, "no_answer": 0}
begun = time.monotonic()


def control(name):
    try:
        with open(os.path.join(CONTROL, name)) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def stopped():
    return os.path.exists(os.path.join(CONTROL, "stop")) or time.monotonic() - begun > LIMIT_S


def ask(method, path, body=None, headers=None):
    """The status, or None if there was no answer. A connection of its own: what is asked must not depend on what was before."""
    where = json.loads(control("address"))
    connection = http.client.HTTPConnection(where["address"], timeout=10)
    try:
        connection.request(method, path, body, {"x-dash-key": where["key"], **(headers or {})})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def deliver(event_id, charge):
    now = int(time.time())
    body = json.dumps({
        "id": event_id, "object": "event", "type": "charge.succeeded", "created": now, "livemode": False, "api_version": "2025-01-01",
        "data": {"object": {"id": charge, "object": "charge", "amount": 100, "amount_captured": 100, "currency": "usd", "status": "succeeded",
                            "captured": True, "paid": True, "created": now, "livemode": False, "payment_intent": None, "customer": None}},
    }).encode()
    signature = hmac.new(SECRET.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return ask("POST", "/api/payments/webhook", body, {"stripe-signature": f"t={now},v1={signature}", "content-type": "application/json"})


def write(thread):
    n = 0
    while not stopped() and n < MOST:
        n += 1
        event_id, charge = f"evt_{thread}_{n}", f"ch_{thread}_{n}"
        while not stopped():
            status = deliver(event_id, charge)
            with lock:
                writes["sent"] += 1
                writes["acknowledged" if status == 200 else "no_answer" if status is None else "unavailable"] += 1
                if status == 200:
                    acknowledged.write(f"{event_id} {charge}\n")
            if status not in (200, 503, None):
                print(f"a webhook was answered {status}", file=sys.stderr)
                os._exit(1)
            if status == 200:
                break
            time.sleep(0.02)
        time.sleep(PAUSE_S)


def read():
    while not stopped():
        for part, path in READS.items():
            before = control("phase")
            status = ask("GET", path)
            if before == control("phase"):  # an answer across two phases belongs to neither
                with lock:
                    counts = summary.setdefault(before, {}).setdefault(part, [0, 0])
                    counts[0 if status == 200 else 1] += 1
            time.sleep(0.002)


threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)] + [threading.Thread(target=read)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open(os.path.join(CONTROL, "summary.json"), "w") as file:
    json.dump({"reads": summary, "writes": writes}, file)
