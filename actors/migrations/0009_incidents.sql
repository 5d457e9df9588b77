-- Incidents: one for each cause, by a key that says what it is. state: open | closed.
CREATE TABLE incident (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
  opened_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, closed_at BIGINT, acknowledged_by TEXT, count BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX incident_open ON incident (key) WHERE state = 'open';
CREATE INDEX incident_updated ON incident (updated_at);
CREATE TABLE incident_event (n INTEGER PRIMARY KEY, incident TEXT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX incident_event_incident ON incident_event (incident, n);

-- How far each log file was read, and by what it is known again.
CREATE TABLE log_place (path TEXT PRIMARY KEY, body TEXT NOT NULL);
-- The kinds of lines seen, as learned. One row: the tree.
CREATE TABLE log_template (id TEXT PRIMARY KEY, source TEXT NOT NULL, template TEXT NOT NULL, first_seen BIGINT NOT NULL, last_seen BIGINT NOT NULL, count BIGINT NOT NULL)
