-- A run that holds its task's one place: it works, or waits for the task it depends on. A constraint, so that two nodes cannot both begin.
ALTER TABLE task_run ADD COLUMN holds BIGINT NOT NULL DEFAULT 0;
-- Who asked for a running one to be cancelled; the process that carries it out looks here.
ALTER TABLE task_run ADD COLUMN cancel_by TEXT;
CREATE UNIQUE INDEX task_run_place ON task_run (task) WHERE holds = 1;
CREATE INDEX task_run_when ON task_run (slot);
CREATE INDEX task_run_result ON task_run (slot) WHERE result IS NOT NULL;

-- Every attempt that failed, with its error.
CREATE TABLE task_attempt (
  run_id TEXT NOT NULL, attempt BIGINT NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL, retryable BIGINT NOT NULL,
  started_at BIGINT NOT NULL, ended_at BIGINT NOT NULL, PRIMARY KEY (run_id, attempt));

-- Tasks that are paused, why and until when.
CREATE TABLE task_pause (task TEXT PRIMARY KEY, at BIGINT NOT NULL, paused_by TEXT NOT NULL, why TEXT NOT NULL, until BIGINT);

-- Processes that hold runs: an incarnation on a node (a data directory). `lease` grows while the process lives; whoever sees it stand
-- still for `limit_s`, by a clock of its own, may take over.
CREATE TABLE node (incarnation TEXT PRIMARY KEY, node TEXT NOT NULL, lease BIGINT NOT NULL, limit_s BIGINT NOT NULL, seen_at BIGINT NOT NULL)
