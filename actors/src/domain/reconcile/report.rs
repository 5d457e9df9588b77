//! What payout reconciliation says: the report file's schema (`echopilot.payout_recon/1`), statuses, and exceptions with ids that
//! stay the same from run to run. Written as JSON by the recon actor and the command line; the same input gives the same bytes
//! except for the three fields the caller sets.

use super::input::{Payout, ProviderInfo};
use crate::domain::{money, words::words};
use ring::digest;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The whole report. `ts`, `run_id` and `generated_at` are none until the caller sets them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Same as `summary.ok`: on every record of every task.
    pub ok: bool,
    /// RFC 3339; equal to `generated_at`.
    pub ts: Option<String>,
    /// The timer's run.
    pub run_id: Option<String>,
    pub schema: &'static str,
    /// `prun_` and the first 16 hex digits of the input's digest.
    pub recon_id: String,
    /// `sha256:` and 64 hex digits, independent of the input's order.
    pub input_digest: String,
    pub generated_at: Option<String>,
    pub complete: bool,
    pub errors: Vec<String>,
    pub provider: ProviderInfo,
    pub window: Window,
    pub summary: Summary,
    pub totals: Vec<Total>,
    pub payouts: Vec<PayoutRow>,
    pub unsettled: Vec<Unsettled>,
    pub exceptions: Vec<Exception>,
}

impl Report {
    /// With the names that come from the input's digest (lower-case hex).
    #[must_use]
    pub fn identified(mut self, digest: &str) -> Self {
        self.recon_id = format!("prun_{}", &digest[..16]);
        self.input_digest = format!("sha256:{digest}");
        self
    }
}

/// `from` is none when there is no window; RFC 3339 UTC by the provider's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    pub from: Option<String>,
    pub to: Option<String>,
    pub grace_days: i64,
}

/// Counts. The four integers first: payouts balanced with every row matched; payouts with a mismatch or a residual; payouts with a
/// row the ledger does not know plus such rows that are in no payout yet; all payouts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub ok: bool,
    pub matched: u64,
    pub amount_mismatch: u64,
    pub missing_in_ledger: u64,
    pub total: u64,
    /// The part of `missing_in_ledger` that is in no payout yet.
    pub unsettled_missing: u64,
    /// `total` and one count per status.
    pub payouts: BTreeMap<&'static str, u64>,
    /// `total` and one count per status; ledger rows without a balance transaction are rows of their own.
    pub transactions: BTreeMap<&'static str, u64>,
    pub exceptions: ExceptionCounts,
}

/// New and resolved ones are known to the API, which has the history; a report of one input has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExceptionCounts {
    pub open: u64,
    pub by_severity: BTreeMap<Severity, u64>,
}

/// Sums over the judged payouts of one currency; minor units. `gross + fees + refunds + disputes + other = net`,
/// `net + unexplained = payout_amount`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    pub currency: String,
    pub exponent: u32,
    pub payout_amount: i64,
    pub gross: i64,
    pub fees: i64,
    pub refunds: i64,
    pub disputes: i64,
    pub other: i64,
    pub net: i64,
    pub unexplained: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PayoutRow {
    pub id: String,
    pub status: PayoutStatus,
    pub provider_status: String,
    pub amount: i64,
    pub currency: String,
    pub automatic: bool,
    pub method: String,
    pub created: i64,
    pub arrival_date: i64,
    pub reconciliation_status: Option<String>,
    pub trace_id: Option<String>,
    /// Balance transactions in the payout, its own excluded.
    pub items: u64,
    /// Sum of their net amounts in the payout's currency.
    pub sum_net: i64,
    /// `amount - sum_net`; none when the rows are not there to judge (not itemizable, in progress, unreadable).
    pub residual: Option<i64>,
    pub by_category: Vec<Category>,
    /// Ids of the exceptions that concern this payout or its rows.
    pub exceptions: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Category {
    pub reporting_category: String,
    pub count: u64,
    pub gross: i64,
    pub fee: i64,
    pub net: i64,
}

/// Balance transactions of one currency that are in no payout yet; times in Unix seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsettled {
    pub currency: String,
    pub count: u64,
    pub net: i64,
    pub oldest_created: i64,
    pub next_available_on: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    High,
    Medium,
    Low,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

words!(
    /// The one state of a balance transaction or of a ledger row without one.
    RowStatus {
        Matched = "matched",
        MatchedPendingPayout = "matched_pending_payout",
        FeeBooked = "fee_booked",
        PendingProvider = "pending_provider",
        MissingInLedger = "missing_in_ledger",
        MissingProvider = "missing_provider",
        AmountMismatch = "amount_mismatch",
        CurrencyMismatch = "currency_mismatch",
        DuplicateLocal = "duplicate_local",
        ProviderInconsistent = "provider_inconsistent",
        Unclassified = "unclassified",
    }
);

words!(
    /// The one state of a payout.
    PayoutStatus {
        Balanced = "balanced",
        InTransit = "in_transit",
        Pending = "pending",
        Unbalanced = "unbalanced",
        Overdue = "overdue",
        FailedReversed = "failed_reversed",
        MissingReversal = "missing_reversal",
        NotItemizable = "not_itemizable",
        StaleReconciliation = "stale_reconciliation",
    }
);

words!(
    /// What kind of disagreement an exception is.
    ExceptionKind {
        UnbalancedPayout = "unbalanced_payout",
        MissingReversal = "missing_reversal",
        MissingProvider = "missing_provider",
        CurrencyMismatch = "currency_mismatch",
        MissingInLedger = "missing_in_ledger",
        AmountMismatch = "amount_mismatch",
        DuplicateLocal = "duplicate_local",
        OverduePayout = "overdue_payout",
        ProviderInconsistent = "provider_inconsistent",
        Unclassified = "unclassified",
        StaleReconciliation = "stale_reconciliation",
    }
);

impl ExceptionKind {
    fn severity(self) -> Severity {
        match self {
            Self::UnbalancedPayout | Self::MissingReversal | Self::MissingProvider | Self::CurrencyMismatch => Severity::High,
            Self::MissingInLedger | Self::AmountMismatch | Self::DuplicateLocal | Self::OverduePayout | Self::ProviderInconsistent => {
                Severity::Medium
            }
            Self::Unclassified | Self::StaleReconciliation => Severity::Low,
        }
    }
}

/// One field on which the two sides disagree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    pub field: String,
    pub ledger: Value,
    pub provider: Value,
}

/// Balance transactions that would explain a residual, and why. A hint for a person; nothing is resolved by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suspect {
    pub balance_transaction_ids: Vec<String>,
    pub reason: String,
}

/// A disagreement, explained. `expected` is the ledger's side, `actual` the provider's, minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exception {
    /// `exc_` and 16 hex digits: the same disagreement has the same id in every run.
    pub id: String,
    pub kind: ExceptionKind,
    pub severity: Severity,
    pub status: &'static str,
    pub payout_id: Option<String>,
    pub balance_transaction_id: Option<String>,
    pub source_id: Option<String>,
    pub ledger_ids: Vec<String>,
    pub invoice_id: Option<String>,
    pub currency: String,
    pub expected: Option<i64>,
    pub actual: Option<i64>,
    pub difference: Option<i64>,
    pub explanation: String,
    pub evidence: Vec<Evidence>,
    pub suspects: Vec<Suspect>,
    pub suggested_action: String,
}

impl Exception {
    pub(super) fn new(kind: ExceptionKind, currency: &str, explanation: String, suggested_action: impl Into<String>) -> Self {
        Self {
            id: String::new(),
            kind,
            severity: kind.severity(),
            status: "open",
            payout_id: None,
            balance_transaction_id: None,
            source_id: None,
            ledger_ids: Vec::new(),
            invoice_id: None,
            currency: currency.to_owned(),
            expected: None,
            actual: None,
            difference: None,
            explanation,
            evidence: Vec::new(),
            suspects: Vec::new(),
            suggested_action: suggested_action.into(),
        }
    }

    /// Money at risk in minor units of `currency`: the difference if both sides have an amount, else the one amount there is.
    pub fn at_risk(&self) -> i64 {
        self.difference.or(self.actual).or(self.expected).unwrap_or(0).saturating_abs()
    }

    /// What both sides say, as text: a person's decision about an exception holds as long as this does.
    pub fn sides(&self) -> String {
        let side = |amount: Option<i64>| amount.map_or_else(|| "-".to_owned(), |a| a.to_string());
        let words: Vec<String> = self.evidence.iter().map(|e| format!("{}={}/{}", e.field, e.ledger, e.provider)).collect();
        format!("{}|{}|{}|{}", side(self.expected), side(self.actual), self.currency, words.join(","))
    }

    pub(super) fn evidence(mut self, field: &str, ledger: impl Into<Value>, provider: impl Into<Value>) -> Self {
        self.evidence.push(Evidence { field: field.to_owned(), ledger: ledger.into(), provider: provider.into() });
        self
    }

    pub(super) fn amounts(mut self, expected: Option<i64>, actual: Option<i64>) -> Self {
        (self.expected, self.actual) = (expected, actual);
        self.difference = expected.zip(actual).map(|(expected, actual)| actual - expected);
        self
    }

    /// Settles the id and the severity, once every field is in place. The payout is part of the id only when the disagreement is
    /// about the payout itself: a row keeps its exception (and its acknowledgement) when it moves into a payout.
    pub(super) fn finish(mut self, payout: Option<&Payout>) -> Self {
        self.payout_id = self.payout_id.or_else(|| payout.map(|p| p.id.clone()));
        self.ledger_ids.sort_unstable();
        let of_row = self.balance_transaction_id.is_some() || !self.ledger_ids.is_empty();
        let payout_id = if of_row { "" } else { self.payout_id.as_deref().unwrap_or_default() };
        let key = [
            self.kind.as_str(),
            payout_id,
            self.balance_transaction_id.as_deref().unwrap_or_default(),
            self.source_id.as_deref().unwrap_or_default(),
            &self.ledger_ids.join(","),
        ]
        .join("|");
        self.id = exception_id(&key);
        if let (Severity::Medium, Some(difference), Some(payout)) = (self.severity, self.difference, payout)
            && difference != 0
            && i128::from(difference.abs_diff(0)) * 100 >= i128::from(payout.amount.abs_diff(0))
        {
            self.severity = Severity::High;
        }
        self
    }
}

impl Total {
    pub(super) fn new(currency: &str) -> Self {
        Self { currency: currency.to_owned(), exponent: money::exponent(currency), ..Self::default() }
    }
}

/// `exc_` and 16 hex digits of what makes an exception this one and no other: of every reconciliation, because one list shows them all.
pub(in crate::domain) fn exception_id(key: &str) -> String {
    format!("exc_{}", &hex(digest::digest(&digest::SHA256, key.as_bytes()).as_ref())[..16])
}

pub(in crate::domain) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}
