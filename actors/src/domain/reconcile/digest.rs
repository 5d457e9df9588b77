//! The digest of a reconciliation's input: the same for the same rows in whatever order and however often a page was repeated. Each row
//! has a SHA-256 of its own, taken where it was read; those are sorted and hashed. Sorting, not adding: sums of digests can be forged.
//! Used by the recon actor and the command line through `Sides`.

use super::{
    input::{LedgerView, Payout, TransactionView},
    report::hex,
    sides::Settings,
};
use ring::digest::{Context, SHA256, digest};

/// The SHA-256 of one row's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowDigest([u8; 32]);

/// What was read, row by row.
#[derive(Clone, Debug, Default)]
pub struct Digests {
    /// Of the provider's side: a repeated page changes nothing.
    pub(super) provider: Vec<RowDigest>,
    /// Of the ledger: a row that is there twice is a finding, so it counts twice.
    pub(super) ledger: Vec<RowDigest>,
}

impl Digests {
    /// Lower-case hex over both sides and the settings.
    pub fn finish(mut self, settings: &Settings) -> String {
        self.provider.sort_unstable();
        self.provider.dedup();
        self.ledger.sort_unstable();
        let mut all = Context::new(&SHA256);
        for side in [&self.provider, &self.ledger] {
            all.update(&(side.len() as u64).to_le_bytes());
            for row in side {
                all.update(&row.0);
            }
        }
        let s = settings;
        let mut fields = Fields::new("settings");
        // The moment is no part of it, only how far the window reaches: looked at again, the same data are the same input.
        let reach = if s.window_from > 0 { s.now - s.window_from } else { 0 };
        fields.number(reach).number(s.grace_days).number(s.complete.into());
        for list in [&s.errors, &s.unread, &s.unasked] {
            let mut list = list.clone();
            list.sort_unstable();
            fields.number(i64::try_from(list.len()).unwrap_or(i64::MAX));
            for text in list {
                fields.text(&text);
            }
        }
        fields.text(&s.provider.name).text(&s.provider.api_version).number(s.provider.livemode.into());
        all.update(&fields.digest().0);
        hex(all.finish().as_ref())
    }
}

impl Payout {
    /// Of everything about it that a reconciliation looks at.
    pub fn digest(&self) -> RowDigest {
        let mut fields = Fields::new("payout");
        fields.text(&self.id).number(self.amount).text(&self.currency).text(&self.status).number(self.created);
        fields.number(self.arrival_date).number(self.automatic.into()).text(&self.method);
        for text in [&self.reconciliation_status, &self.balance_transaction, &self.failure_balance_transaction, &self.trace_id] {
            fields.maybe(text.as_deref());
        }
        fields.digest()
    }
}

impl TransactionView<'_> {
    pub fn digest(&self) -> RowDigest {
        let mut fields = Fields::new("transaction");
        fields.text(&self.id).number(self.amount).number(self.fee).number(self.net).text(&self.currency).text(&self.category);
        fields.maybe(self.source.as_deref()).number(self.created).number(self.available_on).maybe_number(self.fee_details);
        fields.maybe_number(self.presentment.as_ref().map(|p| p.0)).maybe(self.presentment.as_ref().map(|p| p.1.as_ref()));
        fields.maybe(self.payout.as_deref());
        fields.digest()
    }
}

impl LedgerView<'_> {
    pub fn digest(&self) -> RowDigest {
        let mut fields = Fields::new("ledger");
        fields.text(&self.id).text(&self.kind).text(&self.source).number(self.seq).number(self.amount).text(&self.currency);
        fields.number(self.at).maybe(self.method.as_deref());
        fields.digest()
    }
}

impl RowDigest {
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

/// Fields one after the other, each with its length or a mark, so that no two rows look alike.
struct Fields(Vec<u8>);

impl Fields {
    fn new(kind: &str) -> Self {
        let mut fields = Self(Vec::with_capacity(256));
        fields.text(kind);
        fields
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(&(text.len() as u64).to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: i64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn maybe(&mut self, text: Option<&str>) -> &mut Self {
        self.0.push(text.is_some().into());
        if let Some(text) = text { self.text(text) } else { self }
    }

    fn maybe_number(&mut self, number: Option<i64>) -> &mut Self {
        self.0.push(number.is_some().into());
        if let Some(number) = number { self.number(number) } else { self }
    }

    fn digest(&self) -> RowDigest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        RowDigest(bytes)
    }
}
