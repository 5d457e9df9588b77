-- What every evaluation measured, compressed: `alerts replay` judges it again.
CREATE TABLE observation (at BIGINT PRIMARY KEY, samples BLOB NOT NULL);

-- Everything that happened to an alert. `alert` is the episode's id. kind: fired | escalated | resolved | acknowledged | unacknowledged |
-- snoozed | silenced | maintenance | inhibited | uninhibited | told.
CREATE TABLE alert_event (
  n INTEGER PRIMARY KEY, at BIGINT NOT NULL, alert TEXT NOT NULL, fingerprint TEXT NOT NULL, kind TEXT NOT NULL, by TEXT, detail TEXT NOT NULL);
CREATE INDEX alert_event_alert ON alert_event (alert, n);
CREATE INDEX alert_event_at ON alert_event (at);

-- `matchers` is a JSON list of {"name","value","isRegex","isEqual"} as Alertmanager has it. `ended_at`: ended before its time, and by whom.
CREATE TABLE silence (
  id TEXT PRIMARY KEY, matchers TEXT NOT NULL, starts_at BIGINT NOT NULL, ends_at BIGINT NOT NULL, author TEXT NOT NULL, reason TEXT NOT NULL,
  created_at BIGINT NOT NULL, ended_at BIGINT, ended_by TEXT);
CREATE INDEX silence_ends ON silence (ends_at);

-- The last value of each check that was fine, written every few minutes: what was normal before it went wrong.
CREATE TABLE alert_good (fingerprint TEXT PRIMARY KEY, value TEXT NOT NULL, at BIGINT NOT NULL);

-- What was last told about a group of alerts: without it a restart would tell everything again.
CREATE TABLE notify_group (key TEXT PRIMARY KEY, body TEXT NOT NULL);

-- When an event last failed to be processed: a rule counts these.
ALTER TABLE webhook_event ADD COLUMN failed_at BIGINT;
CREATE INDEX webhook_event_failed ON webhook_event (failed_at) WHERE failed_at IS NOT NULL
