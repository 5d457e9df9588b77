#!/usr/bin/env python3
"""Looks at the page of incidents in a real browser: light, dark and at a phone's width.

Usage: incidents_page.py BASE_URL KEY OUT_DIR

Signs in, opens the one incident that is there, and sees its payments, findings, lines and timeline. Nothing may be reported on the
console and nothing may be wider than the screen. Screenshots go to OUT_DIR.
"""
import pathlib
import sys

from playwright.sync_api import expect, sync_playwright

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
base, key, out = sys.argv[1].rstrip("/"), sys.argv[2], pathlib.Path(sys.argv[3])


def look(browser, name, width, height, scheme):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    complaints = []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.goto(base + "/")
    page.get_by_label("Dashboard key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    page.goto(base + "/incidents")
    opened = page.locator("#open [data-incident]")
    expect(opened).to_have_count(1)
    opened.get_by_role("button").click()
    one = page.locator("#one")
    expect(one).to_contain_text("Timeline")
    expect(one).to_contain_text("[e-mail]")
    expect(one).not_to_contain_text("ana@shop.example")
    one.get_by_role("button", name="Close").click()
    expect(page.locator("#close-dialog")).to_be_visible()
    page.locator("#close-no").click()
    page.screenshot(path=out / f"incidents-{name}.png", full_page=True)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name}: {wide} px too wide"
    assert not complaints, f"{name}: {complaints}"
    context.close()


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS)
    look(browser, "light", 1440, 900, "light")
    look(browser, "dark", 1440, 900, "dark")
    look(browser, "phone", 390, 844, "light")
    browser.close()
print("3 passed")
