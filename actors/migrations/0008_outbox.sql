-- Messages to people, durable before anything is sent. state: queued | sent | dead (given up) | dropped (told in a digest, or not wanted).
-- `id` is of the message and the channel. `accepted`: recipients who have it although the others do not yet, as a JSON list.
CREATE TABLE notification (
  id TEXT PRIMARY KEY, group_key TEXT NOT NULL, channel TEXT NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL, state TEXT NOT NULL,
  created_at BIGINT NOT NULL, next_at BIGINT NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, sent_at BIGINT, reference TEXT, error TEXT,
  accepted TEXT NOT NULL DEFAULT '[]', message TEXT NOT NULL);
CREATE INDEX notification_queued ON notification (channel, next_at) WHERE state = 'queued';
CREATE INDEX notification_created ON notification (created_at);
CREATE INDEX notification_channel ON notification (channel, created_at);
CREATE TABLE delivery_attempt (
  notification TEXT NOT NULL, attempt BIGINT NOT NULL, at BIGINT NOT NULL, took_ms BIGINT NOT NULL, ok BIGINT NOT NULL, status BIGINT, error TEXT,
  PRIMARY KEY (notification, attempt));

-- Jobs of the user's own that report to us. `n` counts the reports and decides which of two at once comes first.
CREATE TABLE push_check (name TEXT PRIMARY KEY, n BIGINT NOT NULL, changed BIGINT NOT NULL, reports TEXT NOT NULL);
CREATE TABLE push_ping (
  n INTEGER PRIMARY KEY, name TEXT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL, run TEXT, exit_status BIGINT, duration_ms BIGINT, body TEXT);
CREATE INDEX push_ping_name ON push_ping (name, n)
