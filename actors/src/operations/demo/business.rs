//! The business of the demo, as a pure function of a seed: who its customers are, what they subscribe to, and on which day each of
//! them does what. Called by `mod.rs`. It knows no provider and no clock: the same seed is the same year, everywhere.

/// Without a seed of one's own.
pub const SEED: u64 = 1869;
/// How many days the story lasts.
pub const DAYS: i64 = 365;
/// Customers of a whole year; a shorter story has fewer.
const CUSTOMERS_A_YEAR: i64 = 320;

/// A plan with its monthly amounts in minor units; a year costs ten months.
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) usd: i64,
    pub(super) eur: i64,
}

pub(super) const PLANS: [Plan; 4] = [
    Plan { name: "Solo", usd: 1900, eur: 1700 },
    Plan { name: "Team", usd: 4900, eur: 4500 },
    Plan { name: "Studio", usd: 12_900, eur: 11_900 },
    Plan { name: "Workshop", usd: 29_900, eur: 27_900 },
];
pub(super) const CURRENCIES: [&str; 2] = ["usd", "eur"];

/// What a customer pays: a plan of `PLANS`, by the month or by the year.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rate {
    pub(super) plan: usize,
    pub(super) yearly: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Customer {
    pub(super) name: String,
    pub(super) email: String,
    pub(super) currency: &'static str,
    pub(super) card: &'static str,
}

/// What happens with one customer on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Join {
        rate: Rate,
        trial: bool,
    },
    /// Another plan or interval; invoiced at once or with the next invoice.
    Change {
        rate: Rate,
        at_once: bool,
    },
    /// The end, now or when what is paid for is used up.
    Leave {
        at_once: bool,
    },
    /// From now on the card is declined.
    CardFails,
    NewCard,
    OneOff {
        what: &'static str,
        amount: i64,
    },
    /// Of the newest payment: all of it, or so many percent.
    Refund {
        percent: Option<i64>,
    },
    /// The customer's bank asks for the newest payment; `won` and `lost` close what is open.
    Dispute {
        outcome: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deed {
    pub(super) day: i64,
    /// Index into the customers.
    pub(super) customer: usize,
    pub(super) act: Act,
}

/// A year, or as many days as asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Business {
    pub(super) days: i64,
    pub(super) customers: Vec<Customer>,
    /// In the order of days; within a day in the order of customers.
    pub(super) deeds: Vec<Deed>,
}

impl Business {
    pub(super) fn new(seed: u64, days: i64) -> Self {
        let count = usize::try_from((CUSTOMERS_A_YEAR * days / 365).max(12)).unwrap_or(12);
        let mut chance = Chance(seed);
        let mut business = Self { days, customers: Vec::with_capacity(count), deeds: Vec::new() };
        for n in 0..count {
            let customer = customer(n, &mut chance);
            business.customers.push(customer);
            let joins = joining_day(n, count, days);
            live(&mut business.deeds, n, joins, days, &mut chance);
        }
        disputes(&mut business, &mut chance);
        business.deeds.retain(|deed| deed.day <= days);
        business.deeds.sort_by_key(|deed| (deed.day, deed.customer));
        business
    }

    pub(super) fn on(&self, day: i64) -> impl Iterator<Item = &Deed> {
        let from = self.deeds.partition_point(|deed| deed.day < day);
        self.deeds[from..].iter().take_while(move |deed| deed.day == day)
    }
}

/// Steady growth: at the end three times as many join in a month as in the beginning. The day up to which a share `x` of all have
/// joined solves `x = (d + d²) / 2` for `d` as a share of the days.
fn joining_day(n: usize, count: usize, days: i64) -> i64 {
    let (n, count) = (i64::try_from(n).unwrap_or(0), i64::try_from(count).unwrap_or(1));
    (0..days).find(|d| (d * days + d * d) * count >= 2 * n * days * days).unwrap_or(days - 1)
}

/// One customer's time with the business.
fn live(deeds: &mut Vec<Deed>, customer: usize, joins: i64, days: i64, chance: &mut Chance) {
    let mut does = |day: i64, act: Act| deeds.push(Deed { day, customer, act });
    let mut rate = Rate { plan: chance.weighted(&[45, 32, 17, 6]), yearly: chance.percent(14) };
    does(joins, Act::Join { rate, trial: chance.percent(12) });
    let mut leaves = i64::MAX;
    let mut month = 1;
    while joins + 30 * month <= days && !rate.yearly {
        let renewal = joins + 30 * month;
        let roll = chance.below(1000);
        let staying = if month <= 3 { 60 } else { 30 };
        if roll < staying {
            leaves = renewal - 1 - chance.below(11);
            does(leaves, Act::Leave { at_once: chance.percent(12) });
            break;
        } else if roll < staying + 45 {
            does(renewal - 4, Act::CardFails);
            if chance.percent(35) {
                leaves = renewal - 4;
                break;
            }
            does(renewal + 2 + chance.below(8), Act::NewCard);
        } else if roll < staying + 95 {
            if chance.percent(15) {
                rate.yearly = true;
            } else {
                rate.plan = (rate.plan + 1).min(PLANS.len() - 1);
            }
            does(renewal + 3 + chance.below(15), Act::Change { rate, at_once: chance.percent(35) });
        } else if roll < staying + 112 && rate.plan > 0 {
            rate.plan -= 1;
            does(renewal + 3 + chance.below(15), Act::Change { rate, at_once: chance.percent(35) });
        }
        month += 1;
    }
    if chance.percent(10) {
        let (what, amount) = [("Setup and data import", 25_000), ("Training day", 45_000), ("Printed manuals", 8900)][chance.index(3)];
        let day = joins + 3 + chance.below(150);
        if day < leaves {
            does(day, Act::OneOff { what, amount });
        }
    }
    if chance.percent(8) {
        let day = joins + 5 + chance.below(120);
        let percent = [None, None, Some(50), Some(25)][chance.index(4)];
        if day < leaves {
            does(day, Act::Refund { percent });
        }
    }
}

/// A few disputes: some won, some lost, and one from last week that is open.
fn disputes(business: &mut Business, chance: &mut Chance) {
    let joined = |deed: &Deed| matches!(deed.act, Act::Join { trial: false, .. });
    let steady: Vec<(usize, i64)> = business
        .deeds
        .iter()
        .filter(|deed| joined(deed))
        .map(|deed| (deed.customer, deed.day))
        .filter(|(customer, _)| business.deeds.iter().filter(|deed| deed.customer == *customer).count() == 1)
        .collect();
    let wanted = (business.days / 60).max(3);
    for (n, outcome) in (0..wanted).zip(["open", "lost", "won"].into_iter().cycle()) {
        // The open one is new; the others are spread over the time before it.
        let day = if n == 0 { business.days - 6 } else { business.days - 20 - n * business.days / (wanted + 2) };
        let able: Vec<usize> = steady.iter().filter(|(_, joins)| *joins + 2 < day).map(|(customer, _)| *customer).collect();
        let Some(customer) = able.get(chance.index(able.len().max(1))).copied() else { continue };
        if business.deeds.iter().any(|deed| deed.customer == customer && matches!(deed.act, Act::Dispute { .. })) {
            continue;
        }
        business.deeds.push(Deed { day, customer, act: Act::Dispute { outcome: "open" } });
        if n > 0 && outcome != "open" {
            business.deeds.push(Deed { day: day + 8, customer, act: Act::Dispute { outcome } });
        }
    }
}

const FIRST: [&str; 24] = [
    "Ana", "Tomás", "Priya", "Otto", "Giulia", "Juno", "Maren", "Elias", "Noor", "Sanne", "Pavel", "Ingrid", "Hugo", "Leila", "Marta",
    "Jonas", "Aoife", "Kofi", "Yara", "Mateo", "Clara", "Emil", "Vera", "Ruben",
];
const LAST: [&str; 20] = [
    "Ribeiro",
    "Herrera",
    "Natarajan",
    "Brandt",
    "Conti",
    "Park",
    "Lindqvist",
    "De Vries",
    "Moreau",
    "Okafor",
    "Novak",
    "Haddad",
    "Sørensen",
    "Kowalski",
    "Byrne",
    "Mensah",
    "Castillo",
    "Weber",
    "Horvat",
    "Laine",
];
const PLACE: [&str; 16] = [
    "Harbour",
    "Copper",
    "Maple",
    "Northlight",
    "Redwood",
    "Saltmarsh",
    "Fernbank",
    "Kestrel",
    "Orchard",
    "Blue Door",
    "Juniper",
    "Lantern",
    "Millstone",
    "Quayside",
    "Thistle",
    "Willow",
];
const TRADE: [&str; 14] = [
    "Books",
    "Dental",
    "Yoga",
    "Cycles",
    "Ceramics",
    "School",
    "Analytics",
    "Realty",
    "Clinic",
    "Bakery",
    "Studio",
    "Press",
    "Gardens",
    "Legal",
];

fn customer(n: usize, chance: &mut Chance) -> Customer {
    let name = if chance.percent(55) {
        format!("{} {}", PLACE[chance.index(PLACE.len())], TRADE[chance.index(TRADE.len())])
    } else {
        format!("{} {}", FIRST[chance.index(FIRST.len())], LAST[chance.index(LAST.len())])
    };
    let host: String = name.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    Customer {
        email: format!("billing@{host}{n}.example"),
        name,
        currency: CURRENCIES[chance.weighted(&[62, 38])],
        card: ["pm_card_visa", "pm_card_mastercard", "pm_card_amex"][chance.weighted(&[60, 32, 8])],
    }
}

/// Repeatable chance: the `SplitMix64` sequence of a seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below `bound`.
    fn below(&mut self, bound: i64) -> i64 {
        i64::try_from(self.next() % bound.unsigned_abs().max(1)).unwrap_or(0)
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(i64::try_from(length).unwrap_or(1))).unwrap_or(0)
    }

    fn percent(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    /// An index, each as likely as its weight says.
    fn weighted(&mut self, weights: &[i64]) -> usize {
        let mut roll = self.below(weights.iter().sum());
        weights
            .iter()
            .position(|weight| {
                roll -= weight;
                roll < 0
            })
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn count(business: &Business, wanted: impl Fn(&Act) -> bool) -> usize {
        business.deeds.iter().filter(|deed| wanted(&deed.act)).count()
    }

    #[test]
    fn a_seed_is_a_year_and_another_seed_is_another() {
        assert_eq!(Business::new(7, DAYS), Business::new(7, DAYS));
        assert_ne!(Business::new(7, DAYS).deeds, Business::new(8, DAYS).deeds);
    }

    #[test]
    fn every_seeds_year_has_all_that_a_business_has() {
        for seed in [SEED, 0, 1, 2, u64::MAX] {
            let b = Business::new(seed, DAYS);
            assert_eq!(b.customers.iter().map(|c| &c.email).collect::<HashSet<_>>().len(), b.customers.len());
            assert_eq!(b.customers.iter().map(|c| c.currency).collect::<HashSet<_>>(), HashSet::from(CURRENCIES));
            let rates: HashSet<Rate> =
                b.deeds.iter().filter_map(|d| if let Act::Join { rate, .. } = d.act { Some(rate) } else { None }).collect();
            assert!(rates.len() >= 6, "{seed}: {rates:?}");
            for (what, least, most, n) in [
                ("trials", 15, 70, count(&b, |a| matches!(a, Act::Join { trial: true, .. }))),
                ("changes", 30, 160, count(&b, |a| matches!(a, Act::Change { .. }))),
                ("ends", 30, 130, count(&b, |a| matches!(a, Act::Leave { .. }))),
                ("failing cards", 25, 110, count(&b, |a| matches!(a, Act::CardFails))),
                ("new cards", 10, 90, count(&b, |a| matches!(a, Act::NewCard))),
                ("one-off invoices", 10, 60, count(&b, |a| matches!(a, Act::OneOff { .. }))),
                ("full refunds", 2, 40, count(&b, |a| matches!(a, Act::Refund { percent: None }))),
                ("partial refunds", 2, 40, count(&b, |a| matches!(a, Act::Refund { percent: Some(_) }))),
                ("lost disputes", 1, 5, count(&b, |a| matches!(a, Act::Dispute { outcome: "lost" }))),
                ("won disputes", 1, 5, count(&b, |a| matches!(a, Act::Dispute { outcome: "won" }))),
            ] {
                assert!((least..=most).contains(&n), "{seed}: {n} {what}");
            }
        }
    }

    #[test]
    fn more_join_every_quarter() {
        let b = Business::new(SEED, DAYS);
        let mut quarters = [0; 4];
        for deed in b.deeds.iter().filter(|deed| matches!(deed.act, Act::Join { .. })) {
            quarters[usize::try_from(deed.day * 4 / (DAYS + 1)).unwrap()] += 1;
        }
        assert!(quarters.is_sorted() && quarters[3] > 2 * quarters[0] && quarters.iter().sum::<usize>() >= 300, "{quarters:?}");
    }

    #[test]
    fn nobody_does_anything_before_joining_or_after_leaving() {
        for seed in 0..20 {
            let b = Business::new(seed, DAYS);
            let mut left: HashMap<usize, bool> = HashMap::new();
            for deed in &b.deeds {
                match (left.get(&deed.customer), deed.act) {
                    (None, Act::Join { .. }) => drop(left.insert(deed.customer, false)),
                    (None, _) => panic!("{seed}: {deed:?} before joining"),
                    (Some(true), act) => panic!("{seed}: {act:?} after leaving"),
                    (Some(false), Act::Leave { .. }) => drop(left.insert(deed.customer, true)),
                    (Some(false), _) => {}
                }
                assert!((0..=DAYS).contains(&deed.day));
            }
        }
    }

    #[test]
    fn a_day_has_its_deeds_and_no_others() {
        let b = Business::new(SEED, 60);
        let by_day: usize = (0..=60).map(|day| b.on(day).count()).sum();
        assert_eq!(by_day, b.deeds.len());
        assert!(b.on(3).all(|deed| deed.day == 3));
    }
}
