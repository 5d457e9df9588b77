//! A small business with a known truth, faults put into it by name, and the exact exceptions they must cause; then the statuses one
//! by one, independence of order, and the sums that always hold.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

pub(super) const DAY: i64 = 86_400;
const START: i64 = 1_700_000_000 / DAY * DAY;
const NOW: i64 = START + 30 * DAY;
/// One payout a day; the last charges are in none yet.
const PAYOUTS: usize = 18;

/// A pseudo-random sequence: the same seed gives the same business.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, below: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % below).unwrap()
    }
}

pub(super) fn row(id: &str, category: &str, source: &str, amount: i64, fee: i64, at: i64, payout: Option<&str>) -> Transaction {
    let details = if fee == 0 { json!([]) } else { json!([{"amount": fee, "type": "stripe_fee"}]) };
    let value = json!({"id": id, "amount": amount, "fee": fee, "net": amount - fee, "currency": "USD", "type": category,
        "reporting_category": category, "source": if source.is_empty() { json!(null) } else { json!({"id": source}) },
        "created": at, "fee_details": details});
    Transaction::from_json(&value, payout).unwrap()
}

pub(super) fn line(kind: &str, source: &str, amount: i64, at: i64) -> LedgerLine {
    LedgerLine {
        id: format!("le_{kind}_{source}"),
        kind: kind.into(),
        source: source.into(),
        seq: 0,
        amount,
        currency: "usd".into(),
        at,
        method: None,
    }
}

/// Charges, refunds, disputes, a partial capture, a cost, a failed payout that is a member of the next one: all of it agreeing.
fn business(seed: u64) -> Input {
    let mut dice = Dice(seed);
    let provider = ProviderInfo { name: "sandbox".into(), api_version: "2026-10-28.endive".into(), livemode: false };
    let mut input = Input { now: NOW, window_from: START - DAY, grace_days: 10, complete: true, provider, ..Input::default() };
    let mut carried: Option<Transaction> = None;
    for day in 0..=PAYOUTS {
        let (at, po) = (START + i64::try_from(day).unwrap() * DAY, format!("po_{day:02}"));
        let payout = (day < PAYOUTS).then_some(po.as_str());
        let mut rows: Vec<Transaction> =
            carried.take().into_iter().map(|t| Transaction { payout: payout.map(str::to_owned), ..t }).collect();
        let mut add = |category: &str, source: String, amount, fee| {
            rows.push(row(&format!("txn_{category}_{source}"), category, &source, amount, fee, at, payout));
            if !matches!(category, "fee" | "partial_capture_reversal") {
                input.ledger.push(line(category, &source, amount, at));
            }
        };
        for n in 0..4 + dice.roll(4) {
            let amount = 10_000 + dice.roll(5000);
            add("charge", format!("ch_{day:02}_{n}"), amount, 30 + amount / 50);
        }
        let refund = dice.roll(900) + 1;
        add("refund", format!("re_{day:02}"), -refund, 0);
        if day % 5 == 1 {
            add("refund_failure", format!("re_{day:02}"), refund, 0);
            add("dispute", format!("dp_{day:02}"), -3000, 1500);
            add("dispute_reversal", format!("dp_{day:02}"), 3000, -1500);
            add("fee", String::new(), -77, 0);
        }
        add("charge", format!("ch_{day:02}_part"), 5000, 175);
        add("partial_capture_reversal", format!("ch_{day:02}_part"), -2000, -50);
        input.ledger.last_mut().unwrap().amount = 3000;
        if let Some(id) = payout {
            let net: i64 = rows.iter().map(|t| t.net).sum();
            let fails = day == 3;
            let value = json!({"id": id, "amount": net, "currency": "usd", "status": if fails { "failed" } else { "paid" }, "created": at,
                "arrival_date": at + 2 * DAY, "automatic": true, "reconciliation_status": "completed",
                "balance_transaction": format!("txn_{id}"), "failure_balance_transaction": if fails { json!(format!("txn_back_{id}")) } else { json!(null) }});
            input.payouts.push(Payout::from_json(&value).unwrap());
            input.ledger.push(line("payout", id, -net, at));
            rows.push(row(&format!("txn_{id}"), "payout", id, -net, 0, at, payout));
            if fails {
                input.ledger.push(line("payout_reversal", id, net, at));
                carried = Some(row(&format!("txn_back_{id}"), "payout_reversal", id, net, 0, at, None));
            }
        }
        input.transactions.extend(rows);
    }
    for (n, t) in input.transactions.iter_mut().enumerate().filter(|(_, t)| t.source.is_none()) {
        t.id = format!("txn_fee_{n}");
    }
    input
}

fn tx<'a>(input: &'a mut Input, source: &str) -> &'a mut Transaction {
    input.transactions.iter_mut().find(|t| t.source.as_deref() == Some(source)).unwrap()
}

fn ledger<'a>(input: &'a mut Input, source: &str) -> &'a mut LedgerLine {
    input.ledger.iter_mut().find(|l| l.source == source).unwrap()
}

/// Puts fault number `which` into day `day`; returns what must be reported: (kind, balance transaction, source or payout).
fn fault(input: &mut Input, which: usize, day: usize) -> Option<(&'static str, String)> {
    let (ch, po) = (format!("ch_{day:02}_1"), format!("po_{day:02}"));
    let bt = format!("txn_charge_{ch}");
    Some(match which {
        0 => {
            input.ledger.retain(|l| l.source != ch);
            ("missing_in_ledger", bt)
        }
        1 => {
            ledger(input, &ch).amount += 1;
            ("amount_mismatch", bt)
        }
        2 => {
            ledger(input, &ch).currency = "eur".into();
            ("currency_mismatch", bt)
        }
        3 => {
            tx(input, &ch).currency = "eur".into();
            ("currency_mismatch", bt)
        }
        4 => {
            let copy = LedgerLine { id: "le_again".into(), ..ledger(input, &ch).clone() };
            input.ledger.push(copy);
            ("duplicate_local", bt)
        }
        5 => {
            input.ledger.push(line("charge", "ch_ghost", 500, NOW - 11 * DAY));
            ("missing_provider", "ch_ghost".into())
        }
        6 => {
            input.ledger.push(line("charge", "ch_young", 500, NOW - 9 * DAY));
            return None;
        }
        7 => {
            input.ledger.push(line("charge", "ch_ancient", 500, START - 2 * DAY));
            return None;
        }
        8 => {
            tx(input, &ch).fee += 1;
            ("provider_inconsistent", bt)
        }
        9 => {
            let again = tx(input, &ch).clone();
            input.transactions.push(Transaction { payout: None, ..again });
            return None;
        }
        10 => {
            input.transactions.push(row("txn_odd", "obligation_thing", "x_1", 0, 0, NOW, None));
            ("unclassified", "txn_odd".into())
        }
        11 => {
            input.transactions.push(row("txn_new", "charge", "ch_new", 900, 20, NOW - 60, None));
            ("missing_in_ledger", "txn_new".into())
        }
        _ => {
            let ledger_at = input.ledger.iter().position(|l| l.source == po).unwrap();
            let payout = input.payouts.iter_mut().find(|p| p.id == po).unwrap();
            match which {
                12 => {
                    payout.amount += 7;
                    input.ledger[ledger_at].amount -= 7;
                    ("unbalanced_payout", po)
                }
                13 => {
                    payout.status = "failed".into();
                    ("missing_reversal", po)
                }
                14 => {
                    payout.status = "in_transit".into();
                    ("overdue_payout", po)
                }
                15 => {
                    payout.reconciliation_status = Some("in_progress".into());
                    ("stale_reconciliation", po)
                }
                _ => {
                    input.ledger[ledger_at].amount += 1;
                    ("amount_mismatch", po)
                }
            }
        }
    })
}

pub(super) fn found(report: &Report) -> BTreeSet<(&'static str, String)> {
    let subject = |e: &Exception| e.balance_transaction_id.clone().or_else(|| e.source_id.clone()).or_else(|| e.payout_id.clone()).unwrap();
    report.exceptions.iter().map(|e| (e.kind.as_str(), subject(e))).collect()
}

#[test]
fn a_clean_business_has_no_exceptions() {
    for seed in 0..20 {
        let report = reconcile(&business(seed));
        assert_eq!(report.exceptions, [], "seed {seed}");
        assert!(report.ok);
        let s = &report.summary;
        assert_eq!((s.total, s.matched, s.amount_mismatch, s.missing_in_ledger), (18, 17, 0, 0), "the 18th failed and came back");
        assert_eq!((s.payouts["balanced"], s.payouts["failed_reversed"]), (17, 1));
        assert_eq!(
            s.transactions["matched"] + s.transactions["matched_pending_payout"] + s.transactions["fee_booked"],
            s.transactions["total"]
        );
        assert_eq!((report.totals.len(), report.totals[0].unexplained, report.unsettled.len()), (1, 0, 1));
        check_sums(&report);
    }
}

#[test]
fn every_injected_fault_is_found_and_nothing_else() {
    for seed in 0..20 {
        let (mut input, mut dice) = (business(seed), Dice(seed + 99));
        let mut expected = BTreeSet::new();
        for which in (0..17).filter(|_| dice.roll(3) > 0) {
            // Fault and day go together, so that no two meet in one payout; day 3 failed and 4 has it back.
            let day = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 13][which];
            expected.extend(fault(&mut input, which, day));
        }
        let report = reconcile(&input);
        assert_eq!(found(&report), expected, "seed {seed}");
        assert_eq!(report.exceptions.len(), expected.len(), "seed {seed}: one exception per fault");
        check_sums(&report);
    }
}

#[test]
fn each_fault_alone_shows_in_the_four_integers_and_in_ok() {
    for which in 0..17 {
        let mut input = business(7);
        let expected = fault(&mut input, which, 8);
        let report = reconcile(&input);
        assert_eq!(found(&report), expected.clone().into_iter().collect(), "fault {which}");
        let kind = expected.map_or("", |(kind, _)| kind);
        let s = &report.summary;
        let differs = u64::from(matches!(kind, "amount_mismatch" | "currency_mismatch" | "unbalanced_payout"));
        assert_eq!(s.amount_mismatch, differs, "fault {which}");
        assert_eq!(s.missing_in_ledger, u64::from(kind == "missing_in_ledger"), "fault {which}");
        assert_eq!(s.unsettled_missing, u64::from(which == 11));
        assert_eq!((report.ok, s.ok), (matches!(kind, "" | "unclassified" | "stale_reconciliation"), report.ok), "fault {which}");
        let settled = !matches!(which, 5 | 6 | 7 | 9 | 10 | 11);
        assert_eq!(s.matched, 17 - u64::from(settled), "fault {which}");
        for exception in &report.exceptions {
            let named = report.payouts.iter().filter(|p| p.exceptions.contains(&exception.id)).count();
            assert_eq!(named, usize::from(settled), "fault {which} is listed under its payout");
        }
    }
}

#[test]
fn an_incomplete_run_never_says_missing_at_the_provider() {
    let mut input = business(1);
    input.transactions.retain(|t| t.payout.as_deref() != Some("po_05"));
    input.transactions.retain(|t| t.payout.as_deref() != Some("po_06") || !t.id.contains("charge"));
    input.complete = false;
    input.errors = vec!["po_06: page 2 could not be read".into()];
    input.unread = vec!["po_06".into()];
    let report = reconcile(&input);
    assert_eq!(report.exceptions, []);
    assert!(!report.ok);
    assert_eq!(report.summary.payouts["pending"], 2);
    assert!(report.summary.transactions["pending_provider"] > 8);
    input.complete = true;
    input.unread.clear();
    assert!(reconcile(&input).exceptions.iter().any(|e| e.kind == ExceptionKind::MissingProvider));
}

#[test]
fn payouts_on_their_way_are_not_exceptions() {
    for (status, recon, age_days, expected) in [
        ("in_transit", "completed", 2, PayoutStatus::InTransit),
        ("pending", "completed", 2, PayoutStatus::Pending),
        ("paid", "in_progress", 2, PayoutStatus::Pending),
        ("paid", "not_applicable", 2, PayoutStatus::NotItemizable),
        ("canceled", "completed", 9, PayoutStatus::Pending),
    ] {
        let created = NOW - age_days * DAY;
        let value =
            json!({"id": "po_1", "amount": 980, "currency": "usd", "status": status, "created": created, "reconciliation_status": recon});
        let transactions = vec![row("txn_1", "charge", "ch_1", 1000, 20, created, Some("po_1"))];
        let ledger = vec![line("charge", "ch_1", 1000, created)];
        let payouts = vec![Payout::from_json(&value).unwrap()];
        let report = reconcile(&Input { payouts, transactions, ledger, now: NOW, grace_days: 10, complete: true, ..Input::default() });
        assert_eq!((report.payouts[0].status, &report.exceptions[..]), (expected, &[][..]), "{status} {recon}");
    }
}

#[test]
fn a_converted_row_is_compared_as_the_customer_saw_it() {
    let mut value = json!({"id": "txn_1", "amount": 1100, "fee": 0, "currency": "usd", "reporting_category": "charge", "created": NOW,
        "exchange_rate": 1.1, "source": {"id": "ch_1", "amount": 1000, "currency": "eur"}});
    let ledger = LedgerLine { currency: "eur".into(), ..line("charge", "ch_1", 1000, NOW) };
    let run = |value: &serde_json::Value| {
        let transactions = vec![Transaction::from_json(value, None).unwrap()];
        found(&reconcile(&Input { transactions, ledger: vec![ledger.clone()], now: NOW, complete: true, ..Input::default() }))
    };
    assert_eq!(run(&value), BTreeSet::new());
    value["source"]["amount"] = json!(999);
    assert_eq!(run(&value), [("amount_mismatch", "txn_1".to_owned())].into());
    value["exchange_rate"] = json!(null);
    assert_eq!(run(&value), [("currency_mismatch", "txn_1".to_owned())].into());
}

#[test]
fn an_exception_explains_itself_and_a_booked_correction_resolves_it() {
    let mut input = business(3);
    let amount = tx(&mut input, "ch_08_1").amount;
    ledger(&mut input, "ch_08_1").amount = 9900;
    let report = reconcile(&input);
    let e = &report.exceptions[0];
    assert_eq!((e.expected, e.actual, e.difference), (Some(9900), Some(amount), Some(amount - 9900)));
    assert!(e.explanation.starts_with("Ledger says 99.00 USD for ch_08_1, the provider settled 1"), "{}", e.explanation);
    assert_eq!((e.payout_id.as_deref(), e.id.len(), report.recon_id.len()), (Some("po_08"), 20, 21));
    input.ledger.push(LedgerLine { id: "le_fix".into(), ..line("adjustment", "ch_08_1", amount - 9900, NOW) });
    assert!(reconcile(&input).ok);
}

#[test]
fn a_residual_names_what_would_explain_it() {
    let mut input = business(5);
    input.transactions.push(row("txn_lost", "fee", "", -4321, 0, NOW, None));
    let payout = input.payouts.iter_mut().find(|p| p.id == "po_09").unwrap();
    payout.amount -= 4321;
    ledger(&mut input, "po_09").amount += 4321;
    let report = reconcile(&input);
    assert_eq!((report.exceptions.len(), report.payouts[8].residual), (1, Some(-4321)));
    assert_eq!(report.exceptions[0].suspects[0].balance_transaction_ids, ["txn_lost"]);
}

#[test]
fn bad_input_names_its_field() {
    for (value, error) in [
        (json!({"id": "txn_1", "amount": 1.5, "currency": "usd", "created": 1}), "amount is not an integer"),
        (json!({"id": "txn_1", "amount": 1, "currency": "usd"}), "created is missing"),
        (json!({"id": 5, "amount": 1, "currency": "usd", "created": 1}), "id is not a text"),
        (json!({"id": "t", "amount": i64::MAX, "currency": "usd", "created": 1}), "amount is out of range"),
    ] {
        assert_eq!(Transaction::from_json(&value, None).unwrap_err(), error);
        assert_eq!(Payout::from_json(&value).unwrap_err(), error);
    }
}

#[test]
fn a_hundred_thousand_rows_are_quick() {
    let mut input = business(2);
    for n in 0..100_000 {
        let ch = format!("ch_bulk_{n}");
        input.transactions.push(row(&format!("txn_bulk_{n}"), "charge", &ch, 100, 5, NOW, None));
        input.ledger.push(line("charge", &ch, 100, NOW));
    }
    let report = reconcile(&input);
    assert!(report.ok && report.summary.transactions["matched_pending_payout"] >= 100_000);
}

/// What holds for every report, whatever is wrong with the input.
pub(super) fn check_sums(report: &Report) {
    for payout in &report.payouts {
        assert_eq!(payout.by_category.iter().map(|c| c.net).sum::<i64>(), payout.sum_net);
        assert!(payout.residual.is_none_or(|residual| residual == payout.amount - payout.sum_net));
    }
    for t in &report.totals {
        let residuals = report.payouts.iter().filter(|p| p.currency == t.currency).filter_map(|p| p.residual);
        assert_eq!(residuals.sum::<i64>(), t.unexplained);
        assert_eq!(t.net + t.unexplained, t.payout_amount);
        assert_eq!(t.gross + t.fees + t.refunds + t.disputes + t.other, t.net);
    }
    let s = &report.summary;
    for counts in [&s.payouts, &s.transactions] {
        assert_eq!(counts.iter().filter(|(name, _)| **name != "total").map(|(_, n)| n).sum::<u64>(), counts["total"]);
    }
    let ids: BTreeSet<&str> = report.exceptions.iter().map(|e| e.id.as_str()).collect();
    assert_eq!(ids.len(), report.exceptions.len(), "exception ids are unique");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_order_gives_the_same_report_and_the_sums_hold(
        seed in any::<u64>(),
        faults in prop::collection::vec((0usize..17, 5usize..18), 0..8),
        noise in prop::collection::vec((0usize..100, -50i64..50, any::<bool>()), 0..6),
    ) {
        let mut input = business(seed);
        for (which, day) in faults {
            if !matches!(which, 5 | 6 | 7 | 10 | 11) && input.ledger.iter().any(|l| l.source == format!("ch_{day:02}_1")) {
                fault(&mut input, which, day);
            }
        }
        for (at, delta, again) in noise {
            let mut copy = input.transactions[at].clone();
            copy.amount += delta;
            if again { input.transactions.push(copy) } else { input.transactions[at] = copy }
        }
        let report = reconcile(&input);
        check_sums(&report);
        let mut dice = Dice(seed);
        for _ in 0..3 {
            input.payouts.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.transactions.sort_by_cached_key(|_| dice.roll(1 << 20));
            input.ledger.sort_by_cached_key(|_| dice.roll(1 << 20));
            prop_assert_eq!(serde_json::to_string(&reconcile(&input)).unwrap(), serde_json::to_string(&report).unwrap());
        }
    }
}
