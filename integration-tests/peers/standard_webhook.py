"""Verifies a delivery with the official library of the Standard Webhooks specification.

usage: standard_webhook.py SECRET ID TIMESTAMP SIGNATURE     the body on standard input; prints `valid` or why not
"""

import sys

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError


def main():
    secret, identity, timestamp, signature = sys.argv[1:]
    headers = {"webhook-id": identity, "webhook-timestamp": timestamp, "webhook-signature": signature}
    try:
        Webhook(secret).verify(sys.stdin.buffer.read(), headers)
        print("valid")
    except WebhookVerificationError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
