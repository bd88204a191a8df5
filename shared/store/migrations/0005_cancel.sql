-- That the owner wants a job stopped. The worker that runs it reads the mark; only its event makes the job `cancelled`.

ALTER TABLE jobs
    ADD COLUMN cancel_requested_at timestamptz,
    -- The replay that is not wanted. A later one is a new decision of an operator's, and runs.
    ADD COLUMN cancel_replays      bigint CHECK (cancel_replays >= 0),
    ADD CHECK ((cancel_requested_at IS NULL) = (cancel_replays IS NULL));

-- For the sweep, which deletes what ended long ago.
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX sent_mails_by_time ON sent_mails (created_at);
