-- Minutes are kept in slo_minute for three days and then folded into hours: the counters of each minute stay, packed, the latencies are
-- merged. A minute that is recorded later than that is in slo_minute again, in addition to its hour.
CREATE TABLE slo_hour (
  service TEXT NOT NULL, hour BIGINT NOT NULL, counters BLOB NOT NULL, latency BLOB NOT NULL, PRIMARY KEY (service, hour));

-- Times that count neither for nor against: planned beforehand (kind maintenance) or found out afterwards (kind correction). Maintenance
-- also keeps alerts quiet. `service` '' is all of them; `systems` of alerts, as JSON, [] is all. `ended_at`: ended early or withdrawn.
CREATE TABLE maintenance (
  id TEXT PRIMARY KEY, kind TEXT NOT NULL, service TEXT NOT NULL, systems TEXT NOT NULL DEFAULT '[]', starts_at BIGINT NOT NULL, ends_at BIGINT NOT NULL,
  reason TEXT NOT NULL, author TEXT NOT NULL, created_at BIGINT NOT NULL, ended_at BIGINT, ended_by TEXT);
CREATE INDEX maintenance_ends ON maintenance (ends_at);

-- Payments of a time: those at risk in bad minutes.
CREATE INDEX provider_object_created ON provider_object (kind, created);

-- The latest result of each probe. state: up | down | unknown.
CREATE TABLE probe (name TEXT PRIMARY KEY, state TEXT NOT NULL, at BIGINT NOT NULL, changed_at BIGINT NOT NULL, body TEXT NOT NULL)
