#!/usr/bin/env python3
"""Drives the dashboard and the portal in a real browser, as a person would, and judges what is visible.

Usage: browser.py BASE_URL KEY OUT_DIR ROOT [PORTAL_URL]

Signs in through the page, creates an invoice, pays it on the provider's payment page, looks at the webhooks, refunds the
payment, makes a backup, looks into it and downloads a file of it (which must be the one below ROOT, where the daemon's folders are), runs, pauses and resumes tasks, makes up for slots of the past, looks at the supervisor's parts. Nothing may be reported on the console, nothing may break the content security policy, and no page of ours may ask
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
    def __init__(self, browser, base, key, out, portal, root):
        self.root = root
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

    def replays_an_event_that_changes_nothing(self):
        balances = "fetch('/api/ledger/balances').then(r => r.json()).then(JSON.stringify)"
        before = self.page.evaluate(balances)
        self.output().get_by_role("button", name=re.compile("^Replay charge.succeeded")).first.click()
        expect(self.output()).to_contain_text("Replay of charge.succeeded")
        expect(self.output()).to_contain_text("nothing is booked twice")
        assert self.page.evaluate(balances) == before, "replaying a processed event changed the ledger"

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
            self.page.get_by_role("button", name=button, exact=True).click()
            expect(self.page.locator(f"#{section} [data-note]")).to_contain_text("Done", timeout=60_000)
        expect(self.page.locator("#backups")).to_contain_text("Proven")
        expect(self.page.locator("#recon")).to_contain_text("matched")

    def runs_a_task(self):
        self.page.get_by_role("button", name="Run heartbeat now").click()
        expect(self.page.locator("#tasks [data-note]")).to_contain_text("heartbeat succeeded", timeout=60_000)

    def task_row(self, name):
        return self.page.locator("#tasks tbody tr").filter(has=self.page.get_by_role("link", name=name, exact=True))

    def shows_the_backups(self):
        self.page.get_by_role("navigation").get_by_role("link", name="Backups").click()
        expect(self.page.get_by_role("heading", name="Backups", exact=True)).to_be_visible()
        figures = self.page.locator("#figures")
        for text in ("Last proof of restore", "Time to restore", "Newest archive", "Reused", "Next due"):
            expect(figures).to_contain_text(text)
        expect(self.page.locator("#archives tbody tr").first).to_contain_text("Passed")
        expect(self.page.locator("#sizes svg.bars rect").first).to_be_attached()
        expect(self.page.locator("#proofs tbody")).to_contain_text("Passed")
        self.page.get_by_role("button", name=re.compile("^Checks: proof of")).first.click()
        expect(self.page.locator("#proofs tr.detail")).to_contain_text("Service level")
        self.page.get_by_role("button", name="Why they stay").click()
        expect(self.page.locator("#archives tbody")).to_contain_text("the last proven archive")
        for text in ("undefined", "NaN", "[object", "Loading"):
            expect(self.page.locator("#main")).not_to_contain_text(text)

    def backs_up_now_and_shows_how_far_it_is(self):
        seen = []
        self.page.expose_function("sawBackup", lambda text: seen.append(text))
        self.page.evaluate("""() => {
            const watch = () => { if (!document.getElementById('going').hidden) sawBackup(document.getElementById('going-text').textContent); };
            new MutationObserver(watch).observe(document.getElementById('going'), { attributes: true, childList: true, subtree: true, characterData: true });
        }""")
        self.page.get_by_role("button", name="Back up now").click()
        expect(self.page.locator("#note")).to_contain_text("restored and compared", timeout=60_000)
        expect(self.page.locator("#going")).to_be_hidden()
        assert seen, "nothing was shown while the backup was made"

    def verifies_an_archive(self):
        self.page.get_by_role("button", name=re.compile("^Verify: ")).first.click()
        expect(self.page.locator("#note")).to_contain_text("is whole", timeout=60_000)
        expect(self.page.locator("#archives tr.detail").first).to_contain_text("Whole, signed")

    def browses_an_archive_and_downloads_one_file(self):
        self.page.get_by_role("button", name=re.compile("^Contents: ")).first.click()
        browser = self.page.locator("#browser")
        expect(browser).to_be_visible()
        expect(browser.locator("tbody")).to_contain_text("database/")
        browser.get_by_role("button", name="logs/", exact=True).click()
        expect(self.page.locator("#crumbs")).to_contain_text("logs")
        expect(browser.locator("tbody")).to_contain_text("payout_recon.json")
        with self.page.expect_download() as started:
            browser.get_by_role("link", name="Download logs/payout_recon.json", exact=True).click()
        taken = pathlib.Path(started.value.path()).read_bytes()
        assert started.value.suggested_filename == "payout_recon.json", started.value.suggested_filename
        live = (self.root / "logs" / "payout_recon.json").read_bytes()
        assert taken == live, f"{len(taken)} bytes were downloaded, not the {len(live)} of the file"
        self.page.locator("#crumbs").get_by_role("button", name="archive").click()
        expect(browser.locator("tbody")).to_contain_text("configs/")

    def shows_what_is_wrong_with_a_backup(self):
        # Nothing is damaged here: the answers are what the daemon says of one that is, and how the page shows it is what is judged.
        answer = self.page.evaluate("fetch('/api/backups?limit=30').then(r => r.json())")
        newest = answer["backups"][0]
        older = [dict(newest, date=f"2026-01-{day:02}", size_bytes=newest["size_bytes"] + day * 9000, reused_bytes=newest["size_bytes"] // 2, took_ms=newest["took_ms"] + 20 * day,
                      full=False, reused_ratio=0.5) for day in range(28, 9, -1)]
        newest.update(state="partial", problems=[{"path": "shop/<b>big</b>.bin", "what": "cannot be read: Input/output error"}])
        older[2].update(proof={"state": "failed", "at": "2026-01-26T00:31:00Z", "error": "files: logs/a.json is not what was archived", "restore_ms": 80})
        older[4].update(present=False, encrypted=True)
        answer.update(backups=[newest, *older], total=20, last_proof=dict(answer["last_proof"], age_s=200_000),
                      unrecorded=[{"date": "2025-12-31", "archive": "backups/daily/backup_2025-12-31.tar.gz", "size_bytes": 12345, "encrypted": False, "made_at": None, "problem": None}])
        alerts = {"ok": True, "count": 1, "next": None, "alerts": [{"name": "backup_proof", "state": "firing", "severity": "critical", "since": "2026-01-26T00:31:00Z",
                  "reason": "the last backup failed its proof: files: logs/a.json is not what was archived"}]}
        self.page.route(re.compile(r"/api/backups\?"), lambda route: route.fulfill(json=answer))
        self.page.route("**/api/alerts", lambda route: route.fulfill(json=alerts))
        expect(self.page.locator("#trouble")).to_contain_text("failed its proof")
        expect(self.page.locator("#figures .text-bad")).to_contain_text("failed its proof")
        archives = self.page.locator("#archives tbody")
        for text in ("Partial", "Failed", "File missing", "Encrypted", "Unrecorded"):
            expect(archives).to_contain_text(text)
        self.page.get_by_role("button", name=re.compile("^1 not whole")).click()
        expect(archives).to_contain_text("shop/<b>big</b>.bin")
        for scheme, width in (("light", 1440), ("dark", 390)):
            self.page.emulate_media(color_scheme=scheme)
            self.page.set_viewport_size({"width": width, "height": 900})
            over = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 1, f"/backups is {over} px too wide at {width} px"
            self.shot(f"backups-trouble-{scheme}-{width}")
        self.page.set_viewport_size({"width": 1440, "height": 900})
        self.page.emulate_media(color_scheme="light")
        self.page.unroute_all(behavior="ignoreErrors")
        expect(self.page.locator("#trouble")).to_be_hidden()

    def shows_the_tasks(self):
        self.page.get_by_role("navigation").get_by_role("link", name="Tasks").click()
        expect(self.page.get_by_role("heading", name="Tasks", exact=True)).to_be_visible()
        expect(self.page.get_by_role("navigation").get_by_role("link", name="Tasks")).to_have_attribute("aria-current", "page")
        expect(self.task_row("heartbeat")).to_contain_text("Says that the daemon lives")
        expect(self.task_row("heartbeat")).to_contain_text("Succeeded")
        expect(self.task_row("daily_backup")).to_contain_text("after payment_recon_nightly")
        for text in ("undefined", "NaN", "[object", "Loading"):
            expect(self.page.locator("#main")).not_to_contain_text(text)
        with self.page.expect_response("**/api/schedule/level?hours=168"):
            self.page.get_by_role("button", name="7 d").click()
        expect(self.page.get_by_role("button", name="7 d")).to_have_attribute("aria-pressed", "true")

    def runs_a_task_from_the_table(self):
        self.page.get_by_role("button", name="Run heartbeat now").click()
        expect(self.page.locator("#note")).to_contain_text("heartbeat succeeded", timeout=60_000)

    def pauses_and_resumes_a_task(self):
        self.page.get_by_role("button", name="Pause slo_guard").click()
        dialog = self.page.get_by_role("dialog", name="Pause slo_guard?")
        expect(dialog).to_be_visible()
        self.shot("pause-dialog", full=False)
        self.page.get_by_role("button", name="Leave it as it is").click()
        expect(dialog).to_be_hidden()
        self.page.get_by_role("button", name="Pause slo_guard").click()
        self.page.get_by_label("Until").select_option("24")
        dialog.get_by_role("button", name="Pause").click()
        expect(dialog).to_be_visible()  # it asks why
        self.page.get_by_label("Reason").fill("A <b>move</b> of the provider")
        dialog.get_by_role("button", name="Pause").click()
        expect(dialog).to_be_hidden()
        expect(self.task_row("slo_guard")).to_contain_text("A <b>move</b> of the provider")
        expect(self.task_row("slo_guard")).to_contain_text("until")
        self.page.get_by_role("button", name="Resume slo_guard").click()
        expect(self.page.get_by_role("button", name="Pause slo_guard")).to_be_visible()
        expect(self.page.locator("#note")).to_contain_text("slo_guard is scheduled again")

    def shows_one_task_with_its_runs(self):
        self.task_row("heartbeat").get_by_role("link", name="heartbeat").click()
        expect(self.page.get_by_role("heading", name="heartbeat", exact=True)).to_be_visible()
        expect(self.page.locator("#policy")).to_contain_text("no retry")
        expect(self.page.locator("#runs tbody tr").first).to_contain_text("Succeeded")
        self.page.get_by_role("button", name=re.compile("^Details of the run")).first.click()
        detail = self.page.locator("#runs tr.detail")
        expect(detail).to_contain_text('"run_id"')
        expect(detail).to_contain_text("Asked for by")
        self.page.get_by_label("Show").select_option("failed")
        expect(self.page.locator("#runs tbody")).to_contain_text("No run in this state")
        self.page.get_by_label("Show").select_option("")
        expect(self.page.locator("#runs tbody tr").first).to_contain_text("Succeeded")

    def makes_up_for_the_past_after_a_preview(self):
        day = time.strftime("%Y-%m-%d", time.gmtime(time.time() - 2 * 86_400))
        self.page.get_by_label("From (UTC)").fill(f"{day}T00:01")
        self.page.get_by_label("To (UTC)").fill(f"{day}T00:03")
        self.page.get_by_role("button", name="Preview").click()
        expect(self.page.locator("#backfill-note")).to_have_text("3 slots in the range: 3 would run, 0 stay as they are.")
        self.page.get_by_role("button", name="Run 3 slots").click()
        expect(self.page.locator("#backfill-note")).to_contain_text("3 slots queued")
        expect(self.page.locator("#runs tbody")).to_contain_text("Backfill")
        self.page.get_by_label("To (UTC)").fill(f"{day}T00:00")
        self.session.expected_status.add(422)
        self.page.get_by_role("button", name="Preview").click()
        expect(self.page.locator("#backfill-note")).to_contain_text("from <= to")
        expect(self.page.locator("#queue")).to_be_hidden()

    def cancels_a_run_and_shows_its_failed_attempts(self):
        # No real task runs for long or fails on demand: the answers are made up, the button's request is what is judged. A look that is on its
        # way when the made-up answers end asks the daemon for a run that it does not have.
        self.session.expected_status.add(404)
        run = {"run_id": "run_x", "task": "heartbeat", "slot": "2026-03-01T00:00:00Z", "state": "running", "reason": None, "trigger": "schedule", "asked_by": None,
               "attempts": 2, "started_at": "2026-03-01T00:00:00Z", "ended_at": None, "duration_ms": None, "lag_ms": 7, "error": None}
        attempt = {"attempt": 1, "state": "failed", "error": "the <b>provider</b> is away", "retryable": True, "started_at": run["slot"], "ended_at": run["slot"]}
        self.page.route("**/api/tasks/heartbeat/runs?*", lambda route: route.fulfill(json={"ok": True, "count": 1, "runs": [run], "next": None}))
        self.page.route("**/api/runs/run_x", lambda route: route.fulfill(json={**run, "ok": True, "failed_attempts": [attempt], "result": None}))
        self.page.route("**/api/runs/run_x/cancel", lambda route: route.fulfill(json={"ok": True, "run_id": "run_x", "state": "cancelling"}))
        self.page.reload()
        slot = "2026-03-01 00:00:00 UTC"
        self.page.get_by_role("button", name=f"Details of the run of {slot}").click()
        expect(self.page.locator("#runs tr.detail")).to_contain_text("the <b>provider</b> is away")
        expect(self.page.locator("#runs tr.detail")).to_contain_text("tried again")
        self.shot("task-attempts", full=False)
        with self.page.expect_request("**/api/runs/run_x/cancel") as sent:
            self.page.get_by_role("button", name=f"Cancel the run of {slot}").click()
        assert sent.value.method == "POST"
        expect(self.page.locator("#note")).to_contain_text("told to end")
        self.page.unroute_all(behavior="ignoreErrors")
        self.page.reload()
        expect(self.page.locator("#runs tbody")).to_contain_text("Backfill")

    def shows_the_money(self):
        self.page.get_by_role("navigation").get_by_role("link", name="Money").click()
        expect(self.page.get_by_role("heading", name="Money", exact=True)).to_be_visible()
        expect(self.page.locator("#figures")).to_contain_text("Payouts balanced")
        expect(self.page.locator("#totals")).to_contain_text("USD")
        self.page.locator("#payouts").get_by_role("button", name=re.compile("^Rows: po_")).last.click()
        expect(self.page.locator("#payouts tr.detail")).to_contain_text("Matched")
        self.page.get_by_role("button", name="Reconcile invoices now").click()
        expect(self.page.locator("#note")).to_contain_text("finance_reconcile succeeded", timeout=60_000)
        expect(self.page.locator("#finance tbody")).to_contain_text("USD")
        for text in ("undefined", "NaN", "[object", "Loading"):
            expect(self.page.locator("#main")).not_to_contain_text(text)
        for what, column in (("exceptions", "explanation"), ("payouts", "sum_net"), ("rows", "balance_transaction_id"), ("totals", "unexplained")):
            csv = self.page.request.get(f"{self.base}/api/recon/export?what={what}")
            assert csv.status == 200 and csv.headers["content-type"].startswith("text/csv") and column in csv.text().splitlines()[0], f"{what}: {csv.status}"

    def decides_about_an_exception(self):
        row = self.page.locator("#exceptions tbody tr").filter(has_text="Missing in ledger").first
        row.get_by_role("button", name=re.compile("^Details")).click()
        expect(self.page.locator("#exceptions tr.detail")).to_contain_text("What to do")
        self.shot("money-exception", full=False)
        row.get_by_role("button", name=re.compile("^Acknowledge")).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label("Reason").fill("   ")
        dialog.get_by_role("button", name="Acknowledge").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Say why")
        dialog.get_by_label("Reason").fill("the provider <b>was</b> asked")
        dialog.get_by_role("button", name="Acknowledge").click()
        expect(self.page.locator("#note")).to_contain_text("acknowledged")
        self.page.get_by_label("State").select_option("acknowledged")
        row = self.page.locator("#exceptions tbody tr").filter(has_text="Missing in ledger").first
        expect(row).to_contain_text("Acknowledged")
        expect(self.page.locator("#exceptions tr.detail")).to_contain_text("the provider <b>was</b> asked")
        row.get_by_role("button", name=re.compile("^Reopen")).click()
        dialog.get_by_label("Reason").fill("too early")
        dialog.get_by_role("button", name="Reopen").click()
        expect(self.page.locator("#exceptions tbody")).to_contain_text("None in this state")
        self.page.get_by_label("State").select_option("open")
        expect(self.page.locator("#exceptions tbody")).to_contain_text("Missing in ledger")

    def looks_for_missing_events_and_makes_a_trial_payment(self):
        self.page.get_by_role("button", name="Look now").click()
        expect(self.page.locator("#note")).to_contain_text("compared with what came in", timeout=60_000)
        expect(self.page.locator("#gaps")).to_contain_text("compared")
        self.page.get_by_role("button", name="Make one now").click()
        expect(self.page.locator("#note")).to_contain_text("from end to end", timeout=60_000)
        expect(self.page.locator("#canary")).to_contain_text("Passed")

    def shows_the_parts(self):
        self.page.get_by_role("navigation").get_by_role("link", name="Parts").click()
        expect(self.page.get_by_role("heading", name="Parts", exact=True)).to_be_visible()
        for part in ("timer", "gateway", "ingest"):
            tile = self.page.locator(f'[data-part="{part}"]')
            expect(tile).to_contain_text("Running")
            expect(tile).to_contain_text("Generation")
        for text in ("undefined", "NaN", "[object", "Loading"):
            expect(self.page.locator("#main")).not_to_contain_text(text)

    def sends_a_test_message(self):
        self.page.goto(self.base + "/alerts")
        channels = self.page.locator("#channels")
        for text in ("1 on", "nothing was sent yet", "It needs SLACK_WEBHOOK_URL"):
            expect(channels).to_contain_text(text)
        self.page.get_by_role("button", name="Send a test over webhook").click()
        expect(self.page.locator("#note")).to_contain_text("It was taken: look whether it arrived over webhook.")
        expect(channels).to_contain_text("last taken")

    def releases_a_part_that_was_put_aside(self):
        # Nothing breaks a part here: the answer is what the supervisor says of one, and the button's request is what is judged.
        answer = self.page.evaluate("fetch('/api/supervisor/status').then(r => r.json())")
        part = next(child for child in answer["tree"] if child["name"] == "slo")
        part.update(state="quarantined", down="5 failures in 60 s", quarantined_until="2099-01-01T00:00:00Z", mailbox_depth=3, last_failure="it <i>broke</i>",
                    last_failure_at="2026-03-01T00:00:00Z", in_handler_ms=None, handler_longest_ms=12)
        self.page.route("**/api/supervisor/status", lambda route: route.fulfill(json=answer))
        self.page.route("**/api/supervisor/slo/release", lambda route: route.fulfill(json={"ok": True, "child": "slo"}))
        tile = self.page.locator('[data-part="slo"]')
        for text in ("Put aside", "5 failures in 60 s", "it <i>broke</i>", "Messages waiting"):
            expect(tile).to_contain_text(text)
        self.shot("parts-put-aside", full=False)
        with self.page.expect_request("**/api/supervisor/slo/release") as sent:
            self.page.get_by_role("button", name="Release slo").click()
        assert sent.value.method == "POST"
        expect(self.page.locator("#note")).to_contain_text("slo is started again")
        self.page.unroute_all(behavior="ignoreErrors")
        expect(tile).to_contain_text("Running")

    def pages_look_right_in_light_dark_and_on_a_phone(self):
        for name, path in (("money", "/money"), ("alerts", "/alerts"), ("levels", "/levels"), ("backups", "/backups"), ("tasks", "/tasks"), ("task", "/tasks/heartbeat"), ("parts", "/parts"), ("incidents", "/incidents")):
            self.page.goto(self.base + path)
            expect(self.page.locator("#health-text")).to_have_text("Healthy")
            for text in ("undefined", "NaN", "[object"):
                expect(self.page.locator("#main")).not_to_contain_text(text)
            if name == "backups":
                self.page.get_by_role("button", name=re.compile("^Contents: ")).first.click()
                self.page.locator("#browser").get_by_role("button", name="logs/", exact=True).click()
                expect(self.page.locator("#browser")).to_contain_text("payout_recon.json")
            if name == "task":
                self.page.get_by_role("button", name=re.compile("^Details of the run")).first.click()
                expect(self.page.locator("#runs tr.detail")).to_be_visible()
            for scheme, width in (("light", 1440), ("dark", 1440), ("light", 820), ("dark", 390), ("light", 360)):
                self.page.emulate_media(color_scheme=scheme)
                self.page.set_viewport_size({"width": width, "height": 900})
                wide = self.page.evaluate("""() => {
                    const of = (e) => e.scrollWidth - e.clientWidth;
                    const wide = [document.documentElement, ...document.querySelectorAll('.panel, .tile')].find((e) => of(e) > 1);
                    if (!wide) return null;
                    const end = wide.getBoundingClientRect().right;
                    const out = [...wide.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > end + 1).at(-1);
                    return `${of(wide)} px: ${(out ?? wide).outerHTML.slice(0, 300)}`;
                }""")
                assert wide is None, f"{path} is too wide at {width} px by {wide}"
                self.shot(f"{name}-{scheme}-{width}")
            self.reaches_everything_by_keyboard_with_names()
            self.page.set_viewport_size({"width": 1440, "height": 900})
            self.page.emulate_media(color_scheme="light")
        answer = self.page.request.get(self.base + "/tasks/no_such_task")
        assert answer.status == 404, f"a task that is not there answers {answer.status}"
        self.page.goto(self.base + "/")
        expect(self.page.locator("#health-text")).to_have_text("Healthy")

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

    def asks_for_the_key_on_every_page(self):
        for path in ("/money", "/alerts", "/levels", "/backups", "/tasks", "/tasks/heartbeat", "/parts", "/incidents"):
            self.page.goto(self.base + path)
            expect(self.page.get_by_role("heading", name="Sign in")).to_be_visible()

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
                  self.creates_an_invoice, self.pays_it_on_the_payment_page, self.shows_the_webhooks,
                  self.replays_an_event_that_changes_nothing, self.asks_before_it_refunds,
                  self.refunds_with_both_safeguards, self.says_that_a_second_refund_is_refused, self.backs_up_and_reconciles,
                  self.runs_a_task, self.looks_right_in_light_dark_and_on_a_phone, self.reaches_everything_by_keyboard_with_names,
                  self.shows_the_money, self.decides_about_an_exception, self.looks_for_missing_events_and_makes_a_trial_payment,
                  self.shows_the_backups, self.backs_up_now_and_shows_how_far_it_is, self.verifies_an_archive, self.browses_an_archive_and_downloads_one_file,
                  self.shows_what_is_wrong_with_a_backup,
                  self.shows_the_tasks, self.runs_a_task_from_the_table, self.pauses_and_resumes_a_task, self.shows_one_task_with_its_runs,
                  self.makes_up_for_the_past_after_a_preview, self.cancels_a_run_and_shows_its_failed_attempts, self.shows_the_parts, self.releases_a_part_that_was_put_aside, self.sends_a_test_message,
                  self.pages_look_right_in_light_dark_and_on_a_phone, self.says_when_the_daemon_does_not_answer, self.is_quiet,
                  self.signs_out, self.asks_for_the_key_on_every_page]
        if self.portal:
            checks += [self.shows_the_customer_their_invoices, self.refuses_a_changed_link_without_saying_why]
        for check in checks:
            self.check(check.__name__.replace("_", " "), check)
        return self.failed


def main():
    if len(sys.argv) not in (5, 6):
        print(__doc__, file=sys.stderr)
        return 2
    base, key, out = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
        run = Run(browser, base, key, out, sys.argv[5] if len(sys.argv) == 6 else None, pathlib.Path(sys.argv[4]))
        failed = run.all()
        browser.close()
    print(f"{run.passed} passed, {run.failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
