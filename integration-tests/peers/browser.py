#!/usr/bin/env python3
"""Drives the dashboard and the portal in a real browser, as a person would, and judges what is visible.

Usage: browser.py BASE_URL KEY OUT_DIR [PORTAL_URL]

Signs in through the page, creates an invoice, pays it on the provider's payment page, looks at the webhooks, refunds the
payment. Nothing may be reported on the console, nothing may break the content security policy, and no page of ours may ask
another host for anything. Screenshots go to OUT_DIR. Prints "N passed, M failed"; the exit code says the same.
"""
import pathlib
import re
import sys
import time
import traceback
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"]
WATCH = "document.addEventListener('securitypolicyviolation', e => console.error('CSP ' + e.violatedDirective + ' ' + e.blockedURI));"
PATIENCE_MS = 20_000


class Session:
    """One browser page of ours, with everything it should not do written down."""

    def __init__(self, browser, base, width=1440, height=900, scheme="light", **options):
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.own = urlsplit(base).netloc
        self.complaints = []
        self.expected_status = set()
        if options.get("java_script_enabled", True):
            self.page.add_init_script(WATCH)
        self.page.on("console", self.on_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        self.page.on("request", self.on_request)

    def on_console(self, message):
        if message.type not in ("error", "warning"):
            return
        # The browser itself notes every answer of 400 and above; those a test asks for are not complaints.
        status = re.search(r"status of (\d+)", message.text)
        if not (status and int(status[1]) in self.expected_status):
            self.complaints.append(f"console {message.type}: {message.text}")

    def on_request(self, request):
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and url.netloc != self.own:
            self.complaints.append(f"request to another host: {request.url}")

    def assert_quiet(self):
        assert not self.complaints, "; ".join(self.complaints)


class Run:
    def __init__(self, browser, base, key, out, portal):
        self.browser, self.base, self.key, self.out, self.portal = browser, base.rstrip("/"), key, out, portal
        self.passed, self.failed = 0, 0
        self.session = Session(browser, base)
        self.page = self.session.page
        self.paid_before = None

    def check(self, name, test):
        try:
            test()
            self.passed += 1
            print(f"ok      {name}", flush=True)
        except Exception as error:
            self.failed += 1
            print(f"FAILED  {name}: {str(error).split('Aria snapshot')[0].strip()}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc()
            try:
                self.page.screenshot(path=str(self.out / f"failed-{self.failed}.png"))
            except Exception:
                pass  # the page itself may be what is broken

    def shot(self, name, page=None, full=True):
        page = page or self.page
        page.evaluate("window.scrollTo(0, 0)")
        page.wait_for_timeout(400)  # colours fade for a moment after a change of scheme
        page.screenshot(path=str(self.out / f"{name}.png"), full_page=full)

    def output(self):
        return self.page.locator("#output .entry").last

    # What is checked, in order.

    def asks_for_the_key(self):
        self.page.goto(self.base + "/")
        expect(self.page.get_by_role("heading", name="Sign in")).to_be_visible()
        expect(self.page.get_by_text("TEST MODE", exact=True)).to_be_visible()
        self.shot("login")

    def refuses_a_wrong_key(self):
        self.page.get_by_label("Dashboard key").fill("not-the-key")
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("alert")).to_contain_text("not known")
        assert "not-the-key" not in self.page.url and "not-the-key" not in self.page.content()
        self.shot("login-wrong")

    def signs_in(self):
        self.page.get_by_label("Dashboard key").fill(self.key)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("heading", name="Payments")).to_be_visible()
        expect(self.page.get_by_text("TEST MODE", exact=True)).to_be_visible()
        expect(self.page.locator("#health-text")).to_have_text("Healthy")
        assert self.key not in self.page.content()
        assert not self.page.evaluate("document.cookie"), "the session cookie can be read by scripts"

    def fills_the_tiles(self):
        for tile in ("slo", "backups", "recon", "alerts", "tasks", "supervisor"):
            body = self.page.locator(f"#{tile} [data-body]")
            expect(body).not_to_contain_text("Loading")
            expect(body).not_to_contain_text("undefined")
            expect(body).not_to_contain_text("NaN")
            expect(body).not_to_contain_text("[object")
        expect(self.page.locator("#tasks")).to_contain_text("payout_recon")
        expect(self.page.locator("#supervisor")).to_contain_text("timer")
        expect(self.page.locator("#notice")).to_be_hidden()
        expect(self.page.locator("#updated")).not_to_have_text("never")

    def says_which_field_is_wrong(self):
        self.page.get_by_label("Amount").fill("12.345")
        self.page.get_by_role("button", name="Create Test Invoice").click()
        expect(self.output()).to_contain_text("at most 2 decimals")
        self.page.get_by_label("Amount").fill("12.00")

    def newest_payment(self):
        answer = self.page.evaluate("fetch('/api/payments/webhooks?type=charge.succeeded&limit=1').then(r => r.json())")
        return answer["webhooks"][0]["object_id"] if answer["webhooks"] else None

    def creates_an_invoice(self):
        self.paid_before = self.newest_payment()
        self.page.get_by_label("Customer’s e-mail").fill("browser@example.com")
        self.page.get_by_role("button", name="Create Test Invoice").click()
        expect(self.output()).to_contain_text("(open) for 12.00 USD")
        expect(self.output()).to_contain_text("Invoice in_")
        self.output().get_by_text("JSON", exact=True).click()
        expect(self.output().locator("pre")).to_contain_text('"invoice_id"')
        self.output().get_by_text("JSON", exact=True).click()

    def pays_it_on_the_payment_page(self):
        url = self.output().get_by_role("link", name="Open the payment page").get_attribute("href")
        customer = self.browser.new_context()
        page = customer.new_page()
        page.goto(url)
        page.get_by_role("button", name=re.compile("pay", re.I)).click()
        page.wait_for_load_state()
        page.screenshot(path=str(self.out / "paid.png"))
        customer.close()
        until = time.monotonic() + PATIENCE_MS / 1000
        while self.newest_payment() in (None, self.paid_before) and time.monotonic() < until:
            self.page.wait_for_timeout(200)
        newest = self.newest_payment()
        assert newest and newest != self.paid_before, "the webhook of the payment did not arrive"

    def shows_the_webhooks(self):
        self.page.get_by_role("button", name="View Recent Webhooks").click()
        expect(self.output()).to_contain_text("newest")
        expect(self.output().locator("table")).to_contain_text("charge.succeeded")
        expect(self.output().locator("table")).to_contain_text("processed")

    def asks_before_it_refunds(self):
        self.page.get_by_role("button", name="Process Refund").click()
        question = self.page.locator("#refund-question")
        expect(question).to_contain_text("12.00 USD")
        expect(question).to_contain_text(self.newest_payment())
        self.shot("refund-question", full=False)
        before = self.page.locator("#output .entry").count()
        self.page.get_by_role("button", name="Cancel").click()
        expect(question).to_be_hidden()
        assert self.page.locator("#output .entry").count() == before, "cancelling did something"

    def refunds_with_both_safeguards(self):
        self.page.get_by_role("button", name="Process Refund").click()
        with self.page.expect_request("**/api/payments/refund-last") as sent:
            self.page.get_by_role("button", name="Refund 12.00 USD").click()
        assert sent.value.post_data_json["expected_payment_id"], "no expected_payment_id"
        assert len(sent.value.headers["idempotency-key"]) >= 32, "no Idempotency-Key"
        expect(self.output()).to_contain_text(re.compile(r"Refund re_\S+ \((succeeded|pending)\) of 12.00 USD"))
        expect(self.page.locator("#refund-confirm")).to_be_hidden()

    def says_that_a_second_refund_is_refused(self):
        self.session.expected_status.add(409)
        self.page.get_by_role("button", name="Process Refund").click()
        self.page.locator("#refund-yes").click()
        expect(self.output()).to_contain_text("The refund was refused")
        expect(self.output()).not_to_contain_text("status 409")

    def backs_up_and_reconciles(self):
        for section, button in (("backups", "Back up now"), ("recon", "Reconcile now")):
            self.page.get_by_role("button", name=button).click()
            expect(self.page.locator(f"#{section} [data-note]")).to_contain_text("Done", timeout=60_000)
        expect(self.page.locator("#backups")).to_contain_text("Proven")
        expect(self.page.locator("#recon")).to_contain_text("matched")

    def runs_a_task(self):
        self.page.get_by_role("button", name="Run heartbeat now").click()
        expect(self.page.locator("#tasks [data-note]")).to_contain_text("heartbeat succeeded", timeout=60_000)

    def looks_right_in_light_dark_and_on_a_phone(self):
        self.shot("dashboard-light")
        self.page.emulate_media(color_scheme="dark")
        self.shot("dashboard-dark")
        for width in (390, 360):
            self.page.set_viewport_size({"width": width, "height": 844})
            over = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, f"the page is {over} px too wide at {width} px"
            self.page.emulate_media(color_scheme="light" if width == 390 else "dark")
            self.shot(f"dashboard-phone-{width}")
        self.page.set_viewport_size({"width": 1440, "height": 900})
        self.page.emulate_media(color_scheme="light")

    def reaches_everything_by_keyboard_with_names(self):
        nameless = self.page.evaluate("""() => [...document.querySelectorAll('button, a[href], input, select')]
            .filter(e => e.offsetParent && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)""")
        assert not nameless, f"controls without a name: {nameless}"

    def says_when_the_daemon_does_not_answer(self):
        other = Session(self.browser, self.base)
        other.context.add_cookies(self.session.context.cookies())
        other.page.goto(self.base + "/")
        expect(other.page.locator("#health-text")).to_have_text("Healthy")
        other.context.set_offline(True)
        expect(other.page.locator("#notice")).to_contain_text("EchoPilot does not answer")
        expect(other.page.locator("#health-text")).to_have_text("No answer")
        self.shot("no-answer", other.page, full=False)
        other.context.set_offline(False)
        expect(other.page.locator("#notice")).to_be_hidden()
        other.context.close()

    def is_quiet(self):
        self.session.assert_quiet()

    def signs_out(self):
        self.page.get_by_role("button", name="Sign out").click()
        expect(self.page.get_by_role("heading", name="Sign in")).to_be_visible()
        status = self.page.request.get(self.base + "/api/overview").status
        assert status == 401, f"signed out, yet /api/overview answers {status}"

    def shows_the_customer_their_invoices(self):
        visitor = Session(self.browser, self.base, java_script_enabled=False)
        answer = visitor.page.goto(self.portal)
        assert answer.status == 200, f"the portal answers {answer.status}"
        policy = answer.headers.get("content-security-policy", "")
        assert "default-src 'none'" in policy and "script-src" not in policy, policy
        assert answer.headers.get("referrer-policy") == "no-referrer" and answer.headers.get("cache-control") == "no-store"
        expect(visitor.page.get_by_role("heading", name="Your invoices")).to_be_visible()
        expect(visitor.page.get_by_text("TEST MODE", exact=True)).to_be_visible()
        self.shot("portal", visitor.page)
        visitor.page.emulate_media(color_scheme="dark")
        visitor.page.set_viewport_size({"width": 390, "height": 844})
        self.shot("portal-phone-dark", visitor.page)
        visitor.assert_quiet()
        visitor.context.close()

    def refuses_a_changed_link_without_saying_why(self):
        texts = set()
        changed = self.portal[:-1] + ("0" if self.portal[-1] != "0" else "1")
        for url in (changed, self.base + "/portal", self.base + "/portal?email=a%40example.com&expires=1&sig=" + "0" * 64):
            visitor = Session(self.browser, self.base)
            visitor.expected_status.add(403)
            assert visitor.page.goto(url).status == 403
            texts.add(visitor.page.locator("main").inner_text())
            self.shot("portal-refused", visitor.page)
            visitor.assert_quiet()
            visitor.context.close()
        assert len(texts) == 1, f"refusals differ: {texts}"

    def all(self):
        checks = [self.asks_for_the_key, self.refuses_a_wrong_key, self.signs_in, self.fills_the_tiles, self.says_which_field_is_wrong,
                  self.creates_an_invoice, self.pays_it_on_the_payment_page, self.shows_the_webhooks, self.asks_before_it_refunds,
                  self.refunds_with_both_safeguards, self.says_that_a_second_refund_is_refused, self.backs_up_and_reconciles,
                  self.runs_a_task, self.looks_right_in_light_dark_and_on_a_phone, self.reaches_everything_by_keyboard_with_names,
                  self.says_when_the_daemon_does_not_answer, self.is_quiet, self.signs_out]
        if self.portal:
            checks += [self.shows_the_customer_their_invoices, self.refuses_a_changed_link_without_saying_why]
        for check in checks:
            self.check(check.__name__.replace("_", " "), check)
        return self.failed


def main():
    if len(sys.argv) not in (4, 5):
        print(__doc__, file=sys.stderr)
        return 2
    base, key, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        run = Run(browser, base, key, out, sys.argv[4] if len(sys.argv) == 5 else None)
        failed = run.all()
        browser.close()
    print(f"{run.passed} passed, {run.failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
