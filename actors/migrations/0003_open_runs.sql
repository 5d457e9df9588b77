-- Every claim and every look for waiting runs asks for the open runs of one task, and walked its whole history for them: an index over
-- part of a table is used only where a query repeats its condition, and the task was not in it.
DROP INDEX task_run_open;
CREATE INDEX task_run_open ON task_run (task, state) WHERE state IN ('pending', 'running')
