"""Signs or verifies a webhook with the provider's official Python client.

usage: signature.py sign SECRET [TIMESTAMP]     the body on standard input; prints the header
       signature.py verify HEADER SECRET        the body on standard input; prints `valid` or why not
"""

import sys

import stripe


def main():
    mode, first, *rest = sys.argv[1:]
    body = sys.stdin.buffer.read().decode()
    if mode == "sign":
        timestamp = int(rest[0]) if rest else None
        print(stripe.WebhookSignature.generate_signature_header(body, first, timestamp))
        return
    try:
        stripe.Webhook.construct_event(body, first, rest[0])
        print("valid")
    except stripe.SignatureVerificationError as error:
        print(str(error).splitlines()[0])


if __name__ == "__main__":
    main()
