-- A correction is a row of its own: `corrects` names the row it corrects, `note` says why; its origin is `manual`.
ALTER TABLE ledger ADD COLUMN corrects TEXT;
ALTER TABLE ledger ADD COLUMN note TEXT;
CREATE INDEX ledger_source ON ledger (source, kind);
CREATE INDEX ledger_corrects ON ledger (corrects) WHERE corrects IS NOT NULL;
CREATE INDEX ledger_payment_intent ON ledger (payment_intent) WHERE payment_intent IS NOT NULL;

-- How far a state is along its way (domain/ledger/state.rs): one of a lower level never replaces one of a higher.
ALTER TABLE provider_object ADD COLUMN level BIGINT NOT NULL DEFAULT 0;
UPDATE provider_object SET level = 1 WHERE kind = 'customer' AND status = 'active' OR kind = 'charge' AND status = 'pending'
  OR kind = 'payment_intent' AND status IN ('requires_payment_method', 'requires_confirmation', 'requires_action', 'processing', 'requires_capture')
  OR kind = 'invoice' AND status = 'draft' OR kind = 'invoice_payment' AND status = 'open'
  OR kind = 'refund' AND status IN ('pending', 'requires_action') OR kind = 'dispute' AND status = 'warning_needs_response'
  OR kind = 'payout' AND status = 'pending';
UPDATE provider_object SET level = 2 WHERE kind = 'customer' AND status = 'deleted' OR kind = 'charge' AND status = 'failed'
  OR kind = 'payment_intent' AND status = 'canceled' OR kind = 'invoice' AND status = 'open'
  OR kind = 'invoice_payment' AND status = 'canceled' OR kind = 'refund' AND status = 'succeeded'
  OR kind = 'dispute' AND status = 'warning_under_review' OR kind = 'payout' AND status = 'in_transit';
UPDATE provider_object SET level = 3 WHERE kind = 'charge' AND status = 'succeeded' OR kind = 'payment_intent' AND status = 'succeeded'
  OR kind = 'invoice' AND status = 'uncollectible' OR kind = 'invoice_payment' AND status = 'paid'
  OR kind = 'refund' AND status = 'canceled' OR kind = 'dispute' AND status = 'warning_closed' OR kind = 'payout' AND status = 'paid';
UPDATE provider_object SET level = 4 WHERE kind = 'invoice' AND status = 'void' OR kind = 'refund' AND status = 'failed'
  OR kind = 'dispute' AND status = 'needs_response' OR kind = 'payout' AND status = 'canceled';
UPDATE provider_object SET level = 5 WHERE kind = 'invoice' AND status = 'paid' OR kind = 'dispute' AND status = 'under_review'
  OR kind = 'payout' AND status = 'failed';
UPDATE provider_object SET level = 6 WHERE kind = 'invoice' AND status = 'deleted'
  OR kind = 'dispute' AND status IN ('lost', 'appeal_needs_response', 'appeal_under_review');
UPDATE provider_object SET level = 7 WHERE kind = 'dispute' AND status = 'prevented';
UPDATE provider_object SET level = 8 WHERE kind = 'dispute' AND status = 'won';
-- Those that are on their way are few among many: the gap finder asks for them at every look, in these words.
CREATE INDEX provider_object_open ON provider_object (kind, id) WHERE status IN ('draft', 'open', 'pending', 'requires_action', 'in_transit',
  'needs_response', 'under_review', 'warning_needs_response', 'warning_under_review', 'appeal_needs_response', 'appeal_under_review');
CREATE INDEX refund_intent_refund ON refund_intent (refund_id);
CREATE INDEX provider_object_status ON provider_object (kind, status, event_created);

-- `object_state` is the state of the object that the event carries: two events of one type about one object in one state are one fact.
ALTER TABLE webhook_event ADD COLUMN object_state TEXT;
CREATE INDEX webhook_event_fact ON webhook_event (object_id, event_type, object_state);
CREATE INDEX webhook_event_created ON webhook_event (created);

-- What we asked the provider to change, written before it was asked: the idempotency key survives a crash. state: sent | answered.
CREATE TABLE provider_call (
  key TEXT PRIMARY KEY, path TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, status BIGINT,
  request_id TEXT, object_id TEXT, sent_at BIGINT NOT NULL, answered_at BIGINT);
CREATE INDEX provider_call_open ON provider_call (sent_at) WHERE state = 'sent';

-- Exceptions of every reconciliation. scope: payouts | finance. `sides` is what both sides said, as text: an acknowledgement holds as long
-- as it does. `risk` is the money at risk in minor units of `currency`. decided_*: who acknowledged or resolved it, when and why.
ALTER TABLE recon_exception ADD COLUMN scope TEXT NOT NULL DEFAULT 'payouts';
ALTER TABLE recon_exception ADD COLUMN sides TEXT NOT NULL DEFAULT '';
ALTER TABLE recon_exception ADD COLUMN currency TEXT NOT NULL DEFAULT '';
ALTER TABLE recon_exception ADD COLUMN risk BIGINT NOT NULL DEFAULT 0;
ALTER TABLE recon_exception ADD COLUMN decided_at BIGINT;
ALTER TABLE recon_exception ADD COLUMN decided_by TEXT;
ALTER TABLE recon_exception ADD COLUMN decision TEXT;
CREATE INDEX recon_exception_status ON recon_exception (scope, status, first_seen);
CREATE INDEX recon_run_kind ON recon_run (kind, n);

-- The rows of payouts that will not change any more, compressed, so that they are fetched once. `state` is a digest of the payout.
CREATE TABLE payout_members (payout TEXT PRIMARY KEY, state TEXT NOT NULL, fetched_at BIGINT NOT NULL, members BLOB NOT NULL);

-- The archive of each business day. state: provisional (made at night) | final (made again when the provider's own report was final).
CREATE TABLE recon_archive (
  date TEXT PRIMARY KEY, state TEXT NOT NULL, sha256 TEXT NOT NULL, previous_sha256 TEXT, made_at BIGINT NOT NULL, run_id TEXT NOT NULL);

-- Events that the provider has and we had not, or could not process. class: never_delivered | failed_here | changed_outside.
-- state: found | filled | failed.
CREATE TABLE event_gap (
  id TEXT PRIMARY KEY, class TEXT NOT NULL, event_type TEXT NOT NULL, object_id TEXT, created BIGINT NOT NULL, state TEXT NOT NULL,
  attempts BIGINT NOT NULL DEFAULT 0, error TEXT, detail TEXT, found_at BIGINT NOT NULL, ended_at BIGINT);
CREATE INDEX event_gap_open ON event_gap (found_at) WHERE state <> 'filled';

-- Trial payments from end to end. state: running | passed | failed; `step` is the one it is at or failed in; milliseconds from the call
-- to the webhook's effect.
CREATE TABLE canary (
  n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, livemode BIGINT NOT NULL, state TEXT NOT NULL, step TEXT NOT NULL, started_at BIGINT NOT NULL, ended_at BIGINT,
  invoice TEXT, charge TEXT, refund TEXT, paid_ms BIGINT, refunded_ms BIGINT, error TEXT)
