-- The journal: append-only, hash-chained, one chain per writer (domain/journal.rs).
CREATE TABLE journal (
  writer TEXT NOT NULL, seq BIGINT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL, data TEXT NOT NULL,
  prev BLOB NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (writer, seq));
CREATE TABLE journal_head (writer TEXT PRIMARY KEY, seq BIGINT NOT NULL, hash BLOB NOT NULL);

-- Webhook events as received. status: received | processed | failed | ignored. origin: webhook | backfill.
CREATE TABLE webhook_event (
  n INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, event_type TEXT NOT NULL, object_id TEXT, created BIGINT NOT NULL,
  livemode BIGINT NOT NULL, received_at BIGINT NOT NULL, status TEXT NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, error TEXT,
  duplicates BIGINT NOT NULL DEFAULT 0, origin TEXT NOT NULL, processed_at BIGINT, next_try_at BIGINT, body TEXT NOT NULL);
CREATE INDEX webhook_event_open ON webhook_event (next_try_at, n) WHERE status = 'received';
CREATE INDEX webhook_event_type ON webhook_event (event_type, n);

-- The last known state of a provider's object; never replaced by an older event (domain/ledger.rs).
CREATE TABLE provider_object (
  kind TEXT NOT NULL, id TEXT NOT NULL, livemode BIGINT NOT NULL, status TEXT NOT NULL, rank BIGINT NOT NULL, event_created BIGINT NOT NULL,
  customer TEXT, email TEXT, amount BIGINT NOT NULL, currency TEXT NOT NULL, parent TEXT, created BIGINT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, id));
CREATE INDEX provider_object_email ON provider_object (email) WHERE email IS NOT NULL;
CREATE INDEX provider_object_customer ON provider_object (kind, customer);
CREATE INDEX provider_object_parent ON provider_object (kind, parent) WHERE parent IS NOT NULL;

-- The business's own ledger: append-only; amounts are signed minor units of `currency`.
CREATE TABLE ledger (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, provider TEXT NOT NULL, livemode BIGINT NOT NULL, kind TEXT NOT NULL, source TEXT NOT NULL,
  seq BIGINT NOT NULL, amount BIGINT NOT NULL, currency TEXT NOT NULL, at BIGINT NOT NULL, customer TEXT, invoice TEXT, payment_intent TEXT,
  event_id TEXT, origin TEXT NOT NULL, recorded_at BIGINT NOT NULL, UNIQUE (provider, livemode, kind, source, seq));
CREATE INDEX ledger_at ON ledger (at);

-- The occurrence ledger: a row for every due slot, and for every manual run.
CREATE TABLE task_run (
  n INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, task TEXT NOT NULL, slot BIGINT NOT NULL, cause TEXT NOT NULL, state TEXT NOT NULL,
  reason TEXT, attempts BIGINT NOT NULL DEFAULT 0, asked_by TEXT, incarnation TEXT NOT NULL, started_at BIGINT, ended_at BIGINT,
  lag_ms BIGINT, error TEXT, result TEXT);
CREATE UNIQUE INDEX task_run_slot ON task_run (task, slot) WHERE cause <> 'manual';
CREATE INDEX task_run_task ON task_run (task, n);
CREATE INDEX task_run_open ON task_run (state) WHERE state IN ('pending', 'running');
-- Every slot of the task up to and including `through` has its row (or had one, before history was pruned).
CREATE TABLE task_mark (task TEXT PRIMARY KEY, through BIGINT NOT NULL);

-- Reconciliation runs with both sides' inputs, so that each can be recomputed offline.
CREATE TABLE recon_run (
  n INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, recon_id TEXT NOT NULL, kind TEXT NOT NULL, at BIGINT NOT NULL, complete BIGINT NOT NULL,
  ok BIGINT NOT NULL, inputs BLOB NOT NULL, report TEXT NOT NULL);
CREATE TABLE recon_exception (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, severity TEXT NOT NULL, status TEXT NOT NULL, first_seen BIGINT NOT NULL, last_seen BIGINT NOT NULL,
  occurrences BIGINT NOT NULL, run_id TEXT NOT NULL, body TEXT NOT NULL);

-- Service level: exact counters and a mergeable latency histogram per service and UTC minute.
CREATE TABLE slo_minute (
  service TEXT NOT NULL, minute BIGINT NOT NULL, total BIGINT NOT NULL, bad BIGINT NOT NULL, slow BIGINT NOT NULL, latency BLOB NOT NULL,
  PRIMARY KEY (service, minute));

CREATE TABLE alert (fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, severity TEXT NOT NULL, since BIGINT NOT NULL, changed BIGINT NOT NULL, body TEXT NOT NULL);

CREATE TABLE api_key (
  id TEXT PRIMARY KEY, name TEXT NOT NULL, scope TEXT NOT NULL, hash BLOB NOT NULL UNIQUE, created_at BIGINT NOT NULL, expires_at BIGINT, revoked_at BIGINT);

-- A refund is written down before the provider is asked. state: intended | succeeded | pending | failed.
CREATE TABLE refund_intent (
  id TEXT PRIMARY KEY, caller_key TEXT UNIQUE, charge TEXT NOT NULL, payment_intent TEXT, amount BIGINT NOT NULL, currency TEXT NOT NULL,
  reason TEXT, state TEXT NOT NULL, refund_id TEXT, answer TEXT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);

-- Answers kept for a caller's Idempotency-Key.
CREATE TABLE idempotent_answer (
  operation TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, answer TEXT, created_at BIGINT NOT NULL, PRIMARY KEY (operation, key));

CREATE TABLE backup (
  date TEXT PRIMARY KEY, run_id TEXT NOT NULL, archive TEXT NOT NULL, size_bytes BIGINT NOT NULL, files BIGINT NOT NULL, sha256 TEXT NOT NULL,
  made_at BIGINT NOT NULL, proof TEXT NOT NULL);

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)
