//! Businesses of any size in three currencies, with faults of every kind planted in them: the report's exceptions are exactly those, over
//! hundreds of seeds, in any order, with pages repeated, and a payout that cannot be read changes nothing but what it must.

use super::{
    tests::{DAY, Dice, check_sums, found, line, row},
    *,
};
use serde_json::json;
use std::collections::BTreeSet;

const START: i64 = 1_700_000_000 / DAY * DAY;
/// Days until `now` after the last payout.
const AFTER: i64 = 12;
const CURRENCIES: [&str; 3] = ["usd", "eur", "jpy"];

type Subject = (&'static str, String);

struct Business {
    input: Input,
    payouts: usize,
    dice: Dice,
}

fn in_currency(mut input: Transaction, currency: &str) -> Transaction {
    currency.clone_into(&mut input.currency);
    input
}

impl Business {
    fn new(seed: u64, payouts: usize, rows: usize) -> Self {
        let now = START + (i64::try_from(payouts).unwrap() + AFTER) * DAY;
        let input = Input { now, window_from: START - 30 * DAY, grace_days: 10, complete: true, ..Input::default() };
        let mut business = Self { input, payouts, dice: Dice(seed) };
        let mut carried: [Option<Transaction>; 3] = [None, None, None];
        for day in 0..payouts + 3 {
            let carried = &mut carried[day % 3];
            let members = business.members(day, rows, carried.take());
            *carried = business.pay_out(day, members);
        }
        business.asides(now);
        business
    }

    fn book(&mut self, category: &str, source: &str, amount: i64, fee: i64, at: i64, payout: Option<&str>, currency: &str) -> Transaction {
        let ledger = LedgerLine { currency: currency.into(), ..line(category, source, amount, at) };
        self.input.ledger.push(ledger);
        in_currency(row(&format!("txn_{category}_{source}"), category, source, amount, fee, at, payout), currency)
    }

    /// A day's movements, all of it agreeing; the last three days are in no payout yet.
    fn members(&mut self, day: usize, rows: usize, carried: Option<Transaction>) -> Vec<Transaction> {
        let (at, po, currency) = (START + i64::try_from(day).unwrap() * DAY, format!("po_{day:03}"), CURRENCIES[day % 3]);
        let payout = (day < self.payouts).then_some(po.as_str());
        let mut all: Vec<Transaction> = carried.into_iter().map(|t| Transaction { payout: payout.map(str::to_owned), ..t }).collect();
        for n in 0..rows {
            let amount = 10_000 + self.dice.roll(5000);
            all.push(self.book("charge", &format!("ch_{day:03}_{n}"), amount, 30 + amount / 50, at, payout, currency));
        }
        let refund = self.dice.roll(900) + 1;
        all.push(self.book("refund", &format!("re_{day:03}"), -refund, 0, at, payout, currency));
        all.push(self.book("dispute", &format!("dp_{day:03}"), -3000, 1500, at, payout, currency));
        all.push(self.book("dispute_reversal", &format!("dp_{day:03}"), 3000, -1500, at, payout, currency));
        all.push(self.book("refund_failure", &format!("re_{day:03}"), refund, 0, at, payout, currency));
        all.push(self.book("charge", &format!("ch_{day:03}_part"), 5000, 175, at, payout, currency));
        self.input.ledger.last_mut().unwrap().amount = 3000;
        let part =
            row(&format!("txn_uncaptured_{day:03}"), "partial_capture_reversal", &format!("ch_{day:03}_part"), -2000, -50, at, payout);
        let cost = Transaction { source: None, ..row(&format!("txn_fee_{day:03}"), "fee", "x", -77, 0, at, payout) };
        all.extend([in_currency(part, currency), in_currency(cost, currency)]);
        // A customer who paid in another currency, known to the ledger as the customer saw it.
        let foreign = json!({"id": format!("txn_fx_{day:03}"), "amount": 1100, "fee": 40, "currency": currency, "reporting_category": "charge", "created": at,
            "exchange_rate": 1.1, "source": {"id": format!("ch_{day:03}_fx"), "amount": 1000, "currency": "gbp"}});
        all.push(Transaction::from_json(&foreign, payout).unwrap());
        self.input.ledger.push(LedgerLine { currency: "gbp".into(), ..line("charge", &format!("ch_{day:03}_fx"), 1000, at) });
        all
    }

    /// Puts the payout of a day in; every seventh fails, and what it carried back is answered.
    fn pay_out(&mut self, day: usize, mut members: Vec<Transaction>) -> Option<Transaction> {
        let (at, id, currency) = (START + i64::try_from(day).unwrap() * DAY, format!("po_{day:03}"), CURRENCIES[day % 3]);
        let mut back = None;
        if day < self.payouts {
            let (net, fails): (i64, bool) = (members.iter().map(|t| t.net).sum(), day % 7 == 3 && day + 3 < self.payouts);
            let value = json!({"id": id, "amount": net, "currency": currency, "status": if fails { "failed" } else { "paid" }, "created": at,
                "arrival_date": at + 2 * DAY, "automatic": true, "reconciliation_status": "completed", "balance_transaction": format!("txn_{id}"),
                "failure_balance_transaction": fails.then(|| format!("txn_back_{id}"))});
            self.input.payouts.push(Payout::from_json(&value).unwrap());
            self.input.ledger.push(LedgerLine { currency: currency.into(), ..line("payout", &id, -net, at) });
            members.push(in_currency(row(&format!("txn_{id}"), "payout", &id, -net, 0, at, Some(&id)), currency));
            if fails {
                self.input.ledger.push(LedgerLine { currency: currency.into(), ..line("payout_reversal", &id, net, at) });
                back = Some(in_currency(row(&format!("txn_back_{id}"), "payout_reversal", &id, net, 0, at, None), currency));
            }
        }
        self.input.transactions.extend(members);
        back
    }

    /// One of each state that is no exception.
    fn asides(&mut self, now: i64) {
        for (id, status, recon, automatic) in [
            ("po_on_its_way", "in_transit", "completed", true),
            ("po_waiting", "pending", "in_progress", true),
            ("po_by_hand", "paid", "not_applicable", false),
            ("po_called_off", "canceled", "completed", true),
        ] {
            let items = matches!(id, "po_on_its_way");
            let value = json!({"id": id, "amount": 1000, "currency": "usd", "status": status, "created": now - DAY, "arrival_date": now + DAY,
                "automatic": automatic, "reconciliation_status": recon, "balance_transaction": format!("txn_{id}")});
            self.input.payouts.push(Payout::from_json(&value).unwrap());
            self.input.transactions.push(row(&format!("txn_{id}"), "payout", id, -1000, 0, now - DAY, items.then_some(id)));
            if items {
                let member = self.book("charge", "ch_on_its_way", 1000, 0, now - DAY, Some(id), "usd");
                self.input.transactions.push(member);
            }
        }
        self.input.ledger.push(line("charge", "ch_young", 500, now - 9 * DAY));
        self.input.ledger.push(LedgerLine { method: Some("sepa_debit".into()), ..line("charge", "py_debit", 500, now - 20 * DAY) });
        self.input.ledger.push(line("charge", "ch_ancient", 500, START - 31 * DAY));
        self.input.ledger.push(line("adjustment", "re_000", 0, now));
        self.input.unasked.push("ch_unasked".into());
        self.input.ledger.push(line("charge", "ch_unasked", 500, START));
    }

    fn tx(&mut self, id: &str) -> &mut Transaction {
        self.input.transactions.iter_mut().find(|t| t.id == id).unwrap()
    }

    fn ledger(&mut self, kind: &str, source: &str) -> &mut LedgerLine {
        self.input.ledger.iter_mut().find(|l| l.kind == kind && l.source == source).unwrap()
    }

    fn payout(&mut self, id: &str) -> &mut Payout {
        self.input.payouts.iter_mut().find(|p| p.id == id).unwrap()
    }

    /// Plants fault number `which` in the payout of `day`; answers what has to be reported for it.
    fn plant(&mut self, which: usize, day: usize) -> Vec<Subject> {
        let (now, ch, po) = (self.input.now, format!("ch_{day:03}_0"), format!("po_{day:03}"));
        let bt = format!("txn_charge_{ch}");
        let one = |kind, id: &str| vec![(kind, id.to_owned())];
        match which {
            0 => {
                self.input.ledger.retain(|l| l.source != ch);
                one("missing_in_ledger", &bt)
            }
            1 => {
                self.ledger("charge", &ch).amount -= 1;
                one("amount_mismatch", &bt)
            }
            2 => {
                self.ledger("charge", &ch).currency = "chf".into();
                one("currency_mismatch", &bt)
            }
            3 => {
                self.tx(&bt).currency = "chf".into();
                one("currency_mismatch", &bt)
            }
            4 => {
                // Both sides agree on the currency of a row that is in a payout of another.
                self.tx(&bt).currency = "chf".into();
                self.ledger("charge", &ch).currency = "chf".into();
                one("currency_mismatch", &po)
            }
            5 => {
                let again = LedgerLine { id: format!("le_again_{ch}"), ..self.ledger("charge", &ch).clone() };
                self.input.ledger.push(again);
                one("duplicate_local", &bt)
            }
            6 => {
                let lost = line("charge", &format!("ch_twice_{day}"), 700, now);
                self.input.ledger.extend([LedgerLine { id: "le_twice".into(), ..lost.clone() }, lost]);
                one("duplicate_local", &format!("ch_twice_{day}"))
            }
            7 => {
                self.input.ledger.push(line("refund", &format!("re_ghost_{day}"), -500, now - 11 * DAY));
                one("missing_provider", &format!("re_ghost_{day}"))
            }
            8 => {
                let debit =
                    LedgerLine { method: Some("us_bank_account".into()), ..line("charge", &format!("py_{day}"), 500, now - 22 * DAY) };
                self.input.ledger.push(debit);
                one("missing_provider", &format!("py_{day}"))
            }
            9 => {
                self.tx(&bt).fee += 1;
                one("provider_inconsistent", &bt)
            }
            10 => {
                let details = self.tx(&bt).fee;
                self.tx(&bt).fee_details = Some(details + 1);
                one("provider_inconsistent", &bt)
            }
            11 => {
                let mut other = self.tx(&bt).clone();
                other.available_on += 1;
                other.source = Some("ch_other".into());
                self.input.transactions.push(other);
                // Of two sources one is kept, and the ledger's row for the other is of an age at which nothing is missing.
                let line = self.ledger("charge", &ch);
                line.at = now - DAY;
                one("provider_inconsistent", &bt)
            }
            12 => {
                let id = format!("txn_odd_{day}");
                self.input.transactions.push(row(&id, "obligation_outbound", "x_1", -5, 0, now, None));
                one("unclassified", &id)
            }
            13 => {
                let id = format!("txn_new_{day}");
                self.input.transactions.push(row(&id, "charge", &format!("ch_new_{day}"), 900, 20, now - 60, None));
                one("missing_in_ledger", &id)
            }
            14 => {
                self.tx(&format!("txn_fx_{day:03}")).presentment = Some((999, "gbp".into()));
                one("amount_mismatch", &format!("txn_fx_{day:03}"))
            }
            15 => {
                self.ledger("charge", &format!("ch_{day:03}_part")).amount = 5000;
                one("amount_mismatch", &format!("txn_charge_ch_{day:03}_part"))
            }
            16 => {
                self.input.ledger.retain(|l| l.id != format!("le_dispute_reversal_dp_{day:03}"));
                one("missing_in_ledger", &format!("txn_dispute_reversal_dp_{day:03}"))
            }
            _ => self.plant_in_payout(which, &po),
        }
    }

    fn plant_in_payout(&mut self, which: usize, po: &str) -> Vec<Subject> {
        let now = self.input.now;
        let one = |kind| vec![(kind, po.to_owned())];
        match which {
            17 => {
                self.payout(po).amount += 7;
                self.ledger("payout", po).amount -= 7;
                one("unbalanced_payout")
            }
            18 => {
                self.payout(po).status = "failed".into();
                one("missing_reversal")
            }
            19 => {
                let payout = self.payout(po);
                (payout.status, payout.arrival_date) = ("in_transit".into(), now - 8 * DAY);
                one("overdue_payout")
            }
            20 => {
                self.payout(po).reconciliation_status = Some("in_progress".into());
                one("stale_reconciliation")
            }
            21 => {
                self.ledger("payout", po).amount += 1;
                one("amount_mismatch")
            }
            22 => {
                self.ledger("payout", po).currency = "chf".into();
                one("currency_mismatch")
            }
            23 => {
                let again = LedgerLine { id: format!("le_again_{po}"), ..self.ledger("payout", po).clone() };
                self.input.ledger.push(again);
                one("duplicate_local")
            }
            24 => {
                let other = Payout { trace_id: Some("another".into()), ..self.payout(po).clone() };
                self.input.payouts.push(other);
                one("provider_inconsistent")
            }
            _ => {
                let payout = self.payout(po);
                (payout.status, payout.arrival_date) = ("pending".into(), now - 9 * DAY);
                payout.amount += 7;
                self.ledger("payout", po).amount -= 7;
                [one("unbalanced_payout"), one("overdue_payout")].concat()
            }
        }
    }

    /// Another order, and some pages read twice.
    fn shuffled(&self, seed: u64) -> Input {
        let (mut input, mut dice) = (self.input.clone(), Dice(seed));
        let from = usize::try_from(dice.roll(1 << 20)).unwrap() % input.transactions.len();
        let page: Vec<Transaction> = input.transactions.iter().skip(from).take(100).cloned().collect();
        input.transactions.extend(page);
        input.payouts.extend_from_within(..input.payouts.len() / 2);
        input.payouts.sort_by_cached_key(|_| dice.roll(1 << 20));
        input.transactions.sort_by_cached_key(|_| dice.roll(1 << 20));
        input.ledger.sort_by_cached_key(|_| dice.roll(1 << 20));
        input
    }
}

const FAULTS: usize = 26;

/// Days in which a fault may be planted, each for one fault: no payout there fails or brings back another's money.
fn days(payouts: usize, dice: &mut Dice) -> Vec<usize> {
    let fails = |day: usize| day % 7 == 3 && day + 3 < payouts;
    let mut days: Vec<usize> = (1..payouts).filter(|day| !fails(*day) && !(*day >= 3 && fails(*day - 3))).collect();
    days.sort_by_cached_key(|_| dice.roll(1 << 20));
    days
}

#[test]
fn the_exceptions_are_exactly_the_faults_that_were_planted() {
    let (mut kinds, mut rows, mut payouts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for seed in 0..200 {
        let mut dice = Dice(seed * 7 + 1);
        let size = 36 + usize::try_from(dice.roll(8)).unwrap();
        let mut business = Business::new(seed, size, 1 + usize::try_from(dice.roll(2)).unwrap());
        let mut free = days(size, &mut dice).into_iter();
        let mut expected = BTreeSet::new();
        for which in 0..FAULTS {
            if dice.roll(3) > 0 {
                expected.extend(business.plant(which, free.next().unwrap()));
            }
        }
        let report = reconcile(&business.input);
        assert_eq!(found(&report), expected, "seed {seed}");
        assert_eq!(report.exceptions.len(), expected.len(), "seed {seed}: one exception for each");
        check_sums(&report);
        assert_eq!(report.totals.iter().map(|t| t.currency.as_str()).collect::<Vec<_>>(), ["eur", "jpy", "usd"]);
        let text = serde_json::to_string(&report).unwrap();
        if seed % 8 == 0 {
            assert_eq!(serde_json::to_string(&reconcile(&business.input)).unwrap(), text, "seed {seed}: again");
        }
        assert_eq!(
            serde_json::to_string(&reconcile(&business.shuffled(seed))).unwrap(),
            text,
            "seed {seed}: in another order, with pages twice"
        );
        kinds.extend(report.exceptions.iter().map(|e| e.kind));
        rows.extend(report.summary.transactions.iter().filter(|(name, n)| **n > 0 && **name != "total").map(|(name, _)| *name));
        payouts.extend(report.summary.payouts.iter().filter(|(name, n)| **n > 0 && **name != "total").map(|(name, _)| *name));
    }
    assert_eq!(kinds, ExceptionKind::ALL.iter().copied().collect(), "every kind was there");
    assert_eq!(rows, RowStatus::ALL.iter().map(|s| s.as_str()).collect(), "every row status was there");
    assert_eq!(payouts, PayoutStatus::ALL.iter().map(|s| s.as_str()).collect(), "every payout status was there");
}

#[test]
fn a_business_without_faults_reconciles_whatever_its_size() {
    for (seed, payouts, rows) in [(1, 1, 1), (2, 8, 0), (3, 30, 12), (4, 120, 3), (5, 7, 100)] {
        let report = reconcile(&Business::new(seed, payouts, rows).input);
        assert_eq!(report.exceptions, [], "{payouts} payouts of {rows} charges");
        let s = &report.summary;
        let states = ["balanced", "failed_reversed", "in_transit", "not_itemizable", "pending"].map(|state| s.payouts[state]);
        assert_eq!(states.iter().sum::<u64>(), s.total);
        assert_eq!((s.payouts["in_transit"], s.payouts["not_itemizable"], s.payouts["pending"]), (1, 1, 2));
        assert_eq!(s.transactions["pending_provider"], 3, "a young one, a bank debit and one nobody asked about");
        check_sums(&report);
    }
}

#[test]
fn a_payout_that_cannot_be_read_changes_nothing_but_what_it_must() {
    for seed in 0..20 {
        let mut dice = Dice(seed + 5);
        let mut business = Business::new(seed, 50, 3);
        let mut free = days(50, &mut dice).into_iter();
        // Faults whose rows are older than any grace: with a page missing they must not turn into something else.
        for which in [1, 5, 9, 17, 19, 7, 18] {
            business.plant(which, free.next().unwrap());
        }
        let whole = reconcile(&business.input);
        let lost = format!("po_{:03}", free.next().unwrap());
        let mut input = business.input.clone();
        input.transactions.retain(|t| t.payout.as_deref() != Some(&lost));
        input.errors.push(format!("the balance transactions of payout {lost} could not be read: timed out"));
        (input.complete, input.unread) = (false, vec![lost.clone()]);
        let part = reconcile(&input);
        assert!(!part.ok && !part.complete && part.errors[0].contains(&lost));
        // Of what depends on everything being there, nothing is said; the rest is as it was.
        let depends = |e: &&Exception| !matches!(e.kind, ExceptionKind::MissingProvider | ExceptionKind::MissingReversal);
        assert_eq!(part.exceptions.iter().collect::<Vec<_>>(), whole.exceptions.iter().filter(depends).collect::<Vec<_>>(), "seed {seed}");
        for (a, b) in whole.payouts.iter().zip(&part.payouts) {
            if a.id == lost {
                assert_eq!((b.status, b.residual, b.items), (PayoutStatus::Pending, None, 0));
            } else if a.status != PayoutStatus::MissingReversal {
                assert_eq!(a, b, "seed {seed}");
            }
        }
        check_sums(&part);
    }
}
