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
    query::columns,
};
use crate::{
    error::Result,
    store::engine::{Batch, Engine as _, Row, Value},
};

pub(super) use super::query::{Kind, Query, UNPAID};

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
", "
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, endpoint TEXT NOT NULL, at BIGINT NOT NULL, code BIGINT, error TEXT
);
CREATE INDEX attempt_by_event ON attempt (event);
CREATE INDEX attempt_by_time ON attempt (at);
"];

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
            self.inner.engine.read_here("SELECT body FROM object WHERE id = ?1 AND kind = ?2", vec![id.into(), kind.name().into()]).await?;
        rows.first().map(|row| row.json(0)).transpose()
    }

    /// A document that was read before, as this unit of work left it; none if it was deleted.
    pub(super) fn latest(&self, body: Json) -> Option<Json> {
        self.changed.get(id_of(&body)).map_or(Some(body), Clone::clone)
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
            self.inner.engine.read_here("SELECT seq FROM object WHERE id = ?1 AND kind = ?2", vec![id.into(), kind.name().into()]).await?;
        rows.first().map(|row| row.int(0)).transpose()
    }

    pub(super) async fn read(&self, sql: &'static str, params: Vec<Value>) -> Result<Vec<Row>> {
        self.inner.engine.read_here(sql, params).await
    }

    /// Finds documents, with this request's own changes applied; changed ones come last unless they were there already.
    pub(super) async fn find(&self, query: &Query) -> Result<Vec<Json>> {
        let mut found = Vec::new();
        for row in self.inner.engine.read_here(query.sql(), query.params()).await? {
            let body = row.json(1)?;
            if !self.changed.contains_key(id_of(&body)) {
                found.push(body);
            }
        }
        let own = self.order.iter().filter_map(|id| self.changed[id].as_ref()).filter(|body| query.matches(body)).cloned();
        if query.oldest_first {
            found.extend(own);
        } else {
            found.splice(0..0, own).for_each(drop);
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
        if self.state.offset == offset {
            return;
        }
        self.state.offset = offset;
        self.also(SET_META, vec!["offset".into(), offset.to_string().into()]);
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
    for page in ["hosted_invoice_url", "pdf"] {
        if let Some(Json::String(url)) = map.get_mut(page)
            && url.starts_with('/')
        {
            url.insert_str(0, base);
        }
    }
    if let Some(lines) = map.get_mut("lines").filter(|l| l["data"].is_array()) {
        let data = lines["data"].as_array().cloned().unwrap_or_default();
        lines["has_more"] = json!(data.len() > 10);
        lines["data"] = data.into_iter().take(10).collect();
    }
    body
}
