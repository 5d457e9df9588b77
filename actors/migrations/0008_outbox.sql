-- Messages to people, durable before anything is sent. state: queued | sent | dead (given up) | dropped (over a limit, told in a digest).
-- `id` is also the key by which a channel can tell that it has the message already.
CREATE TABLE notification (
  id TEXT PRIMARY KEY, group_key TEXT NOT NULL, channel TEXT NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL, state TEXT NOT NULL,
  created_at BIGINT NOT NULL, next_at BIGINT NOT NULL, attempts BIGINT NOT NULL DEFAULT 0, sent_at BIGINT, reference TEXT, error TEXT, message TEXT NOT NULL);
CREATE INDEX notification_queued ON notification (channel, next_at) WHERE state = 'queued';
CREATE INDEX notification_created ON notification (created_at);
CREATE TABLE delivery_attempt (
  notification TEXT NOT NULL, attempt BIGINT NOT NULL, at BIGINT NOT NULL, took_ms BIGINT NOT NULL, ok BIGINT NOT NULL, status BIGINT, error TEXT,
  PRIMARY KEY (notification, attempt));

-- Jobs of the user's own that report to us. state: new | up | started | late | down | paused.
CREATE TABLE push_check (
  name TEXT PRIMARY KEY, state TEXT NOT NULL, last_start BIGINT, last_ping BIGINT, last_ok BIGINT, run TEXT, duration_ms BIGINT, exit_status BIGINT);
CREATE TABLE push_ping (
  n INTEGER PRIMARY KEY, name TEXT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL, run TEXT, exit_status BIGINT, duration_ms BIGINT, body TEXT);
CREATE INDEX push_ping_name ON push_ping (name, n)
