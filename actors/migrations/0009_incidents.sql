-- Incidents: one for each cause, by a key that says what it is. state: open | closed. `body` is the whole, as JSON.
CREATE TABLE incident (
  id TEXT PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, severity TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
  opened_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, closed_at BIGINT, acknowledged_by TEXT, count BIGINT NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX incident_open ON incident (key) WHERE state = 'open';
CREATE INDEX incident_updated ON incident (updated_at);
CREATE TABLE incident_event (n INTEGER PRIMARY KEY, incident TEXT NOT NULL, at BIGINT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL, by TEXT);
CREATE INDEX incident_event_incident ON incident_event (incident, n);

-- How far each log file was read, and by what it is known again.
CREATE TABLE log_place (path TEXT PRIMARY KEY, body TEXT NOT NULL);
-- The kinds of lines seen, as learned.
CREATE TABLE log_template (id TEXT PRIMARY KEY, source TEXT NOT NULL, template TEXT NOT NULL, first_seen BIGINT NOT NULL, last_seen BIGINT NOT NULL, count BIGINT NOT NULL, body TEXT NOT NULL);

-- What the sentinel measured, in millionths of the figure's unit. `odd`: unlike the past. `left_out`: seen during an alarm, no part of what is
-- ordinary. Kept for a day; half hours for four weeks, each as a sum and a count.
CREATE TABLE figure_sample (figure TEXT NOT NULL, at BIGINT NOT NULL, micros BIGINT NOT NULL, odd BIGINT NOT NULL, left_out BIGINT NOT NULL, PRIMARY KEY (figure, at));
CREATE TABLE figure_half_hour (figure TEXT NOT NULL, half_hour BIGINT NOT NULL, sum_micros BIGINT NOT NULL, count BIGINT NOT NULL, PRIMARY KEY (figure, half_hour))
