//! Looks for balance transactions that would explain why a payout does not equal its items. Used by `reconcile` only; bounded in
//! time, and only ever a hint: nothing is resolved by it.

use super::{
    book::{Book, Class, Row},
    report::{Exception, ExceptionKind, RowStatus, Suspect},
    texts::Name,
};
use hashbrown::HashMap;

/// Newest unsettled rows of which pairs and triples are tried: under 10,000 combinations together.
const PAIRS_OF: usize = 100;
const TRIPLES_OF: usize = 30;
/// More single candidates than this explain nothing.
const SINGLES: usize = 5;

/// What a payout is more than its items; negative when it is less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual {
    /// The payout's.
    pub place: usize,
    pub currency: Name,
    pub amount: i64,
}

pub(super) struct Suspects<'a> {
    book: &'a Book<'a>,
    /// Amount mismatches by payout: (balance transaction, provider minus ledger).
    mismatches: HashMap<&'a str, Vec<(&'a str, i64)>>,
    /// Rows by (currency, net), of the nets that some residual asks for.
    by_net: HashMap<(Name, i64), Vec<&'a Row>>,
    /// The newest rows without a payout, newest first, by currency.
    unsettled: HashMap<Name, Vec<&'a Row>>,
}

impl<'a> Suspects<'a> {
    /// One pass over the rows for all residuals together; none without one.
    pub(super) fn new<'r>(book: &'a Book<'a>, of_rows: &'a [Exception], residuals: impl Iterator<Item = &'r Residual>) -> Self {
        let mut by_net: HashMap<(Name, i64), Vec<&Row>> = HashMap::new();
        let mut unsettled: HashMap<Name, Vec<&Row>> = HashMap::new();
        for residual in residuals {
            by_net.entry((residual.currency, residual.amount)).or_default();
            by_net.entry((residual.currency, -residual.amount)).or_default();
            unsettled.entry(residual.currency).or_default();
        }
        let mut mismatches: HashMap<&str, Vec<(&str, i64)>> = HashMap::new();
        if by_net.is_empty() {
            return Self { book, mismatches, by_net, unsettled };
        }
        for row in &book.rows {
            let tx = book.tx(row);
            if let Some(rows) = by_net.get_mut(&(tx.currency, tx.net)) {
                rows.push(row);
            }
            if row.payout.is_none()
                && let Some(rows) = unsettled.get_mut(&tx.currency)
            {
                rows.push(row);
            }
        }
        for rows in unsettled.values_mut() {
            rows.sort_unstable_by(|a, b| book.age(b).cmp(&book.age(a)));
            rows.truncate(PAIRS_OF);
        }
        for exception in of_rows.iter().filter(|exception| exception.kind == ExceptionKind::AmountMismatch) {
            if let (Some(payout), Some(id), Some(difference)) =
                (&exception.payout_id, &exception.balance_transaction_id, exception.difference)
            {
                mismatches.entry(payout).or_default().push((id, difference));
            }
        }
        Self { book, mismatches, by_net, unsettled }
    }

    pub(super) fn of<'r>(&self, residual: &Residual, members: impl Iterator<Item = &'r Row>) -> Vec<Suspect> {
        let (book, mut found) = (self.book, Vec::new());
        let mismatches = self.mismatches.get(book.payouts[residual.place].id.as_str()).map_or(&[][..], Vec::as_slice);
        found.extend(
            mismatches
                .iter()
                .filter(|(_, difference)| *difference == -residual.amount)
                .map(|(id, _)| suspect([*id], "its amount differs from the ledger by exactly this much")),
        );
        let unknown = members.filter(|row| book.tx(row).net == -residual.amount && row.status == RowStatus::MissingInLedger);
        found.extend(
            unknown.map(|row| {
                suspect([self.id(row)], "it is listed in the payout, the ledger does not know it, and its net is the difference")
            }),
        );
        found.extend(self.elsewhere(residual));
        if found.is_empty() {
            found.extend(self.combination(residual));
        }
        found.sort_by(|a, b| a.balance_transaction_ids.cmp(&b.balance_transaction_ids));
        found.dedup_by(|a, b| a.balance_transaction_ids == b.balance_transaction_ids);
        found.truncate(SINGLES);
        found
    }

    fn id(&self, row: &Row) -> &'a str {
        self.book.sides.text(self.book.tx(row).id)
    }

    /// Single rows outside the payout with exactly this net, of either sign.
    fn elsewhere(&self, residual: &Residual) -> Vec<Suspect> {
        let mut hits: Vec<&Row> = Vec::new();
        for net in [residual.amount, -residual.amount] {
            let rows = self.by_net.get(&(residual.currency, net)).map_or(&[][..], Vec::as_slice);
            let outside = |row: &&Row| row.payout.is_none_or(|other| other as usize != residual.place);
            hits.extend(rows.iter().copied().filter(outside).take(SINGLES + 1));
        }
        if hits.len() > SINGLES {
            return Vec::new();
        }
        let reason = |row: &Row| match (row.class, self.book.tx(row).net == residual.amount) {
            (Class::Fee, _) => "a cost of the provider of this amount, not in the payout",
            (_, true) => "its net is the difference, and it is not in the payout",
            (_, false) => "its net is the difference with the other sign, and it is not in the payout",
        };
        hits.into_iter().map(|row| suspect([self.id(row)], reason(row))).collect()
    }

    /// Two or three unsettled rows that add up to the residual, within a fixed number of tries.
    fn combination(&self, residual: &Residual) -> Option<Suspect> {
        let rows = self.unsettled.get(&residual.currency).map_or(&[][..], Vec::as_slice);
        let (net, wanted) = (|row: &Row| self.book.tx(row).net, residual.amount);
        let reason = "unsettled rows that add up to the difference";
        for (i, a) in rows.iter().enumerate() {
            if let Some(b) = rows[i + 1..].iter().find(|b| net(a) + net(b) == wanted) {
                return Some(suspect([self.id(a), self.id(b)], reason));
            }
        }
        let rows = &rows[..rows.len().min(TRIPLES_OF)];
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate().skip(i + 1) {
                if let Some(c) = rows[j + 1..].iter().find(|c| net(a) + net(b) + net(c) == wanted) {
                    return Some(suspect([self.id(a), self.id(b), self.id(c)], reason));
                }
            }
        }
        None
    }
}

fn suspect<const N: usize>(ids: [&str; N], reason: &str) -> Suspect {
    let mut ids = ids.map(str::to_owned).to_vec();
    ids.sort_unstable();
    Suspect { balance_transaction_ids: ids, reason: reason.to_owned() }
}
