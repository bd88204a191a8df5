-- Work that is to go out later than it was decided on: with a database change, at a date, or because the broker was away.
-- A row is written in the transaction that decides; the dispatcher publishes it, has the broker confirm it, and marks it.

CREATE TABLE outbox (
    -- Also the message's id: whatever is sent twice, after a crash between the confirm and the mark, is the same message.
    job_id       uuid        PRIMARY KEY,
    kind         text        NOT NULL,
    -- The job as the broker will get it. json, not jsonb: kept as it was written. Far below what the broker refuses.
    message      json        NOT NULL CHECK (octet_length(message::text) <= 1048576),
    due_at       timestamptz NOT NULL,
    -- `due_at`, and later than that after a failure.
    next_try_at  timestamptz NOT NULL CHECK (next_try_at >= due_at),
    attempts     integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    -- Of the latest attempt, if it failed.
    last_error   text,
    sent_at      timestamptz,
    -- The row can never be sent, for the reason in `last_error`; its job is dead.
    set_aside_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    CHECK (sent_at IS NULL OR set_aside_at IS NULL)
);
-- "What is due, and when is the next?" Rows leave it once they are sent, so that it is as small as what is open.
CREATE INDEX outbox_open ON outbox (next_try_at) WHERE sent_at IS NULL AND set_aside_at IS NULL;
-- For the sweep.
CREATE INDEX outbox_done ON outbox (coalesce(sent_at, set_aside_at)) WHERE sent_at IS NOT NULL OR set_aside_at IS NOT NULL;

-- What was asked for under an Idempotency-Key. The job's id derives from caller, route and key, so it stands for the key.
CREATE TABLE idempotency_keys (
    job_id     uuid        PRIMARY KEY,
    -- Of the payload: the same key with another payload is a mistake.
    hash       text        NOT NULL,
    -- The key counts as long as its job is kept.
    claimed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (claimed_at);
