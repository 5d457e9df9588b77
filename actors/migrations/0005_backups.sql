-- What is known of each archive beyond its name. state: ok | partial (something could not be archived whole; `problems` names it).
-- Bytes: of the content, of compressed members taken over from the archive before, of those that share their disk blocks with it.
-- `gone_at`: the file was removed by retention, and why.
ALTER TABLE backup ADD COLUMN state TEXT NOT NULL DEFAULT 'ok';
ALTER TABLE backup ADD COLUMN took_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup ADD COLUMN content_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup ADD COLUMN reused_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup ADD COLUMN shared_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup ADD COLUMN toc_sha256 TEXT NOT NULL DEFAULT '';
ALTER TABLE backup ADD COLUMN encrypted BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup ADD COLUMN is_full BIGINT NOT NULL DEFAULT 1;
ALTER TABLE backup ADD COLUMN problems TEXT NOT NULL DEFAULT '[]';
ALTER TABLE backup ADD COLUMN gone_at BIGINT;
ALTER TABLE backup ADD COLUMN gone_why TEXT;

-- Every proof of restore, also those that failed. `checks` is what was looked at, each with its evidence.
CREATE TABLE backup_proof (
  n INTEGER PRIMARY KEY, date TEXT NOT NULL, run_id TEXT NOT NULL, sha256 TEXT NOT NULL, at BIGINT NOT NULL, state TEXT NOT NULL,
  restore_ms BIGINT NOT NULL, checks TEXT NOT NULL, error TEXT);
CREATE INDEX backup_proof_state ON backup_proof (state, n);

-- What is at the second target. state: uploading | verified | failed | removed. `upload` says how far an upload came, for the next to go on.
CREATE TABLE replica_object (
  target TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, size_bytes BIGINT NOT NULL, state TEXT NOT NULL, upload TEXT,
  attempts BIGINT NOT NULL DEFAULT 0, started_at BIGINT NOT NULL, verified_at BIGINT, error TEXT, PRIMARY KEY (target, name))
