//! A business with a known truth, faults put into it by name, and the exact exceptions they must cause; the balance identity from its
//! first run on; independence of order; and the states and sums that always hold.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

const DAY: i64 = 86_400;
const NOW: i64 = 1_700_000_000;
const FROM: i64 = NOW - 35 * DAY;
const CUSTOMERS: usize = 22;
const CURRENCIES: [&str; 3] = ["usd", "eur", "jpy"];
const FAULTS: usize = 19;

/// A pseudo-random sequence: the same seed gives the same business.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % below).unwrap()
    }
}

struct Business {
    input: Input,
    /// What the provider had before the first movement that we know.
    opening: i64,
    /// For ids.
    made: usize,
}

impl Business {
    /// Six paid invoices per customer, and everything else that is in order: refunds with a credit note, disputes that were won, nothing
    /// due, paid elsewhere, open and not due, void, uncollectible, a trial payment, a sale without invoice, a decline, payouts.
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let input = Input { now: NOW, window_from: FROM, grace_s: 900, complete: true, ..Input::default() };
        let mut it = Self { input, opening: 0, made: 0 };
        for customer in 0..CUSTOMERS {
            for n in 1..=6 {
                let at = FROM + DAY + n * 4 * DAY + dice.roll(80_000);
                it.paid_invoice(customer, n, 1000 + dice.roll(50_000), at);
            }
        }
        it.customs(&mut dice);
        it
    }

    fn customs(&mut self, dice: &mut Dice) {
        let at = NOW - 2 * DAY - dice.roll(40_000);
        // The last customer is in order with everything that is unusual.
        let c = CUSTOMERS - 1;
        let refunded = self.invoice(c, 1).clone();
        self.refund(c, 1, 400);
        self.edit(c, 1).credited = 400;
        assert!(refunded.amount_paid > 400);
        self.dispute(c, 2, "won");
        self.invoice_only(c, 7, "paid", 0, at);
        self.invoice_only(c, 8, "paid", 700, at);
        (self.edit(c, 8).off_provider, self.edit(c, 8).amount_paid, self.edit(c, 8).amount_remaining) = (700, 700, 0);
        self.invoice_only(c, 9, "open", 123_456, at);
        self.edit(c, 9).due_date = Some(NOW + DAY);
        self.invoice_only(c, 10, "void", 800, at);
        self.invoice_only(c, 11, "uncollectible", 900, at);
        self.paid_invoice(c, 12, 100, at);
        self.refund(c, 12, 100);
        self.charge_of(c, 12).trial = true;
        self.charge("ch_sale", c, 2222, at, None);
        self.input.charges.push(Charge { id: "ch_declined".into(), status: "failed".into(), currency: "usd".into(), ..Charge::default() });
        self.input.invoices.push(Invoice {
            id: "in_draft".into(),
            status: "draft".into(),
            currency: "usd".into(),
            created: at,
            ..Invoice::default()
        });
        // Two deliveries may still be on their way.
        self.charge("ch_young", c, 50, NOW - 60, None);
        self.input.ledger.retain(|e| e.source != "ch_young");
        self.booked("payout", "po_1", -5000, "usd", at);
        self.booked("payout", "po_2", -700, "eur", at);
        self.booked("payout_reversal", "po_2", 700, "eur", at + DAY);
        self.movement("fee", None, -77, 0, "usd", at);
        self.input.in_transit.insert("usd".into(), 5000);
    }

    fn paid_invoice(&mut self, customer: usize, n: i64, amount: i64, at: i64) {
        self.invoice_only(customer, n, "paid", amount, at);
        let invoice = self.edit(customer, n);
        (invoice.amount_paid, invoice.amount_remaining) = (amount, 0);
        let (id, ch) = (invoice.id.clone(), charge_id(customer, n));
        self.charge(&ch, customer, amount, at, Some(&id));
    }

    fn invoice_only(&mut self, customer: usize, n: i64, status: &str, amount: i64, at: i64) {
        let (id, currency) = (invoice_id(customer, n), CURRENCIES[customer % 3]);
        let number = Some(format!("C{customer}-{n:04}"));
        self.input.invoices.push(Invoice {
            id: id.clone(),
            number: number.clone(),
            customer: Some(format!("cus_{customer}")),
            status: status.into(),
            currency: currency.into(),
            amount_due: amount,
            amount_remaining: amount,
            created: at,
            finalized_at: Some(at),
            changed_at: at,
            ..Invoice::default()
        });
        self.input.local.push(LocalInvoice {
            id,
            number,
            status: status.into(),
            currency: currency.into(),
            amount_due: amount,
            seen_at: at,
        });
    }

    fn charge(&mut self, id: &str, customer: usize, amount: i64, at: i64, invoice: Option<&str>) {
        let (currency, intent) = (CURRENCIES[customer % 3], format!("pi_{id}"));
        self.input.charges.push(Charge {
            id: id.into(),
            customer: Some(format!("cus_{customer}")),
            payment_intent: Some(intent.clone()),
            currency: currency.into(),
            captured: amount,
            status: "succeeded".into(),
            created: at,
            ..Charge::default()
        });
        if let Some(invoice) = invoice {
            self.input.payments.push(InvoicePayment {
                id: format!("inpay_{id}"),
                invoice: invoice.into(),
                payment_intent: Some(intent),
                charge: None,
                amount_paid: amount,
                status: "paid".into(),
            });
        }
        self.movement("charge", Some(id), amount, 30 + amount / 50, currency, at);
        self.entry("charge", id, amount, currency, at);
    }

    /// On both sides.
    fn booked(&mut self, kind: &str, source: &str, amount: i64, currency: &str, at: i64) {
        self.movement(kind, Some(source), amount, 0, currency, at);
        self.entry(kind, source, amount, currency, at);
    }

    fn movement(&mut self, kind: &str, source: Option<&str>, amount: i64, fee: i64, currency: &str, at: i64) {
        self.made += 1;
        let id = format!("txn_{}", self.made);
        let source = source.map(str::to_owned);
        let m = Movement { id, kind: kind.into(), source, amount, fee, currency: currency.into(), created: at, presentment: None };
        self.input.movements.push(m);
    }

    fn entry(&mut self, kind: &str, source: &str, amount: i64, currency: &str, at: i64) {
        self.made += 1;
        let (id, kind) = (format!("le_{}", self.made), kind.to_owned());
        self.input.ledger.push(Entry { id, kind, source: source.into(), amount, currency: currency.into(), at });
    }

    fn refund(&mut self, customer: usize, n: i64, amount: i64) {
        let (ch, re, at) = (charge_id(customer, n), format!("re_{customer}_{n}"), NOW - DAY);
        let currency = CURRENCIES[customer % 3];
        self.charge_of(customer, n).refunded += amount;
        let (charge, status) = (Some(ch), "succeeded".to_owned());
        self.input.refunds.push(Refund { id: re.clone(), charge, amount, currency: currency.into(), status, created: at });
        self.booked("refund", &re, -amount, currency, at);
    }

    fn dispute(&mut self, customer: usize, n: i64, status: &str) {
        let (ch, dp, at) = (charge_id(customer, n), format!("dp_{customer}_{n}"), NOW - DAY);
        let (amount, currency) = (self.charge_of(customer, n).captured, CURRENCIES[customer % 3]);
        self.movement("dispute", Some(&dp), -amount, 1500, currency, at);
        self.entry("dispute", &dp, -amount, currency, at);
        if status == "won" {
            self.booked("dispute_reversal", &dp, amount, currency, at + 60);
        }
        let dispute = Dispute { id: dp, charge: Some(ch), amount, currency: currency.into(), status: status.into(), created: at };
        self.input.disputes.push(dispute);
    }

    fn invoice(&mut self, customer: usize, n: i64) -> &Invoice {
        self.edit(customer, n)
    }

    fn edit(&mut self, customer: usize, n: i64) -> &mut Invoice {
        let id = invoice_id(customer, n);
        self.input.invoices.iter_mut().find(|i| i.id == id).unwrap()
    }

    fn local(&mut self, customer: usize, n: i64) -> &mut LocalInvoice {
        let id = invoice_id(customer, n);
        self.input.local.iter_mut().find(|l| l.id == id).unwrap()
    }

    fn charge_of(&mut self, customer: usize, n: i64) -> &mut Charge {
        let id = charge_id(customer, n);
        self.input.charges.iter_mut().find(|c| c.id == id).unwrap()
    }

    fn row(&mut self, source: &str) -> &mut Entry {
        self.input.ledger.iter_mut().find(|e| e.source == source).unwrap()
    }

    /// As if it had never been.
    fn forget(&mut self, charge: &str) {
        let intent = format!("pi_{charge}");
        self.input.charges.retain(|c| c.id != charge);
        self.input.payments.retain(|p| p.payment_intent.as_deref() != Some(&intent));
        self.input.ledger.retain(|e| e.source != charge);
        self.input.movements.retain(|m| m.source.as_deref() != Some(charge));
    }

    /// The provider's balance is what moved on it, and the anchor is found as in a first run.
    fn finished(mut self) -> Input {
        let input = &mut self.input;
        for currency in CURRENCIES {
            let moved: i64 = input.movements.iter().filter(|m| m.currency == currency).map(Movement::net).sum();
            *input.balances.entry(currency.into()).or_default() += moved + self.opening;
        }
        let first = input.ledger.iter().map(|e| e.at).min().unwrap();
        let extra: BTreeMap<String, i64> = input.balances.clone();
        input.anchor = Anchor::begin(first, &input.movements, &input.ledger, &extra);
        self.input
    }
}

fn invoice_id(customer: usize, n: i64) -> String {
    format!("in_{customer}_{n}")
}

fn charge_id(customer: usize, n: i64) -> String {
    format!("ch_{customer}_{n}")
}

type Truth = BTreeSet<(&'static str, String)>;

/// Puts fault number `which` on customer `c`'s invoice `n`; returns what must be reported: (kind, charge, invoice or currency).
fn fault(b: &mut Business, which: usize, c: usize, n: i64) -> Truth {
    let (inv, ch, currency) = (invoice_id(c, n), charge_id(c, n), CURRENCIES[c % 3].to_owned());
    let due = b.invoice(c, n).amount_due;
    let one = |kind: &'static str, subject: String| Truth::from([(kind, subject)]);
    match which {
        0 => {
            b.forget(&ch);
            one("paid_without_payment", inv)
        }
        1 => {
            b.invoice_only(c, 7, "open", 4321, NOW - 3 * DAY);
            b.edit(c, 7).due_date = Some(NOW + DAY);
            b.charge("ch_direct", c, 4321, NOW - 2 * DAY, None);
            one("payment_without_invoice", "ch_direct".into())
        }
        2 => {
            b.charge_of(c, n).captured -= 300;
            b.row(&ch).amount -= 300;
            b.input.payments.iter_mut().find(|p| p.invoice == inv).unwrap().amount_paid -= 300;
            b.input.movements.iter_mut().find(|m| m.source.as_deref() == Some(&ch)).unwrap().amount -= 300;
            one("underpaid", inv)
        }
        3 => {
            b.charge_of(c, n).captured += 500;
            b.row(&ch).amount += 500;
            b.edit(c, n).amount_overpaid = 500;
            b.input.payments.iter_mut().find(|p| p.invoice == inv).unwrap().amount_paid += 500;
            b.input.movements.iter_mut().find(|m| m.source.as_deref() == Some(&ch)).unwrap().amount += 500;
            one("overpaid", ch)
        }
        4 => {
            b.refund(c, n, 250);
            one("refunded_but_paid", ch)
        }
        5 => {
            b.dispute(c, n, "needs_response");
            one("disputed_paid", ch)
        }
        6 => {
            b.edit(c, n).status = "void".into();
            b.local(c, n).status = "void".into();
            one("void_with_payment", ch)
        }
        7 => {
            b.invoice_only(c, 7, "open", 5000, NOW - 9 * DAY);
            b.edit(c, 7).due_date = Some(NOW - 5 * DAY);
            one("open_past_due", invoice_id(c, 7))
        }
        8 => {
            b.local(c, n).status = "open".into();
            one("status_mismatch", inv)
        }
        9 => {
            b.charge("ch_twice", c, due, NOW - DAY, Some(&inv));
            one("duplicate_payment", "ch_twice".into())
        }
        10 => {
            b.forget(&ch);
            b.input.invoices.retain(|i| i.id != inv);
            b.input.local.retain(|l| l.id != inv);
            one("number_gap", format!("C{c}-{n:04}"))
        }
        11 => {
            let draft = Invoice {
                id: "in_old_draft".into(),
                status: "draft".into(),
                currency,
                created: NOW - 4 * DAY,
                amount_due: 9,
                ..Invoice::default()
            };
            b.input.invoices.push(draft);
            one("stale_draft", "in_old_draft".into())
        }
        12 => {
            b.row(&ch).amount += 1;
            [("amount_mismatch", ch), ("balance_drift", currency)].into()
        }
        13 => {
            b.input.ledger.retain(|e| e.source != ch);
            one("missing_in_ledger", ch)
        }
        14 => {
            b.local(c, n).amount_due += 5;
            one("amount_mismatch", inv)
        }
        15 => {
            *b.input.balances.entry(currency.clone()).or_default() += 777;
            one("balance_drift", currency)
        }
        16 => {
            // Its number is known from the provider, so that this is no gap.
            b.input.local.retain(|l| l.id != inv);
            one("status_mismatch", inv)
        }
        17 => {
            b.edit(c, n).amount_remaining = 3;
            one("amount_mismatch", inv)
        }
        _ => {
            b.row(&ch).currency = "gbp".into();
            [("amount_mismatch", ch), ("balance_drift", currency), ("balance_drift", "gbp".into())].into()
        }
    }
}

fn found(report: &Report) -> Truth {
    let subject = |e: &Exception| e.source_id.clone().or_else(|| e.invoice_id.clone()).unwrap_or_else(|| e.currency.clone());
    report.exceptions.iter().map(|e| (e.kind.as_str(), subject(e))).collect()
}

/// 15 is found through the anchor of a run before it: a first run would take the difference for the opening balance.
fn plant(b: Business, which: &[usize], days: &[i64]) -> (Input, Truth) {
    let mut expected = Truth::new();
    let clean = Business { input: b.input.clone(), ..b }.finished();
    let mut faulty = b;
    for (at, fault_number) in which.iter().enumerate() {
        expected.append(&mut fault(&mut faulty, *fault_number, *fault_number, days[at]));
    }
    let mut input = faulty.finished();
    input.anchor.opening = clean.anchor.opening;
    (input, expected)
}

#[test]
fn a_clean_business_has_no_exceptions_and_no_drift() {
    for seed in 0..20 {
        let input = Business::new(seed).finished();
        let (report, next) = reconcile(&input);
        assert_eq!(report.exceptions, [], "seed {seed}");
        assert!(report.ok && report.summary.ok);
        assert_eq!(
            report.balances.iter().map(|b| (b.currency.as_str(), b.drift)).collect::<Vec<_>>(),
            [("eur", Some(0)), ("jpy", Some(0)), ("usd", Some(0))]
        );
        let states: Vec<_> = report.summary.invoices.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (*name, *n)).collect();
        let expected = [
            ("draft", 1),
            ("nothing_due", 1),
            ("open", 1),
            ("refunded", 1),
            ("settled", 132),
            ("settled_elsewhere", 1),
            ("total", 139),
            ("uncollectible", 1),
            ("void", 1),
        ];
        assert_eq!(states, expected);
        let states: Vec<_> = report.summary.payments.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (*name, *n)).collect();
        assert_eq!(states, [("failed", 1), ("matched", 132), ("pending_ledger", 1), ("total", 136), ("trial", 1), ("without_invoice", 1)]);
        assert_eq!(next.through, next.since, "all of it is in the window");
        check_sums(&input, &report);
    }
}

#[test]
fn every_planted_fault_is_found_and_nothing_else() {
    for seed in 0..150 {
        let mut dice = Dice(seed + 7);
        let which: Vec<usize> = (0..FAULTS).filter(|_| dice.roll(3) > 0).collect();
        let days: Vec<i64> = which.iter().map(|_| 2 + dice.roll(4)).collect();
        let (input, expected) = plant(Business::new(seed), &which, &days);
        let (report, _) = reconcile(&input);
        assert_eq!(found(&report), expected, "seed {seed}: {which:?}");
        assert_eq!(report.exceptions.len(), expected.len(), "seed {seed}: one exception per fault");
        check_sums(&input, &report);
        // Kept and read back, it is the same run.
        let kept: Input = serde_json::from_str(&serde_json::to_string(&input).unwrap()).unwrap();
        assert_eq!(reconcile(&kept).0, report);
        let later = Input { now: input.now + 5, window_from: input.window_from + 5, ..input };
        assert_eq!(reconcile(&later).0.recon_id, report.recon_id);
    }
}

#[test]
fn each_fault_alone_is_found_and_explained_with_its_severity() {
    for which in 0..FAULTS {
        let (input, expected) = plant(Business::new(3), &[which], &[3]);
        let (report, _) = reconcile(&input);
        assert_eq!(found(&report), expected, "fault {which}");
        let low = ["refunded_but_paid", "open_past_due", "number_gap", "stale_draft"];
        assert_eq!(report.ok, expected.iter().all(|(kind, _)| low.contains(kind)), "fault {which}");
        for e in &report.exceptions {
            assert!(e.explanation.ends_with('.') && e.suggested_action.ends_with('.') && e.id.len() == 20, "{e:?}");
            assert!(e.at_risk_minor > 0 || e.kind == ExceptionKind::NumberGap, "{e:?}");
            assert!(!e.currency.is_empty(), "{e:?}");
            let text = &e.explanation;
            assert!(
                e.kind == ExceptionKind::NumberGap || e.kind == ExceptionKind::StatusMismatch || text.contains(&e.currency.to_uppercase()),
                "{text}"
            );
        }
        // Whoever looks at the invoice or the charge sees what is wrong with it.
        let named = |e: &Exception| {
            let invoice = report.invoices.iter().any(|row| Some(&row.id) == e.invoice_id.as_ref() && row.exceptions.contains(&e.id));
            invoice || report.payments.iter().any(|row| Some(&row.id) == e.charge_id.as_ref() && row.exceptions.contains(&e.id))
        };
        assert!(report.exceptions.iter().all(|e| e.invoice_id.is_none() && e.charge_id.is_none() || named(e)), "fault {which}");
    }
}

#[test]
fn an_incomplete_run_says_nothing_is_missing_and_judges_no_balance() {
    let mut input = Business::new(1).finished();
    input.payments.clear();
    input.movements.truncate(3);
    input.complete = false;
    input.errors = vec!["invoice payments: timed out".into()];
    let (report, _) = reconcile(&input);
    assert_eq!((found(&report), report.ok), (Truth::new(), false));
    assert!(report.balances.iter().all(|b| b.drift.is_none()));
    input.complete = true;
    assert!(reconcile(&input).0.exceptions.len() > 50);
}

#[test]
fn what_was_there_before_is_the_opening_and_later_drift_is_measured_from_it() {
    let mut b = Business::new(4);
    b.opening = 12_345;
    let input = b.finished();
    let (report, next) = reconcile(&input);
    assert!(report.ok, "{:?}", report.exceptions);
    for balance in &report.balances {
        assert_eq!(balance.items.iter().find(|item| item.name == "opening").map(|item| item.amount), Some(12_345), "{balance:?}");
    }
    // A month later: the anchor has moved, and what is before it is not read any more.
    let mut later = Input { now: NOW + 40 * DAY, window_from: FROM + 40 * DAY, anchor: next, ..input.clone() };
    let (again, moved) = reconcile(&later);
    assert!(moved.through > NOW - DAY && moved.through <= later.window_from, "{moved:?}");
    assert_eq!(again.balances.iter().map(|b| b.drift).collect::<Vec<_>>(), [Some(0); 3]);
    let after =
        |seconds: i64| Input { now: later.now + seconds, window_from: later.window_from + seconds, anchor: moved.clone(), ..later.clone() };
    let ((one, kept), (two, _)) = (reconcile(&after(1)), reconcile(&after(3600)));
    assert_eq!((&one.input_digest, &kept), (&two.input_digest, &moved), "nothing happened meanwhile");
    for e in later.ledger.iter().filter(|e| e.at >= moved.since && e.at < moved.through) {
        *later.ledger_before.entry(e.currency.clone()).or_default() += e.amount;
    }
    later.ledger.retain(|e| e.at >= moved.through);
    later.movements.retain(|m| m.created >= moved.through);
    later.anchor = moved;
    assert_eq!(reconcile(&later).0.balances.iter().map(|b| b.drift).collect::<Vec<_>>(), [Some(0); 3]);
    *later.balances.get_mut("jpy").unwrap() -= 20;
    let (report, _) = reconcile(&later);
    let drift: Vec<_> = report.exceptions.iter().filter(|e| e.kind == ExceptionKind::BalanceDrift).collect();
    assert_eq!((drift.len(), drift[0].currency.as_str(), drift[0].difference), (1, "jpy", Some(-20)));
    assert!(drift[0].explanation.contains("It is off by -20 JPY: no row explains it."), "{}", drift[0].explanation);
}

#[test]
fn the_anchor_waits_for_a_row_that_is_not_settled() {
    let (mut input, _) = plant(Business::new(5), &[13], &[2]);
    let lost = input.movements.iter().find(|m| m.source.as_deref() == Some("ch_13_2")).unwrap().clone();
    (input.now, input.window_from) = (NOW + 60 * DAY, FROM + 60 * DAY);
    let (report, next) = reconcile(&input);
    let last = input.movements.iter().map(|m| m.created).chain(input.ledger.iter().map(|e| e.at)).filter(|at| *at < lost.created).max();
    assert_eq!(next.through, last.map_or(next.since, |last| last + 1));
    let balance = report.balances.iter().find(|b| b.currency == lost.currency).unwrap();
    assert_eq!(balance.items.iter().find(|i| i.name == "missing_in_ledger").unwrap().amount, lost.amount);
    assert_eq!(balance.drift, Some(0), "it is named, so it is no drift");
}

#[test]
fn money_that_was_converted_is_explained_in_both_currencies() {
    let mut b = Business::new(6);
    b.charge("ch_abroad", 0, 1000, NOW - DAY, None);
    let value = json!({"id": "txn_abroad", "amount": 1100, "fee": 40, "currency": "usd", "reporting_category": "charge", "created": NOW - DAY,
        "exchange_rate": 1.1, "source": {"id": "ch_abroad", "amount": 1000, "currency": "gbp"}});
    b.input.movements.retain(|m| m.source.as_deref() != Some("ch_abroad"));
    b.input.movements.push(Movement::from_json(&value).unwrap());
    b.row("ch_abroad").currency = "gbp".into();
    b.input.charges.iter_mut().find(|c| c.id == "ch_abroad").unwrap().currency = "gbp".into();
    let (report, _) = reconcile(&b.finished());
    assert!(report.ok, "{:?}", report.exceptions);
    let item = |currency: &str| {
        report.balances.iter().find(|b| b.currency == currency).unwrap().items.iter().find(|i| i.name == "converted").unwrap().amount
    };
    assert_eq!((item("usd"), item("gbp")), (1100, -1000));
}

#[test]
fn a_correction_resolves_a_difference_and_a_duplicate_that_was_refunded_is_settled() {
    let (mut input, _) = plant(Business::new(8), &[9, 12], &[3, 3]);
    let row = input.ledger.iter().find(|e| e.source == "ch_12_3").unwrap().clone();
    input.ledger.push(Entry { id: "le_fix".into(), kind: "adjustment".into(), amount: -1, at: NOW - 60, ..row });
    let twice = input.charges.iter_mut().find(|c| c.id == "ch_twice").unwrap();
    twice.refunded = twice.captured;
    let (report, _) = reconcile(&input);
    assert_eq!(found(&report), Truth::new());
}

#[test]
fn a_large_business_is_quick() {
    let mut b = Business::new(9);
    for n in 100..10_100 {
        let at = NOW - 20 * DAY + n;
        let (id, ch) = (format!("in_large_{n}"), format!("ch_large_{n}"));
        let number = Some(format!("L-{n:06}"));
        let invoice = Invoice {
            id: id.clone(),
            number: number.clone(),
            status: "paid".into(),
            currency: "eur".into(),
            amount_due: n,
            amount_paid: n,
            ..b.input.invoices[0].clone()
        };
        b.input.invoices.push(invoice);
        b.input.local.push(LocalInvoice {
            id: id.clone(),
            number,
            status: "paid".into(),
            currency: "eur".into(),
            amount_due: n,
            seen_at: at,
        });
        b.charge(&ch, 1, n, at, Some(&id));
        b.charge(&format!("ch_sale_{n}"), 1, n, at, None);
    }
    let input = b.finished();
    let start = std::time::Instant::now();
    let (report, _) = reconcile(&input);
    println!("{} invoices and {} charges in {} ms", input.invoices.len(), input.charges.len(), start.elapsed().as_millis());
    assert!(report.ok && report.summary.invoices["settled"] > 10_000, "{:?}", report.exceptions);
}

#[test]
fn objects_are_read_as_the_provider_writes_them() {
    let invoice = json!({"id": "in_1", "number": "A-0001", "customer": {"id": "cus_1"}, "status": "open", "currency": "USD", "amount_due": 500,
        "amount_paid": 0, "amount_remaining": 500, "amount_paid_off_stripe": 7, "post_payment_credit_notes_amount": 3, "created": 10,
        "due_date": null, "status_transitions": {"finalized_at": 11, "paid_at": null}, "metadata": {"echopilot_canary": "1"}});
    let i = Invoice::from_json(&invoice).unwrap();
    assert_eq!((i.customer.as_deref(), i.currency.as_str(), i.finalized_at, i.changed_at), (Some("cus_1"), "usd", Some(11), 11));
    assert_eq!((i.off_provider, i.credited, i.trial, i.due_date), (7, 3, true, None));
    let charge = json!({"id": "ch_1", "amount": 500, "amount_captured": 0, "amount_refunded": 500, "captured": false, "currency": "usd", "created": 1});
    let c = Charge::from_json(&charge).unwrap();
    assert_eq!((c.captured, c.refunded, c.kept()), (0, 0, 0), "an authorisation that was let go");
    for field in ["id", "currency", "amount_due", "created"] {
        let mut wrong = invoice.clone();
        wrong[field] = json!(null);
        assert!(Invoice::from_json(&wrong).unwrap_err().starts_with(field));
    }
    let row = |category: &str, kind: &str| {
        Movement::from_json(&json!({"id": "t", "amount": 5, "fee": 2, "currency": "usd", "created": 1,
        "reporting_category": category, "type": kind, "source": {"id": "x"}}))
        .unwrap()
    };
    assert_eq!(
        (
            row("charge", "payment").kind.as_str(),
            row("payout_reversal", "payout_failure").kind.as_str(),
            row("fee", "stripe_fee").kind.as_str()
        ),
        ("charge", "payout_reversal", "fee")
    );
    assert_eq!((row("charge", "charge").net(), row("charge", "charge").source.as_deref()), (3, Some("x")));
}

/// What holds for every report, whatever is wrong with the input.
fn check_sums(input: &Input, report: &Report) {
    for counts in [&report.summary.invoices, &report.summary.payments] {
        assert_eq!(counts.iter().filter(|(name, _)| **name != "total").map(|(_, n)| n).sum::<u64>(), counts["total"]);
    }
    for b in &report.balances {
        assert_eq!(b.provider - b.ledger, b.difference);
        assert_eq!(b.items.iter().map(|i| i.amount).sum::<i64>() + b.drift.unwrap(), b.difference, "{b:?}");
    }
    for t in &report.totals {
        assert_eq!(t.aging.values().sum::<i64>(), t.outstanding);
        let collected: i64 = input.charges.iter().filter(|c| c.currency == t.currency && c.status == "succeeded").map(|c| c.captured).sum();
        assert_eq!(t.collected, collected);
    }
    let ids: BTreeSet<&str> = report.exceptions.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids.len(), report.exceptions.len(), "exception ids are unique");
    let risk: i64 = report.summary.at_risk.iter().map(|a| a.amount).sum();
    assert_eq!(risk, report.exceptions.iter().map(|e| e.at_risk_minor).sum::<i64>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_order_and_repeated_pages_give_the_same_report(seed in any::<u64>(), planted in prop::collection::btree_set(0..FAULTS, 0..8), again in 0usize..50) {
        let which: Vec<usize> = planted.into_iter().collect();
        let days = vec![3; which.len()];
        let (mut input, _) = plant(Business::new(seed), &which, &days);
        let (report, anchor) = reconcile(&input);
        check_sums(&input, &report);
        let mut dice = Dice(seed);
        for _ in 0..3 {
            input.invoices.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.payments.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.charges.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.refunds.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.disputes.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.movements.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.local.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.ledger.sort_by_cached_key(|_| dice.roll(1 << 20));
            let (other, other_anchor) = reconcile(&input);
            prop_assert_eq!(serde_json::to_string(&other).unwrap(), serde_json::to_string(&report).unwrap());
            prop_assert_eq!(&other_anchor, &anchor);
        }
        let (m, c, i) = (input.movements[again].clone(), input.charges[again].clone(), input.invoices[again].clone());
        input.movements.push(m);
        input.charges.push(c);
        input.invoices.push(i);
        let (twice, _) = reconcile(&input);
        prop_assert_eq!(twice.exceptions, report.exceptions);
        prop_assert_eq!(twice.balances, report.balances);
    }
}

#[test]
fn every_kind_of_exception_is_in_the_documentation() {
    let text = include_str!("../../../../docs/reconciliation.md");
    for kind in ExceptionKind::ALL {
        assert!(text.contains(&format!("`{}`", kind.as_str())), "{}", kind.as_str());
    }
    for kind in crate::domain::reconcile::ExceptionKind::ALL {
        assert!(text.contains(&format!("`{}`", kind.as_str())), "{}", kind.as_str());
    }
}
