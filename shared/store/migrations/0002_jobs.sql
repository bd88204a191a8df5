-- What became of each job, as its events tell it. The broker holds the work; these tables only remember.

CREATE TABLE jobs (
    id           uuid        PRIMARY KEY,
    kind         text        NOT NULL,
    -- NULL while only events without an owner are known.
    owner        text,
    state        text        NOT NULL CHECK
                 (state IN ('queued', 'running', 'retrying', 'succeeded', 'refused', 'cancelled', 'dead')),
    -- The place, in the job's order of events, of the event that decided `state`.
    replays      bigint      NOT NULL CHECK (replays >= 0),
    attempt      bigint      NOT NULL CHECK (attempt >= 0),
    redeliveries bigint      NOT NULL CHECK (redeliveries >= 0),
    -- -1 on a row that no event has touched yet: every event comes after it.
    sequence     bigint      NOT NULL CHECK (sequence >= -1),
    -- json, not jsonb: kept as it was sent, and a "\u0000" in a worker's text is no error.
    progress     json,
    result       json,
    error        json,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    finished_at  timestamptz,
    -- The number of the newest row in job_events; grows by one with each, and is the version for compare-and-set.
    last_number  bigint      NOT NULL DEFAULT 0 CHECK (last_number >= 0),
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'refused', 'cancelled', 'dead')))
) WITH (fillfactor = 80);

CREATE TABLE job_events (
    job_id       uuid        NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number       bigint      NOT NULL CHECK (number > 0),
    event_id     uuid        NOT NULL,
    event_type   text        NOT NULL CHECK (event_type IN
                 ('job.queued', 'job.started', 'job.progressed', 'job.retrying',
                  'job.succeeded', 'job.refused', 'job.cancelled', 'job.dead')),
    -- moved: it decided the state. late: it was older than the state. duplicate: the job was final already.
    effect       text        NOT NULL CHECK (effect IN ('moved', 'late', 'duplicate')),
    run_id       uuid,
    replays      bigint      NOT NULL,
    attempt      bigint      NOT NULL,
    redeliveries bigint      NOT NULL,
    sequence     bigint      NOT NULL,
    worker       text,
    at           timestamptz NOT NULL,
    data         json        NOT NULL,
    PRIMARY KEY (job_id, number),
    UNIQUE (job_id, event_id)
);
-- A job keeps its latest progress only, however often it reports.
CREATE UNIQUE INDEX job_events_one_progress ON job_events (job_id) WHERE event_type = 'job.progressed';
