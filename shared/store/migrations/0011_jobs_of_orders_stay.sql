-- The sweep leaves jobs whose orders or refusals stand, and does not read past them.

DROP INDEX jobs_finished;
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL AND decided IS NULL;

-- Nor past their keys.
ALTER TABLE idempotency_keys ADD COLUMN stays boolean NOT NULL DEFAULT false;
DROP INDEX idempotency_keys_by_time;
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (claimed_at) WHERE NOT stays;
