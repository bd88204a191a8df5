-- Which job a job was caused by. No reference: the one that caused it is swept before it, and may be heard of after it.

ALTER TABLE jobs ADD COLUMN caused_by uuid;
-- "What did this job cause?" Few jobs were caused by another, so that the rest pay nothing for it.
CREATE INDEX jobs_caused ON jobs (caused_by, created_at, id) WHERE caused_by IS NOT NULL;
