//! What kinds of objects there are, what they can be found by, and the statements that find them. Called by `documents.rs` for
//! every read and write, and by the handlers to say what they are looking for.

use serde_json::Value as Json;

use super::form::Range;
use crate::store::engine::Value;

/// The kinds of objects. The prefix of an id tells its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Customer,
    PaymentMethod,
    Product,
    Price,
    InvoiceItem,
    Invoice,
    InvoicePayment,
    PaymentIntent,
    Charge,
    Refund,
    BalanceTransaction,
    Payout,
    Dispute,
    Event,
    WebhookEndpoint,
    CreditNote,
    Subscription,
}

impl Kind {
    const ALL: [(Self, &'static str, &'static str); 17] = [
        (Self::Customer, "customer", "cus"),
        (Self::PaymentMethod, "payment_method", "pm"),
        (Self::Product, "product", "prod"),
        (Self::Price, "price", "price"),
        (Self::InvoiceItem, "invoiceitem", "ii"),
        (Self::Invoice, "invoice", "in"),
        (Self::InvoicePayment, "invoice_payment", "inpay"),
        (Self::PaymentIntent, "payment_intent", "pi"),
        (Self::Charge, "charge", "ch"),
        (Self::Refund, "refund", "re"),
        (Self::BalanceTransaction, "balance_transaction", "txn"),
        (Self::Payout, "payout", "po"),
        (Self::Dispute, "dispute", "dp"),
        (Self::Event, "event", "evt"),
        (Self::WebhookEndpoint, "webhook_endpoint", "we"),
        (Self::CreditNote, "credit_note", "cn"),
        (Self::Subscription, "subscription", "sub"),
    ];

    /// The value of `object` in the kind's documents.
    pub(super) fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub(super) fn new_id(self) -> String {
        format!("{}_{}", Self::ALL[self as usize].2, super::random_text(24))
    }

    pub(super) fn of_id(id: &str) -> Option<Self> {
        let prefix = id.split_once('_')?.0;
        Self::ALL.iter().find(|(_, _, p)| *p == prefix).map(|(kind, _, _)| *kind)
    }

    pub(super) fn of(body: &Json) -> Self {
        let name = body["object"].as_str().unwrap_or_default();
        Self::ALL.iter().find(|(_, n, _)| *n == name).map(|(kind, _, _)| *kind).expect("only documents with a known `object` are stored")
    }
}

/// What a document can be found by.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Columns {
    pub(super) customer: Option<String>,
    /// The object it belongs to: a refund's charge, an invoice payment's invoice, a movement's source, ...
    pub(super) link: Option<String>,
    /// A second one: a movement's payout, a refund's payment intent, ...
    pub(super) second: Option<String>,
    pub(super) currency: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) status: Option<String>,
    /// The time other than `created` that its list can be filtered by.
    pub(super) at: Option<i64>,
    pub(super) due: Option<i64>,
    pub(super) net: Option<i64>,
}

pub(super) fn columns(body: &Json) -> Columns {
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let mut c = Columns {
        customer: text("customer"),
        currency: text("currency"),
        kind: text("type"),
        status: text("status"),
        due: body["_due"].as_i64(),
        ..Columns::default()
    };
    match Kind::of(body) {
        Kind::Customer => {
            c.link = text("email");
            c.status = Some(if body["deleted"] == true { "deleted" } else { "active" }.into());
        }
        Kind::Product => c.status = body["active"].as_bool().map(|a| a.to_string()),
        Kind::Price => {
            c.link = text("product");
            c.status = body["active"].as_bool().map(|a| a.to_string());
        }
        Kind::InvoiceItem => {
            c.link = text("invoice");
            c.second = body["parent"]["subscription_details"]["subscription"].as_str().map(str::to_owned);
            c.status = Some(if c.link.is_none() { "pending" } else { "attached" }.into());
        }
        Kind::Invoice => {
            c.link = body["parent"]["subscription_details"]["subscription"].as_str().map(str::to_owned);
            c.at = body["due_date"].as_i64();
            c.kind = text("collection_method");
        }
        Kind::InvoicePayment => {
            c.link = text("invoice");
            c.second = body["payment"]["payment_intent"].as_str().map(str::to_owned);
        }
        Kind::Charge => c.link = text("payment_intent"),
        Kind::Refund | Kind::Dispute => (c.link, c.second) = (text("charge"), text("payment_intent")),
        Kind::BalanceTransaction => {
            (c.link, c.second) = (text("source"), text("_payout"));
            (c.at, c.net) = (body["available_on"].as_i64(), body["net"].as_i64());
            if c.status.as_deref() == Some("available") && c.second.is_none() {
                c.status = Some(UNPAID.into());
            }
        }
        Kind::CreditNote => c.link = text("invoice"),
        Kind::Payout => (c.at, c.link) = (body["arrival_date"].as_i64(), text("destination")),
        Kind::Event => {
            c.link = body["data"]["object"]["id"].as_str().map(str::to_owned);
            c.status = Some((body["pending_webhooks"] == 0).to_string());
        }
        Kind::Subscription => {
            let item = &body["items"]["data"][0];
            c.link = item["price"]["id"].as_str().map(str::to_owned);
            // A list can ask for several states at once, which only the type column knows.
            (c.second, c.kind, c.at) = (text("collection_method"), text("status"), item["current_period_end"].as_i64());
        }
        Kind::WebhookEndpoint => c.second = (body["_daemon"] == true).then(|| "daemon".to_owned()),
        Kind::PaymentMethod | Kind::PaymentIntent => {}
    }
    c
}

/// The status column of a movement that is available and not yet part of a payout.
pub(super) const UNPAID: &str = "unpaid";

/// Which documents to find; everything that is `None` does not matter.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) kind: Kind,
    pub(super) customer: Option<String>,
    pub(super) link: Option<String>,
    pub(super) second: Option<String>,
    pub(super) currency: Option<String>,
    /// `*` and `?` stand for other characters.
    pub(super) type_like: Option<String>,
    /// Types separated and surrounded by commas.
    pub(super) types: Option<String>,
    pub(super) status: Option<String>,
    pub(super) created: Range,
    pub(super) at: Option<Range>,
    /// Exclusive bounds on the place in the order of creation.
    pub(super) after: i64,
    pub(super) before: i64,
    pub(super) oldest_first: bool,
    pub(super) limit: i64,
}

impl Query {
    /// All of a kind, oldest first.
    pub(super) fn of(kind: Kind) -> Self {
        Self {
            kind,
            customer: None,
            link: None,
            second: None,
            currency: None,
            type_like: None,
            types: None,
            status: None,
            created: Range::ALL,
            at: None,
            after: i64::MIN,
            before: i64::MAX,
            oldest_first: true,
            limit: i64::MAX,
        }
    }

    pub(super) fn linked(kind: Kind, id: &str) -> Self {
        Self { link: Some(id.to_owned()), ..Self::of(kind) }
    }

    pub(super) fn with_status(kind: Kind, status: &str) -> Self {
        Self { status: Some(status.to_owned()), ..Self::of(kind) }
    }

    /// Whether a changed document belongs to the answer; only what handlers ask for within a request.
    pub(super) fn matches(&self, body: &Json) -> bool {
        let is = |wanted: &Option<String>, column: &Option<String>| wanted.is_none() || wanted == column;
        let c = columns(body);
        Kind::of(body) == self.kind
            && is(&self.customer, &c.customer)
            && is(&self.link, &c.link)
            && is(&self.second, &c.second)
            && is(&self.currency, &c.currency)
            && is(&self.status, &c.status)
    }

    pub(super) fn sql(&self) -> &'static str {
        macro_rules! select {
            ($lead:literal, $order:literal) => {
                concat!(
                    "SELECT seq, body FROM object WHERE ",
                    $lead,
                    " AND kind = ?1 AND seq > ?2 AND seq < ?3 AND created BETWEEN ?4 AND ?5
                     AND (?6 IS NULL OR at BETWEEN ?6 AND ?7) AND (?8 IS NULL OR customer = ?8) AND (?9 IS NULL OR link = ?9)
                     AND (?10 IS NULL OR second = ?10) AND (?11 IS NULL OR currency = ?11) AND (?12 IS NULL OR type GLOB ?12)
                     AND (?13 IS NULL OR instr(?13, ',' || type || ',') > 0) AND (?14 IS NULL OR status = ?14)
                     ORDER BY seq ",
                    $order,
                    " LIMIT ?15"
                )
            };
        }
        // One text per index, because the planner cannot use one for "parameter is null or equal".
        match (self.oldest_first, &self.link, &self.second, &self.customer, &self.status) {
            (true, Some(_), ..) => select!("link = ?9", "ASC"),
            (false, Some(_), ..) => select!("link = ?9", "DESC"),
            (true, _, Some(_), ..) => select!("second = ?10", "ASC"),
            (false, _, Some(_), ..) => select!("second = ?10", "DESC"),
            (true, _, _, Some(_), _) => select!("customer = ?8", "ASC"),
            (false, _, _, Some(_), _) => select!("customer = ?8", "DESC"),
            (true, _, _, _, Some(_)) => select!("status = ?14", "ASC"),
            (false, _, _, _, Some(_)) => select!("status = ?14", "DESC"),
            (true, ..) => select!("1 = 1", "ASC"),
            (false, ..) => select!("1 = 1", "DESC"),
        }
    }

    pub(super) fn params(&self) -> Vec<Value> {
        vec![
            self.kind.name().into(),
            self.after.into(),
            self.before.into(),
            self.created.min.into(),
            self.created.max.into(),
            self.at.map(|r| r.min).into(),
            self.at.map(|r| r.max).into(),
            self.customer.as_deref().into(),
            self.link.as_deref().into(),
            self.second.as_deref().into(),
            self.currency.as_deref().into(),
            self.type_like.as_deref().into(),
            self.types.as_deref().into(),
            self.status.as_deref().into(),
            self.limit.into(),
        ]
    }
}
