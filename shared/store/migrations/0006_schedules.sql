-- Work that comes again: "every Monday at 8, mail me the last week".

CREATE TABLE schedules (
    id          uuid        PRIMARY KEY,
    owner       text        NOT NULL CHECK (owner <> ''),
    -- Of the jobs that it makes.
    kind        text        NOT NULL CHECK (kind <> ''),
    name        text        NOT NULL CHECK (name <> '' AND char_length(name) <= 200),
    -- Five fields: minute, hour, day of the month, month, day of the week.
    cron        text        NOT NULL CHECK (cron <> '' AND char_length(cron) <= 200),
    -- By its IANA name, `Europe/Berlin`: in which the fields are read.
    time_zone   text        NOT NULL CHECK (time_zone <> ''),
    -- What the payload of each job is made of; what it means is the kind's affair.
    template    json        NOT NULL CHECK (octet_length(template::text) <= 65536),
    -- NULL: it has stopped, for the reason in its latest firing.
    next_due_at timestamptz,
    last_due_at timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX schedules_due ON schedules (next_due_at) WHERE next_due_at IS NOT NULL;
CREATE INDEX schedules_of_owner ON schedules (owner, created_at);

-- What became of each due time. Its key is what makes a due time fire once, however many dispatchers there are.
CREATE TABLE schedule_firings (
    schedule_id  uuid        NOT NULL REFERENCES schedules ON DELETE CASCADE,
    due_at       timestamptz NOT NULL,
    -- fired: there is a job. missed: nobody was there in time. failed: the schedule cannot be read, see `reason`.
    outcome      text        NOT NULL CHECK (outcome IN ('fired', 'missed', 'failed')),
    job_id       uuid,
    -- The first of the due times that went by unused before this one, or that this row stands for when it was missed.
    missed_since timestamptz,
    reason       text,
    noted_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schedule_id, due_at),
    CHECK ((job_id IS NOT NULL) = (outcome = 'fired')),
    CHECK (reason IS NOT NULL OR outcome <> 'failed')
);
CREATE INDEX schedule_firings_by_time ON schedule_firings (noted_at);
