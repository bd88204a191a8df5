//! What happened to a job, run by run: who ran it, from when to when, how that ended, when it is tried next.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use store::jobs::{JobEventRow, JobEventType};
use utoipa::ToSchema;
use uuid::Uuid;

use super::view::without_internals;

/// The store writes this where the broker itself gave a job up: after every delivery there was.
const AFTER_ALL: u32 = u32::MAX;

/// What happened in one run; what happened before the first or between two has an entry without one.
#[derive(Serialize, ToSchema)]
#[schema(as = Run)]
pub(super) struct RunView {
    /// The run's id; absent where nothing ran.
    run_id: Option<Uuid>,
    /// Which attempt it was.
    attempt: u32,
    /// How often this attempt had been delivered before, without an end that anybody heard of.
    redeliveries: u32,
    /// How often the job had been replayed before.
    replays: u32,
    /// The service that ran it.
    #[schema(example = "pdf-report")]
    worker: Option<String>,
    /// When it began.
    started_at: Option<DateTime<Utc>>,
    /// When it ended, as far as that is known.
    ended_at: Option<DateTime<Utc>>,
    /// How it stands or ended; absent where nothing ran.
    outcome: Option<RunOutcome>,
    /// Why it failed (`kind`), or was refused (`code` and `reason`).
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    /// When, about, the next attempt follows.
    next_try_at: Option<DateTime<Utc>>,
    /// What happened.
    events: Vec<EventView>,
}

/// How a run stands or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunOutcome {
    /// It is not over, as far as is known.
    Running,
    /// It failed, and there will be another.
    Retrying,
    /// Done.
    Succeeded,
    /// It cannot be done.
    Refused,
    /// It was stopped.
    Cancelled,
    /// It failed, and there will be no other.
    Dead,
    /// Its worker went away before it could say how it ended.
    Lost,
}

/// Something that happened to a job.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventView {
    /// Grows with each event of the job.
    number: i64,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "job.started")]
    event_type: JobEventType,
    /// Which attempt it was.
    attempt: u32,
    /// When.
    at: DateTime<Utc>,
    /// What belongs to the type: `progress`, `failure`, `delay_seconds`, `next_attempt`, `result`, `refusal`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// How often a job was tried, over its whole life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Attempts that have begun.
    pub(super) attempts: u32,
    /// Deliveries of the same attempt beyond the first.
    pub(super) redeliveries: u32,
}

/// A place in the order of runs.
type Place = (u32, u32, u32);

fn place(event: &JobEventRow) -> Place {
    (event.replays, event.attempt, event.redeliveries)
}

/// Counts, apart: a message that comes again because its worker was lost is no further attempt.
pub(super) fn count(events: &[JobEventRow]) -> Counters {
    let mut attempts: BTreeMap<u32, u32> = BTreeMap::new();
    let mut redeliveries: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    for event in events {
        let (replays, attempt, redelivered) = place(event);
        let attempts = attempts.entry(replays).or_default();
        *attempts = attempt.max(*attempts);
        if redelivered != AFTER_ALL {
            let most = redeliveries.entry((replays, attempt)).or_default();
            *most = redelivered.max(*most);
        }
    }
    let sum = |values: &mut dyn Iterator<Item = u32>| values.fold(0, u32::saturating_add);
    Counters { attempts: sum(&mut attempts.into_values()), redeliveries: sum(&mut redeliveries.into_values()) }
}

/// The runs, the oldest first. `running` says whether the job is at one.
pub(super) fn runs(events: Vec<JobEventRow>, running: bool) -> Vec<RunView> {
    let latest = events.iter().filter(|event| event.run_id.is_some()).map(place).max();
    let mut groups: Vec<Vec<JobEventRow>> = Vec::new();
    for event in events.into_iter().filter(|event| event.event_type != JobEventType::Progressed) {
        let of_its_run = |group: &&mut Vec<JobEventRow>| event.run_id.is_some() && group[0].run_id == event.run_id;
        match groups.iter_mut().find(of_its_run) {
            Some(group) => group.push(event),
            None => groups.push(vec![event]),
        }
    }
    groups.into_iter().map(|group| RunView::of(group, latest.filter(|_| running))).collect()
}

impl RunView {
    /// `running` is the place of the run that the job is at.
    fn of(events: Vec<JobEventRow>, running: Option<Place>) -> Self {
        let first = &events[0];
        let (run_id, at) = (first.run_id, place(first));
        let end = events.iter().rev().find(|event| outcome_of(event.event_type).is_some());
        let outcome = match end {
            Some(end) => outcome_of(end.event_type),
            None if Some(at) == running => Some(RunOutcome::Running),
            None => Some(RunOutcome::Lost),
        };
        let started = events.iter().find(|event| event.event_type == JobEventType::Started);
        Self {
            run_id,
            replays: at.0,
            attempt: at.1,
            redeliveries: if at.2 == AFTER_ALL { 0 } else { at.2 },
            worker: events.iter().find_map(|event| event.worker.as_deref()).map(service_of),
            started_at: run_id.and_then(made_at).or_else(|| started.map(|event| event.at)),
            ended_at: end.filter(|_| run_id.is_some()).map(|event| event.at),
            outcome: outcome.filter(|_| run_id.is_some()),
            error: end.and_then(|event| reason(&event.data)),
            next_try_at: end.and_then(|event| next_try(event.at, &event.data)),
            events: events.into_iter().map(EventView::of).collect(),
        }
    }
}

fn outcome_of(event_type: JobEventType) -> Option<RunOutcome> {
    match event_type {
        JobEventType::Queued | JobEventType::Started | JobEventType::Progressed => None,
        JobEventType::Retrying => Some(RunOutcome::Retrying),
        JobEventType::Succeeded => Some(RunOutcome::Succeeded),
        JobEventType::Refused => Some(RunOutcome::Refused),
        JobEventType::Cancelled => Some(RunOutcome::Cancelled),
        JobEventType::Dead => Some(RunOutcome::Dead),
    }
}

/// The service of a worker's name `<service>@<host>:<process>`; the rest is nobody else's business.
fn service_of(worker: &str) -> String {
    worker.split('@').next().unwrap_or_default().to_owned()
}

/// When a run began: the id of a run of ours is made at its start, and holds the moment. That it has begun is told later, or
/// never.
fn made_at(run_id: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanoseconds) = run_id.get_timestamp().filter(|_| run_id.get_version_num() == 7)?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanoseconds)
}

fn reason(data: &Value) -> Option<Value> {
    let reason = data.get("failure").or_else(|| data.get("refusal"))?;
    Some(without_internals(reason.clone()))
}

fn next_try(at: DateTime<Utc>, data: &Value) -> Option<DateTime<Utc>> {
    let seconds = data.get("delay_seconds")?.as_f64()?;
    let delay = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    at.checked_add_signed(TimeDelta::from_std(delay).ok()?)
}

impl EventView {
    /// An event as it was read.
    pub(crate) fn of(event: JobEventRow) -> Self {
        let mut data = match event.data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        if let Some(failure) = data.get_mut("failure") {
            *failure = without_internals(failure.take());
        }
        // A foreign worker may send anything beside what belongs to the type.
        for own in ["number", "type", "attempt", "at"] {
            data.remove(own);
        }
        Self { number: event.number, event_type: event.event_type, attempt: event.attempt, at: event.at, data }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use serde_json::{Value, json};
    use store::jobs::{Effect, JobEventRow, JobEventType as Type};
    use uuid::{Builder, Uuid};

    use super::{AFTER_ALL, Counters, Place, RunOutcome, count, runs};

    fn second(second: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::seconds(second)
    }

    /// The id of a run that began at that second.
    fn run(began: u64) -> Uuid {
        Builder::from_unix_timestamp_millis(began * 1000, &[0; 10]).into_uuid()
    }

    /// `at` is in seconds, and the event's number.
    fn event(at: i64, event_type: Type, run_id: Option<Uuid>, place: Place, data: Value) -> JobEventRow {
        JobEventRow {
            number: at,
            event_id: Uuid::nil(),
            event_type,
            effect: Effect::Moved,
            run_id,
            replays: place.0,
            attempt: place.1,
            redeliveries: place.2,
            sequence: 1,
            worker: run_id.map(|_| "pdf-report@10.0.0.7:12".to_owned()),
            at: second(at),
            data,
        }
    }

    /// A job whose worker is lost in the first attempt, fails in the second run of it, dies, is replayed and done.
    fn eventful() -> Vec<JobEventRow> {
        let failed = |delay| json!({"failure": {"kind": "error", "reason": "a secret"}, "delay_seconds": delay});
        vec![
            event(1, Type::Queued, None, (0, 0, 0), json!({})),
            event(2, Type::Started, Some(run(2)), (0, 1, 0), json!({})),
            event(11, Type::Started, Some(run(10)), (0, 1, 1), json!({})),
            event(12, Type::Retrying, Some(run(10)), (0, 1, 1), failed(5.5)),
            event(
                20,
                Type::Dead,
                Some(run(19)),
                (0, 2, 0),
                json!({"failure": {"kind": "rejected", "reason": "a secret"}}),
            ),
            event(30, Type::Queued, None, (1, 0, 0), json!({})),
            event(32, Type::Succeeded, Some(run(31)), (1, 1, 2), json!({"result": {"pages": 4}})),
        ]
    }

    #[test]
    fn each_run_has_its_worker_its_span_its_end_and_its_next_try() {
        let runs = runs(eventful(), false);
        let shown: Vec<_> = runs.iter().map(|run| (run.outcome, run.started_at, run.ended_at)).collect();
        let at = |at| Some(second(at));
        let expected = [
            (None, None, None),
            (Some(RunOutcome::Lost), at(2), None),
            (Some(RunOutcome::Retrying), at(10), at(12)),
            // Too short to tell of its start.
            (Some(RunOutcome::Dead), at(19), at(20)),
            (None, None, None),
            (Some(RunOutcome::Succeeded), at(31), at(32)),
        ];
        assert_eq!(shown, expected);
        let places: Vec<_> = runs.iter().map(|run| (run.replays, run.attempt, run.redeliveries)).collect();
        assert_eq!(places, [(0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 0, 0), (1, 1, 2)]);
        assert_eq!(runs[2].next_try_at, Some(second(17) + TimeDelta::milliseconds(500)));
        assert_eq!(runs[2].error, Some(json!({"kind": "error"})));
        assert_eq!(runs[5].error, None);
        assert!(runs.iter().all(|run| run.worker == run.run_id.map(|_| "pdf-report".to_owned())));
        let text = serde_json::to_string(&runs).unwrap();
        assert!(!text.contains("secret") && !text.contains("10.0.0"), "{text}");
    }

    #[test]
    fn attempts_and_redeliveries_are_counted_apart_and_through_replays() {
        assert_eq!(count(&[]), Counters::default());
        assert_eq!(count(&eventful()), Counters { attempts: 3, redeliveries: 3 });
    }

    #[test]
    fn of_the_runs_of_a_running_job_the_latest_is_running() {
        let mut events = eventful();
        events.truncate(3);
        let outcomes = |events: &[JobEventRow], running| -> Vec<_> {
            runs(events.to_vec(), running).iter().filter_map(|run| run.outcome).collect()
        };
        assert_eq!(outcomes(&events, true), [RunOutcome::Lost, RunOutcome::Running]);
        assert_eq!(outcomes(&events, false), [RunOutcome::Lost, RunOutcome::Lost]);
    }

    #[test]
    fn what_the_broker_gave_up_is_no_run_and_no_redelivery() {
        let dead = json!({"failure": {"kind": "delivery_limit", "reason": "a secret"}});
        let events = vec![
            event(2, Type::Started, Some(run(2)), (0, 1, 20), json!({})),
            event(3, Type::Dead, None, (0, 1, AFTER_ALL), dead),
        ];
        assert_eq!(count(&events), Counters { attempts: 1, redeliveries: 20 });
        let [lost, dead] = runs(events, false).try_into().ok().unwrap();
        assert_eq!((lost.outcome, dead.outcome, dead.redeliveries), (Some(RunOutcome::Lost), None, 0));
        assert_eq!(dead.error, Some(json!({"kind": "delivery_limit"})));
    }

    #[test]
    fn a_foreign_worker_may_leave_out_what_it_does_not_know() {
        let foreign = event(3, Type::Succeeded, Some(Uuid::from_u128(7)), (0, 1, 0), json!(null));
        let [run] = runs(vec![JobEventRow { worker: None, ..foreign }], false).try_into().ok().unwrap();
        assert_eq!((run.outcome, run.started_at, run.worker), (Some(RunOutcome::Succeeded), None, None));
        let foreign = event(3, Type::Started, Some(Uuid::from_u128(7)), (0, 1, 0), json!({}));
        assert_eq!(runs(vec![foreign], true)[0].started_at, Some(second(3)));
    }
}
