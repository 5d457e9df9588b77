//! Both sides of a reconciliation as they are kept while it runs: rows of a fixed small size whose texts are in one place. Filled row by
//! row by the recon actor and by the command line, which never holds more than a piece of a file beside it; judged by `reconcile`.

use super::{
    chains::small,
    digest::{Digests, RowDigest},
    input::{Input, LedgerView, Payout, ProviderInfo, TransactionView},
    texts::{Name, Texts},
};
use crate::domain::ledger::Kind;
use hashbrown::HashMap;

/// What a run looks at besides the rows; the fields are those of [`Input`].
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub now: i64,
    pub window_from: i64,
    pub grace_days: i64,
    pub complete: bool,
    pub errors: Vec<String>,
    pub unread: Vec<String>,
    pub unasked: Vec<String>,
    pub provider: ProviderInfo,
}

impl From<&Input> for Settings {
    fn from(input: &Input) -> Self {
        Self {
            now: input.now,
            window_from: input.window_from,
            grace_days: input.grace_days,
            complete: input.complete,
            errors: input.errors.clone(),
            unread: input.unread.clone(),
            unasked: input.unasked.clone(),
            provider: input.provider.clone(),
        }
    }
}

/// A balance transaction; what few of them have is in tables beside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tx {
    pub id: Name,
    pub source: Option<Name>,
    pub payout: Option<Name>,
    pub currency: Name,
    pub category: Name,
    pub amount: i64,
    pub fee: i64,
    pub net: i64,
    pub created: i64,
    pub available_on: i64,
}

/// A ledger row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub id: Name,
    pub kind: Name,
    pub source: Name,
    pub currency: Name,
    pub seq: i64,
    pub amount: i64,
    pub at: i64,
}

/// A payout with the names by which rows refer to it.
#[derive(Clone, Debug)]
pub(super) struct PaidOut {
    pub payout: Payout,
    pub id: Name,
    /// Its own transaction, and the one that brought its money back.
    pub leaving: Option<Name>,
    pub back: Option<Name>,
    pub currency: Name,
}

/// Both sides, unjudged.
#[derive(Clone, Debug)]
pub struct Sides {
    pub(super) texts: Texts,
    /// Of each ledger kind.
    kinds: [Name; Kind::ALL.len()],
    pub(super) payouts: Vec<PaidOut>,
    pub(super) transactions: Vec<Tx>,
    /// The sum of the fee's details, where it is not the fee.
    pub(super) fee_details: HashMap<u32, i64>,
    pub(super) presentments: HashMap<u32, (i64, Name)>,
    pub(super) ledger: Vec<Line>,
    methods: HashMap<u32, Name>,
    digests: Digests,
}

impl Default for Sides {
    fn default() -> Self {
        let mut texts = Texts::default();
        Self {
            kinds: Kind::ALL.map(|kind| texts.name(kind.as_str())),
            texts,
            payouts: Vec::new(),
            transactions: Vec::new(),
            fee_details: HashMap::new(),
            presentments: HashMap::new(),
            ledger: Vec::new(),
            methods: HashMap::new(),
            digests: Digests::default(),
        }
    }
}

impl Sides {
    pub fn of(input: &Input) -> Self {
        let mut sides = Self::default();
        input.payouts.iter().for_each(|payout| sides.payout(payout.clone()));
        for transaction in &input.transactions {
            let view = TransactionView::from(transaction.clone());
            sides.transaction(&view, view.digest());
        }
        for line in &input.ledger {
            let view = LedgerView::from(line.clone());
            sides.line(&view, view.digest());
        }
        sides
    }

    pub fn payout(&mut self, payout: Payout) {
        self.digests.provider.push(payout.digest());
        let texts = &mut self.texts;
        self.payouts.push(PaidOut {
            id: texts.name(&payout.id),
            leaving: payout.balance_transaction.as_deref().map(|id| texts.name(id)),
            back: payout.failure_balance_transaction.as_deref().map(|id| texts.name(id)),
            currency: texts.name(&payout.currency),
            payout,
        });
    }

    /// `digest` is the view's: it costs more than keeping the row, so readers take it in their own threads.
    pub fn transaction(&mut self, tx: &TransactionView<'_>, digest: RowDigest) {
        let (at, texts) = (small(self.transactions.len()), &mut self.texts);
        if let Some(details) = tx.fee_details.filter(|details| *details != tx.fee) {
            self.fee_details.insert(at, details);
        }
        if let Some((amount, currency)) = &tx.presentment {
            self.presentments.insert(at, (*amount, texts.name(currency)));
        }
        self.transactions.push(Tx {
            id: texts.name(&tx.id),
            source: tx.source.as_deref().map(|id| texts.name(id)),
            payout: tx.payout.as_deref().map(|id| texts.name(id)),
            currency: texts.name(&tx.currency),
            category: texts.name(&tx.category),
            amount: tx.amount,
            fee: tx.fee,
            net: tx.net,
            created: tx.created,
            available_on: tx.available_on,
        });
        self.digests.provider.push(digest);
    }

    /// `digest` is the view's.
    pub fn line(&mut self, line: &LedgerView<'_>, digest: RowDigest) {
        let (at, texts) = (small(self.ledger.len()), &mut self.texts);
        if let Some(method) = &line.method {
            self.methods.insert(at, texts.name(method));
        }
        self.ledger.push(Line {
            id: texts.name(&line.id),
            kind: texts.name(&line.kind),
            source: texts.name(&line.source),
            currency: texts.name(&line.currency),
            seq: line.seq,
            amount: line.amount,
            at: line.at,
        });
        self.digests.ledger.push(digest);
    }

    /// How many payouts, balance transactions and ledger rows were put in.
    pub fn counts(&self) -> [usize; 3] {
        [self.payouts.len(), self.transactions.len(), self.ledger.len()]
    }

    /// The rows' digests, for `Report::identified`; they are not kept for judging.
    pub fn take_digests(&mut self) -> Digests {
        std::mem::take(&mut self.digests)
    }

    /// Ids of payouts that transactions name and that are not there: their sums cannot be judged. Sorted.
    pub fn unknown_payouts(&self) -> Vec<String> {
        let mut missing: Vec<bool> = vec![false; self.texts.len()];
        self.transactions.iter().filter_map(|tx| tx.payout).for_each(|payout| missing[payout.index()] = true);
        self.payouts.iter().for_each(|known| missing[known.id.index()] = false);
        let mut ids: Vec<String> =
            self.texts.names().filter(|name| missing[name.index()]).map(|name| self.texts.get(name).to_owned()).collect();
        ids.sort_unstable();
        ids
    }

    pub(super) fn kind(&self, kind: Kind) -> Name {
        let at = Kind::ALL.iter().position(|k| *k == kind).expect("the list has every kind");
        self.kinds[at]
    }

    pub(super) fn text(&self, name: Name) -> &str {
        self.texts.get(name)
    }

    /// A transaction with its texts.
    pub(super) fn tx(&self, at: u32) -> TransactionView<'_> {
        let tx = &self.transactions[at as usize];
        let text = |name: Name| self.text(name).into();
        TransactionView {
            id: text(tx.id),
            amount: tx.amount,
            fee: tx.fee,
            net: tx.net,
            currency: text(tx.currency),
            category: text(tx.category),
            source: tx.source.map(text),
            created: tx.created,
            available_on: tx.available_on,
            fee_details: self.fee_details.get(&at).copied(),
            presentment: self.presentments.get(&at).map(|(amount, currency)| (*amount, text(*currency))),
            payout: tx.payout.map(text),
        }
    }

    /// A ledger row with its texts.
    pub(super) fn ledger_line(&self, at: u32) -> LedgerView<'_> {
        let line = &self.ledger[at as usize];
        LedgerView {
            id: self.text(line.id).into(),
            kind: self.text(line.kind).into(),
            source: self.text(line.source).into(),
            seq: line.seq,
            amount: line.amount,
            currency: self.text(line.currency).into(),
            at: line.at,
            method: self.methods.get(&at).map(|name| self.text(*name).into()),
        }
    }
}
