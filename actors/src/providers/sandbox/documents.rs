//! The sandbox's own storage: every object of the provider is one JSON document with a few columns to find it by. Called
//! by all handlers through `Tx`, which collects what a request changes and commits it as one durable batch. Members whose
//! name begins with `_` are the sandbox's own notes and never leave it.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value as Json, json};
use tokio::sync::MutexGuard;

use super::{
    Inner, State,
    control::Chaos,
    failure::{Api, Failure},
    form::Range,
};
use crate::{
    error::Result,
    store::engine::{Batch, Engine as _, Row, Value},
};

pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE object (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, seq BIGINT NOT NULL, created BIGINT NOT NULL,
  customer TEXT, link TEXT, second TEXT, currency TEXT, type TEXT, status TEXT,
  at BIGINT, due BIGINT, net BIGINT, body TEXT NOT NULL
);
CREATE UNIQUE INDEX object_by_seq ON object (seq);
CREATE INDEX object_by_kind ON object (kind, seq);
CREATE INDEX object_by_customer ON object (customer, kind, seq) WHERE customer IS NOT NULL;
CREATE INDEX object_by_link ON object (link, kind, seq) WHERE link IS NOT NULL;
CREATE INDEX object_by_second ON object (second, kind, seq) WHERE second IS NOT NULL;
CREATE INDEX object_by_status ON object (kind, status, currency, net, seq);
CREATE INDEX object_due ON object (due) WHERE due IS NOT NULL;
CREATE TABLE delivery (
  id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, endpoint TEXT NOT NULL,
  attempts BIGINT NOT NULL, due BIGINT, state TEXT NOT NULL, copies BIGINT NOT NULL
);
CREATE INDEX delivery_due ON delivery (due) WHERE state = 'pending';
CREATE TABLE idempotency (
  key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status BIGINT NOT NULL, body TEXT NOT NULL, request TEXT NOT NULL, created BIGINT NOT NULL
);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"];

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
}

impl Kind {
    const ALL: [(Self, &'static str, &'static str); 15] = [
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

    fn of(body: &Json) -> Self {
        let name = body["object"].as_str().unwrap_or_default();
        Self::ALL.iter().find(|(_, n, _)| *n == name).map(|(kind, _, _)| *kind).expect("only documents with a known `object` are stored")
    }
}

/// What a document can be found by.
#[derive(Debug, Default, PartialEq)]
struct Columns {
    customer: Option<String>,
    /// The object it belongs to: a refund's charge, an invoice payment's invoice, a movement's source, ...
    link: Option<String>,
    /// A second one: a movement's payout, a refund's payment intent, ...
    second: Option<String>,
    currency: Option<String>,
    kind: Option<String>,
    status: Option<String>,
    /// The time other than `created` that its list can be filtered by.
    at: Option<i64>,
    due: Option<i64>,
    net: Option<i64>,
}

fn columns(body: &Json) -> Columns {
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
            c.status = Some(if c.link.is_none() { "pending" } else { "attached" }.into());
        }
        Kind::Invoice => {
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
        Kind::Payout => c.at = body["arrival_date"].as_i64(),
        Kind::Event => {
            c.link = body["data"]["object"]["id"].as_str().map(str::to_owned);
            c.status = Some((body["pending_webhooks"] == 0).to_string());
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
    fn matches(&self, body: &Json) -> bool {
        let is = |wanted: &Option<String>, column: &Option<String>| wanted.is_none() || wanted == column;
        let c = columns(body);
        Kind::of(body) == self.kind
            && is(&self.customer, &c.customer)
            && is(&self.link, &c.link)
            && is(&self.second, &c.second)
            && is(&self.currency, &c.currency)
            && is(&self.status, &c.status)
    }

    fn sql(&self) -> &'static str {
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

    fn params(&self) -> Vec<Value> {
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

/// Who asked: goes into the events.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    pub(super) request: Option<String>,
    pub(super) key: Option<String>,
}

/// One unit of work at one moment of virtual time: reads see its own changes, nothing is stored before `commit`.
pub(super) struct Tx<'a> {
    pub(super) inner: &'a Inner,
    state: MutexGuard<'a, State>,
    /// Virtual time, Unix seconds.
    pub(super) now: i64,
    pub(super) origin: Origin,
    pub(super) chaos: Chaos,
    changed: HashMap<String, Option<Json>>,
    order: Vec<String>,
    batch: Batch,
    endpoints_changed: bool,
}

impl<'a> Tx<'a> {
    pub(super) fn new(inner: &'a Inner, state: MutexGuard<'a, State>, now: i64, origin: Origin) -> Self {
        let chaos = state.chaos.clone();
        Self { inner, state, now, origin, chaos, changed: HashMap::new(), order: Vec::new(), batch: Batch::new(), endpoints_changed: false }
    }

    pub(super) fn base(&self) -> String {
        self.inner.base()
    }

    pub(super) fn endpoints(&self) -> Arc<Vec<Json>> {
        self.state.endpoints.clone()
    }

    pub(super) async fn get(&self, kind: Kind, id: &str) -> Result<Option<Json>> {
        if let Some(changed) = self.changed.get(id) {
            return Ok(changed.clone().filter(|body| Kind::of(body) == kind));
        }
        let rows =
            self.inner.engine.read("SELECT body FROM object WHERE id = ?1 AND kind = ?2", vec![id.into(), kind.name().into()]).await?;
        rows.first().map(|row| row.json(0)).transpose()
    }

    /// The object that the URL (`param` is "id") or a parameter names.
    pub(super) async fn need(&self, kind: Kind, id: &str, param: &str) -> Api<Json> {
        match self.get(kind, id).await? {
            Some(body) => Ok(body),
            None => Err(Failure::no_such(kind.name(), id, param)),
        }
    }

    /// The place of an object in the order of creation, for cursors.
    pub(super) async fn place(&self, kind: Kind, id: &str) -> Result<Option<i64>> {
        let rows =
            self.inner.engine.read("SELECT seq FROM object WHERE id = ?1 AND kind = ?2", vec![id.into(), kind.name().into()]).await?;
        rows.first().map(|row| row.int(0)).transpose()
    }

    pub(super) async fn read(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Row>> {
        self.inner.engine.read(sql, params).await
    }

    /// Finds documents, with this request's own changes applied; changed ones come last unless they were there already.
    pub(super) async fn find(&self, query: &Query) -> Result<Vec<Json>> {
        let mut found = Vec::new();
        for row in self.inner.engine.read(query.sql(), query.params()).await? {
            let body = row.json(1)?;
            if !self.changed.contains_key(id_of(&body)) {
                found.push(body);
            }
        }
        let own = self.order.iter().filter_map(|id| self.changed[id].as_ref()).filter(|body| query.matches(body)).cloned();
        if query.oldest_first {
            found.extend(own)
        } else {
            found.splice(0..0, own).for_each(drop)
        }
        Ok(found)
    }

    pub(super) fn put(&mut self, body: Json) {
        self.touch(id_of(&body).to_owned(), Some(body));
    }

    pub(super) fn delete(&mut self, id: &str) {
        self.touch(id.to_owned(), None);
    }

    fn touch(&mut self, id: String, body: Option<Json>) {
        self.endpoints_changed |= Kind::of_id(&id) == Some(Kind::WebhookEndpoint);
        if !self.changed.contains_key(&id) {
            self.order.push(id.clone());
        }
        self.changed.insert(id, body);
    }

    /// A statement of its own in the same transaction, after the documents.
    pub(super) fn also(&mut self, sql: &'static str, params: Vec<Value>) {
        self.batch = std::mem::take(&mut self.batch).sql(sql, params);
    }

    pub(super) fn set_offset(&mut self, offset: i64) {
        self.state.offset = offset;
        self.also(SET_META, vec!["offset".into(), offset.to_string().into()]);
    }

    pub(super) fn offset(&self) -> i64 {
        self.state.offset
    }

    /// Lets time start again from what the offset says.
    pub(super) fn restart_clock(&mut self) {
        self.state.latest = i64::MIN;
    }

    /// Answers when everything is durable.
    pub(super) async fn commit(mut self) -> Result<()> {
        let mut batch = Batch::new();
        for id in &self.order {
            match &self.changed[id] {
                Some(body) => {
                    self.state.next_seq += 1;
                    batch = batch.sql(UPSERT, upsert_params(id, body, self.state.next_seq));
                }
                None => batch = batch.sql("DELETE FROM object WHERE id = ?1", vec![id.as_str().into()]),
            }
        }
        batch.0.append(&mut self.batch.0);
        if self.chaos != self.state.chaos {
            batch = batch.sql(SET_META, vec!["chaos".into(), serde_json::to_string(&self.chaos)?.into()]);
        }
        if batch.0.is_empty() {
            return Ok(());
        }
        self.inner.engine.write(batch).await?;
        self.state.chaos = self.chaos;
        if self.endpoints_changed {
            self.state.endpoints = Arc::new(self.inner.load_endpoints().await?);
        }
        self.inner.wake.notify_one();
        Ok(())
    }
}

pub(super) const SET_META: &str = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";

/// The place in the order of creation is given once and kept.
const UPSERT: &str = "INSERT INTO object (id, kind, seq, created, customer, link, second, currency, type, status, at, due, net, body)
 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
 ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, link = excluded.link, second = excluded.second, currency = excluded.currency,
 type = excluded.type, status = excluded.status, at = excluded.at, due = excluded.due, net = excluded.net, body = excluded.body";

fn upsert_params(id: &str, body: &Json, seq: i64) -> Vec<Value> {
    let c = columns(body);
    let created = body["created"].as_i64().or(body["date"].as_i64()).or(body["_created"].as_i64()).unwrap_or_default();
    vec![
        id.into(),
        Kind::of(body).name().into(),
        seq.into(),
        created.into(),
        c.customer.into(),
        c.link.into(),
        c.second.into(),
        c.currency.into(),
        c.kind.into(),
        c.status.into(),
        c.at.into(),
        c.due.into(),
        c.net.into(),
        body.into(),
    ]
}

pub(super) fn id_of(body: &Json) -> &str {
    body["id"].as_str().unwrap_or_default()
}

/// The document as the outside sees it: without our notes, links to pages completed, an invoice with its first ten lines.
pub(super) fn public(mut body: Json, base: &str) -> Json {
    let Some(map) = body.as_object_mut() else { return body };
    map.retain(|name, _| !name.starts_with('_'));
    if let Some(Json::String(url)) = map.get_mut("hosted_invoice_url")
        && url.starts_with('/')
    {
        url.insert_str(0, base);
    }
    if let Some(lines) = map.get_mut("lines").filter(|l| l["data"].is_array()) {
        let data = lines["data"].as_array().cloned().unwrap_or_default();
        lines["has_more"] = json!(data.len() > 10);
        lines["data"] = data.into_iter().take(10).collect();
    }
    body
}
