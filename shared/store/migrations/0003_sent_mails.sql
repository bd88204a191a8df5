-- One row per mail, so that a job delivered twice sends once. No reference to jobs: the mail may be sent before the
-- first event of its job is recorded, and the mark must outlive every message that could be replayed.

CREATE TABLE sent_mails (
    job_id      uuid        PRIMARY KEY,
    -- How often it was claimed; the number is the token by which a claim is recognised.
    claims      integer     NOT NULL DEFAULT 1 CHECK (claims > 0),
    -- While in the future, somebody is sending. NULL: given back.
    held_until  timestamptz,
    -- Some earlier sender may have got the mail out without living to say so.
    maybe_sent  boolean     NOT NULL DEFAULT false,
    sent_at     timestamptz,
    message_id  text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CHECK ((sent_at IS NULL) = (message_id IS NULL))
);
