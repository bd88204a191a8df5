//! Writes events into the timeline and the state of their jobs: read, decide in memory, and write if no job has changed
//! since it was read. Two round trips and one commit however many events there are; where others write the same jobs,
//! once more under a lock.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::Value;
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::transition::{Position, Standing};
use super::{Applied, CHANGED_CHANNEL, ChangedJob, Effect, JobEvent, JobEventRow, JobEventType, JobRow, JobState};
use crate::database::{DatabaseError, call};

/// Who hears of what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announce {
    /// Whoever listens on [`CHANGED_CHANNEL`].
    Yes,
    /// The caller, who tells the others.
    No,
}

/// Applies one event; see [`apply_events`].
///
/// # Errors
/// The database cannot be reached, or fails; then the event had no effect, or all of it.
pub async fn apply_event(pool: &PgPool, event: &JobEvent) -> Result<Applied, DatabaseError> {
    let outcomes = apply_events(pool, std::slice::from_ref(event)).await?;
    Ok(outcomes.first().copied().unwrap_or(Applied::Outdated))
}

/// Applies events in the order given, as if one by one, and says of each what became of it. Makes jobs that are not known
/// yet. Announces on [`CHANGED_CHANNEL`](super::CHANGED_CHANNEL) each job whose timeline grew, in the same transaction.
///
/// Many at once are far cheaper than one by one: PostgreSQL lets only one announcing transaction commit at a time.
///
/// # Errors
/// The database cannot be reached, or fails. What has had its effect by then shows itself as [`Applied::Repeated`] the
/// next time. After a permanent error, apply the events one by one to find the one that is to blame.
pub async fn apply_events(pool: &PgPool, events: &[JobEvent]) -> Result<Vec<Applied>, DatabaseError> {
    let settled = apply_all(pool, events, Announce::Yes).await?;
    Ok(settled.outcomes.into_iter().flatten().collect())
}

/// The same for a caller who tells the others by itself: announces nothing, and returns what has become of each job that
/// changed, and the ids of jobs with an event that had its effect before, and of those that caused them.
///
/// # Errors
/// As [`apply_events`].
pub async fn apply_events_unannounced(
    pool: &PgPool,
    events: &[JobEvent],
) -> Result<(Vec<ChangedJob>, Vec<Uuid>), DatabaseError> {
    let settled = apply_all(pool, events, Announce::No).await?;
    let repeated = events.iter().zip(&settled.outcomes).filter(|(_, outcome)| **outcome == Some(Applied::Repeated));
    let repeated = repeated.flat_map(|(event, _)| [Some(event.job_id), event.caused_by]).flatten().collect();
    Ok((settled.changed, repeated))
}

async fn apply_all(pool: &PgPool, events: &[JobEvent], announce: Announce) -> Result<Settled, DatabaseError> {
    call(pool, "apply the job events", async |connection| {
        let mut settled = Settled::none_of(events);
        try_to_settle(connection, events, announce, &mut settled).await?;
        while settled.outcomes.contains(&None) {
            // Somebody wrote the same jobs. Waiting in line costs each writer one more try; racing on, one for each other.
            let mut transaction = connection.begin().await?;
            lock(&mut transaction, events, &settled.outcomes).await?;
            try_to_settle(&mut transaction, events, announce, &mut settled).await?;
            transaction.commit().await?;
        }
        Ok(settled)
    })
    .await
}

/// How far events have been applied.
struct Settled {
    /// Of each event; `None` until it has been applied.
    outcomes: Vec<Option<Applied>>,
    /// In the order of the changes.
    changed: Vec<ChangedJob>,
}

impl Settled {
    fn none_of(events: &[JobEvent]) -> Self {
        Self { outcomes: vec![None; events.len()], changed: Vec::new() }
    }
}

/// Applies the events in the caller's transaction, which then holds the rows of their jobs until it ends.
pub(crate) async fn apply_in(transaction: &mut PgConnection, events: &[JobEvent]) -> Result<Vec<Applied>, sqlx::Error> {
    let mut settled = Settled::none_of(events);
    while settled.outcomes.contains(&None) {
        lock(transaction, events, &settled.outcomes).await?;
        try_to_settle(transaction, events, Announce::Yes, &mut settled).await?;
    }
    Ok(settled.outcomes.into_iter().flatten().collect())
}

/// Applies the events that have no outcome yet, and gives one to those whose job nobody else has changed meanwhile.
async fn try_to_settle(
    connection: &mut PgConnection,
    events: &[JobEvent],
    announce: Announce,
    settled: &mut Settled,
) -> Result<(), sqlx::Error> {
    let outcomes = &mut settled.outcomes;
    let open: Vec<usize> = (0..events.len()).filter(|&place| outcomes[place].is_none()).collect();
    let mut jobs = read(connection, events, &open).await?;
    let decided: Vec<(usize, Applied)> = open
        .into_iter()
        .filter_map(|place| Some((place, jobs.get_mut(&events[place].job_id)?.apply(&events[place]))))
        .collect();
    let written = write(connection, &jobs, announce).await?;
    for (place, outcome) in decided {
        let id = events[place].job_id;
        // Where nothing was to be written, nothing can have come between.
        if written.contains_key(&id) || jobs[&id].lines.is_empty() {
            outcomes[place] = Some(outcome);
        }
    }
    let changed = written.into_values().filter_map(|row| Some(jobs.get(&row.id)?.changed(row)));
    settled.changed.extend(changed);
    Ok(())
}

/// Waits until the jobs of the events without an outcome are ours to write. A statement of its own: the next one sees
/// what the writers before us have committed.
async fn lock(
    connection: &mut PgConnection,
    events: &[JobEvent],
    outcomes: &[Option<Applied>],
) -> Result<(), sqlx::Error> {
    let open = events.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_none());
    sqlx::query("SELECT FROM jobs WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE")
        .bind(open.map(|(event, _)| event.job_id).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(())
}

/// A job between reading and writing.
struct Change<'e> {
    kind: &'e str,
    owner: Option<&'e str>,
    caused_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    standing: Standing,
    last_number: i64,
    /// `last_number` as it was read; `None` for a job without a row.
    read_number: Option<i64>,
    /// Ids of events that the timeline has.
    seen: HashSet<Uuid>,
    lines: Vec<Line<'e>>,
}

struct Line<'e> {
    number: i64,
    effect: Effect,
    event: &'e JobEvent,
}

impl<'e> Change<'e> {
    fn of_unknown_job(event: &'e JobEvent) -> Self {
        Self {
            kind: &event.job_kind,
            owner: None,
            caused_by: None,
            created_at: event.at,
            standing: Standing::unseen(event.at),
            last_number: 0,
            read_number: None,
            seen: HashSet::new(),
            lines: Vec::new(),
        }
    }

    fn apply(&mut self, event: &'e JobEvent) -> Applied {
        if self.seen.contains(&event.event_id) {
            return Applied::Repeated;
        }
        let effect = self.standing.apply(event);
        if event.event_type == JobEventType::Progressed {
            if effect != Effect::Moved {
                return Applied::Outdated;
            }
            self.lines.retain(|line| line.event.event_type != JobEventType::Progressed);
        }
        self.seen.insert(event.event_id);
        self.owner = self.owner.or(event.owner.as_deref());
        self.caused_by = self.caused_by.or(event.caused_by);
        self.created_at = self.created_at.min(event.at);
        self.last_number += 1;
        self.lines.push(Line { number: self.last_number, effect, event });
        Applied::New { number: self.last_number, effect }
    }

    /// What the job has become by being written.
    fn changed(&self, written: WrittenRow) -> ChangedJob {
        let Standing { state, position, progress, result, error, updated_at, finished_at } = self.standing.clone();
        let counter = |counter: i64| u32::try_from(counter).unwrap_or(u32::MAX);
        ChangedJob {
            before: self.read_number.unwrap_or(0),
            lines: self.lines.iter().map(Line::row).collect(),
            job: JobRow {
                id: written.id,
                kind: written.kind,
                owner: written.owner,
                caused_by: written.caused_by,
                state,
                attempt: counter(position.attempt),
                replays: counter(position.replays),
                redeliveries: counter(position.redeliveries),
                progress,
                result,
                error,
                created_at: written.created_at,
                updated_at: kept(updated_at),
                finished_at: finished_at.map(kept),
                last_number: self.last_number,
                cancel_requested_at: written.cancel_requested_at,
                due_at: written.due_at,
            },
        }
    }
}

impl Line<'_> {
    fn row(&self) -> JobEventRow {
        let event = self.event;
        JobEventRow {
            number: self.number,
            event_id: event.event_id,
            event_type: event.event_type,
            effect: self.effect,
            run_id: event.run_id,
            replays: event.replays,
            attempt: event.attempt,
            redeliveries: event.redeliveries,
            sequence: event.sequence,
            worker: event.worker.as_deref().map(storable),
            at: kept(event.at),
            data: event.data.clone(),
        }
    }
}

/// A moment as the database keeps it.
fn kept(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

/// What else is known of a job that was written.
#[derive(FromRow)]
struct WrittenRow {
    id: Uuid,
    kind: String,
    owner: Option<String>,
    caused_by: Option<Uuid>,
    created_at: DateTime<Utc>,
    cancel_requested_at: Option<DateTime<Utc>>,
    due_at: Option<DateTime<Utc>>,
}

#[derive(FromRow)]
struct ReadRow {
    id: Uuid,
    #[sqlx(try_from = "String")]
    state: JobState,
    replays: i64,
    attempt: i64,
    redeliveries: i64,
    sequence: i64,
    progress: Option<Value>,
    result: Option<Value>,
    error: Option<Value>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    last_number: i64,
    seen: Vec<Uuid>,
}

/// The jobs of the `open` events, ordered by id.
async fn read<'e>(
    connection: &mut PgConnection,
    events: &'e [JobEvent],
    open: &[usize],
) -> Result<BTreeMap<Uuid, Change<'e>>, sqlx::Error> {
    let mut jobs = BTreeMap::new();
    for event in open.iter().map(|&place| &events[place]) {
        jobs.entry(event.job_id).or_insert_with(|| Change::of_unknown_job(event));
    }
    let job_ids: Vec<Uuid> = jobs.keys().copied().collect();
    let event_ids: Vec<Uuid> = open.iter().map(|&place| events[place].event_id).collect();
    let rows: Vec<ReadRow> = sqlx::query_as(
        "SELECT id, state, replays, attempt, redeliveries, sequence, progress, result, error,
                created_at, updated_at, finished_at, last_number,
                ARRAY(SELECT event_id FROM job_events WHERE job_id = id AND event_id = ANY($2)) AS seen
         FROM jobs WHERE id = ANY($1)",
    )
    .bind(job_ids)
    .bind(event_ids)
    .fetch_all(connection)
    .await?;
    for row in rows {
        if let Some(change) = jobs.get_mut(&row.id) {
            change.created_at = row.created_at;
            change.last_number = row.last_number;
            change.read_number = Some(row.last_number);
            change.seen = row.seen.into_iter().collect();
            change.standing = Standing {
                state: row.state,
                position: Position {
                    replays: row.replays,
                    attempt: row.attempt,
                    redeliveries: row.redeliveries,
                    sequence: row.sequence,
                },
                progress: row.progress,
                result: row.result,
                error: row.error,
                updated_at: row.updated_at,
                finished_at: row.finished_at,
            };
        }
    }
    Ok(jobs)
}

/// Writes the jobs that have new lines and that nobody has changed since they were read, and returns them.
async fn write(
    connection: &mut PgConnection,
    jobs: &BTreeMap<Uuid, Change<'_>>,
    announce: Announce,
) -> Result<BTreeMap<Uuid, WrittenRow>, sqlx::Error> {
    let changed: Vec<_> = jobs.iter().filter(|(_, change)| !change.lines.is_empty()).collect();
    if changed.is_empty() {
        return Ok(BTreeMap::new());
    }
    let lines: Vec<(Uuid, &Line<'_>)> =
        changed.iter().flat_map(|(id, change)| change.lines.iter().map(|line| (**id, line))).collect();
    let written: Vec<WrittenRow> = sqlx::query_as(WRITE)
        .bind(changed.iter().map(|(id, _)| **id).collect::<Vec<_>>())
        .bind(column(&changed, |job| storable(job.kind)))
        .bind(column(&changed, |job| job.owner.map(storable)))
        .bind(column(&changed, |job| job.standing.state.as_str()))
        .bind(column(&changed, |job| job.standing.position.replays))
        .bind(column(&changed, |job| job.standing.position.attempt))
        .bind(column(&changed, |job| job.standing.position.redeliveries))
        .bind(column(&changed, |job| job.standing.position.sequence))
        .bind(column(&changed, |job| job.standing.progress.as_ref().map(Value::to_string)))
        .bind(column(&changed, |job| job.standing.result.as_ref().map(Value::to_string)))
        .bind(column(&changed, |job| job.standing.error.as_ref().map(Value::to_string)))
        .bind(column(&changed, |job| job.created_at))
        .bind(column(&changed, |job| job.standing.updated_at))
        .bind(column(&changed, |job| job.standing.finished_at))
        .bind(column(&changed, |job| job.last_number))
        .bind(column(&changed, |job| job.read_number))
        .bind(lines.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.number).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.event.event_id).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.event.event_type.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.effect.as_str()).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.event.run_id).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| i64::from(line.event.replays)).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| i64::from(line.event.attempt)).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| i64::from(line.event.redeliveries)).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| i64::from(line.event.sequence)).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.event.worker.as_deref().map(storable)).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.event.at).collect::<Vec<_>>())
        .bind(lines.iter().map(|(_, line)| line.event.data.to_string()).collect::<Vec<_>>())
        .bind((announce == Announce::Yes).then_some(CHANGED_CHANNEL))
        .bind(column(&changed, |job| job.caused_by))
        .fetch_all(connection)
        .await?;
    Ok(written.into_iter().map(|row| (row.id, row)).collect())
}

/// Rows are locked in the order of their ids, existing ones before new ones, so that two writers never wait for each
/// other in a circle. `last_number` is compared on the row as it is once locked.
const WRITE: &str = "
    WITH change AS (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
                             $8::bigint[], $9::text[], $10::text[], $11::text[], $12::timestamptz[], $13::timestamptz[],
                             $14::timestamptz[], $15::bigint[], $16::bigint[], $31::uuid[])
            AS change (id, kind, owner, state, replays, attempt, redeliveries, sequence, progress, result, error,
                       created_at, updated_at, finished_at, last_number, read_number, caused_by)
    ), held AS (
        SELECT jobs.id FROM jobs JOIN change ON change.id = jobs.id
        WHERE jobs.last_number = change.read_number
        ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
    ), updated AS (
        UPDATE jobs SET
            owner = coalesce(jobs.owner, change.owner), state = change.state, replays = change.replays,
            attempt = change.attempt, redeliveries = change.redeliveries, sequence = change.sequence,
            progress = change.progress::json, result = change.result::json, error = change.error::json,
            created_at = least(jobs.created_at, change.created_at), updated_at = change.updated_at,
            finished_at = change.finished_at, last_number = change.last_number,
            caused_by = coalesce(jobs.caused_by, change.caused_by)
        FROM change, held
        WHERE jobs.id = change.id AND change.id = held.id
        RETURNING jobs.id, jobs.kind, jobs.owner, jobs.caused_by, jobs.created_at,
                  CASE WHEN jobs.cancel_replays >= jobs.replays THEN jobs.cancel_requested_at END AS cancel_requested_at
    ), inserted AS (
        INSERT INTO jobs (id, kind, owner, state, replays, attempt, redeliveries, sequence, progress, result, error,
                          created_at, updated_at, finished_at, last_number, caused_by)
        SELECT id, kind, owner, state, replays, attempt, redeliveries, sequence, progress::json, result::json,
               error::json, created_at, updated_at, finished_at, last_number, caused_by
        FROM change WHERE read_number IS NULL ORDER BY id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, kind, owner, caused_by, created_at, NULL::timestamptz AS cancel_requested_at
    ), written AS (
        SELECT * FROM updated UNION ALL SELECT * FROM inserted
    ), noted AS (
        INSERT INTO job_events AS kept (job_id, number, event_id, event_type, effect, run_id, replays, attempt,
                                        redeliveries, sequence, worker, at, data)
        SELECT job_id, number, event_id, event_type, effect, run_id, replays, attempt, redeliveries, sequence, worker, at,
               data::json
        FROM unnest($17::uuid[], $18::bigint[], $19::uuid[], $20::text[], $21::text[], $22::uuid[], $23::bigint[],
                    $24::bigint[], $25::bigint[], $26::bigint[], $27::text[], $28::timestamptz[], $29::text[])
            AS line (job_id, number, event_id, event_type, effect, run_id, replays, attempt, redeliveries, sequence,
                     worker, at, data)
        JOIN written ON written.id = job_id
        ON CONFLICT (job_id) WHERE event_type = 'job.progressed' DO UPDATE SET
            number = excluded.number, event_id = excluded.event_id, effect = excluded.effect, run_id = excluded.run_id,
            replays = excluded.replays, attempt = excluded.attempt, redeliveries = excluded.redeliveries,
            sequence = excluded.sequence, worker = excluded.worker, at = excluded.at, data = excluded.data
    )
    SELECT written.*, outbox.due_at, CASE WHEN $30::text IS NOT NULL THEN pg_notify($30, written.id::text) END AS announced
    FROM written
    LEFT JOIN outbox ON outbox.job_id = written.id AND outbox.sent_at IS NULL AND outbox.set_aside_at IS NULL";

fn column<'j, T>(jobs: &[(&Uuid, &'j Change<'_>)], of: impl Fn(&'j Change<'_>) -> T) -> Vec<T> {
    jobs.iter().map(|&(_, change)| of(change)).collect()
}

/// PostgreSQL takes every character in a text but NUL; one in a foreign worker's name must not hold up the rest.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}
