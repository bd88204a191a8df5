-- The sweep leaves jobs whose orders or refusals stand, and does not read past them.

DROP INDEX jobs_finished;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL AND decided IS NULL;
