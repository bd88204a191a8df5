//! What an event does to its job, one rule a test.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use store::PgPool;
use store::jobs::{
    Applied, CHANGED_CHANNEL, CancelRequest, ChangedJob, Effect, JobEvent, JobEventType, JobRow, JobState, NewJob,
    apply_event, apply_events, apply_events_unannounced, events_after, find_job, request_cancel,
};
use store::outbox::{NewOutboxRow, put};
use uuid::Uuid;

use crate::TestStore;

/// An event of attempt 1; the place in the run is also the minute at which it happened.
pub(crate) fn event(job_id: Uuid, event_type: JobEventType, sequence: u32) -> JobEvent {
    JobEvent {
        event_id: Uuid::new_v4(),
        job_id,
        job_kind: "noop.run".to_owned(),
        owner: Some("alice".to_owned()),
        caused_by: None,
        event_type,
        run_id: Some(Uuid::from_u128(1)),
        replays: 0,
        attempt: 1,
        redeliveries: 0,
        sequence,
        worker: Some("noop@host:1".to_owned()),
        at: noon() + TimeDelta::minutes(sequence.into()),
        data: data(event_type, sequence),
    }
}

fn data(event_type: JobEventType, sequence: u32) -> Value {
    match event_type {
        JobEventType::Progressed => json!({"progress": {"phase": "rows", "done": sequence, "total": 100}}),
        JobEventType::Retrying | JobEventType::Dead => {
            json!({"failure": {"kind": "error", "reason": format!("no {sequence}")}})
        }
        JobEventType::Succeeded => json!({"result": {"sequence": sequence}}),
        JobEventType::Refused => json!({"refusal": {"code": "out-of-stock", "reason": "none left"}}),
        _ => json!({}),
    }
}

pub(crate) fn noon() -> DateTime<Utc> {
    "2026-01-15T12:00:00Z".parse().unwrap()
}

pub(crate) fn new_job(id: Uuid) -> NewJob {
    NewJob { id, kind: "noop.run".to_owned(), owner: "alice".to_owned(), caused_by: None, at: noon() }
}

/// Makes the job's row as the outbox does, which has none of it any more.
pub(crate) async fn record_queued(pool: &PgPool, job: &NewJob) {
    put(pool, job, &NewOutboxRow { message: json!({}), due_at: None }).await.unwrap();
    sqlx::query("DELETE FROM outbox WHERE job_id = $1").bind(job.id).execute(pool).await.unwrap();
}

pub(crate) async fn job(pool: &PgPool, id: Uuid) -> JobRow {
    find_job(pool, id, "alice").await.unwrap().expect("alice's job")
}

pub(crate) async fn apply(pool: &PgPool, event: &JobEvent) -> Effect {
    match apply_event(pool, event).await.unwrap() {
        Applied::New { effect, .. } => effect,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_tells_the_others_by_itself_learns_what_has_changed_and_what_came_again() {
    let store = TestStore::create().await;
    let mut listener = PgListener::connect_with(&store.pool).await.unwrap();
    listener.listen(CHANGED_CHANNEL).await.unwrap();
    let (told, waits, loud) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let due = NewOutboxRow { message: json!({}), due_at: Some(noon() + TimeDelta::days(36_500)) };
    put(&store.pool, &new_job(waits), &due).await.unwrap();
    let started = event(told, JobEventType::Started, 1);
    let batch = [event(waits, JobEventType::Started, 1), started.clone()];
    let (changed, repeated) = apply_events_unannounced(&store.pool, &batch).await.unwrap();
    assert_eq!(repeated.len(), 0);
    let of = |id: Uuid| changed.iter().find(|changed| changed.job.id == id).unwrap();
    assert_eq!((of(told).job.due_at, of(told).before, of(told).lines.len()), (None, 0, 1));
    assert_eq!(of(waits).job.due_at, due.due_at, "it waits for its time all the same");

    assert_eq!(request_cancel(&store.pool, told, "alice").await.unwrap(), CancelRequest::Marked);
    let batch = [started, event(told, JobEventType::Progressed, 2)];
    let (changed, repeated) = apply_events_unannounced(&store.pool, &batch).await.unwrap();
    assert_eq!(repeated, [told]);
    let [ChangedJob { job: changed, before: 1, lines }] = &changed[..] else { panic!("{changed:?}") };
    assert_eq!((changed, lines.len()), (&job(&store.pool, told).await, 1));
    assert!(changed.cancel_requested_at.is_some());

    // The only one who is heard.
    apply(&store.pool, &event(loud, JobEventType::Started, 1)).await;
    assert_eq!(listener.recv().await.unwrap().payload(), loud.to_string());
}

#[tokio::test]
async fn a_job_is_followed_from_queued_to_its_result() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    record_queued(&store.pool, &new_job(id)).await;
    let queued = job(&store.pool, id).await;
    assert_eq!((queued.state, queued.last_number, queued.created_at), (JobState::Queued, 0, noon()));

    apply(&store.pool, &JobEvent { attempt: 0, run_id: None, worker: None, ..event(id, JobEventType::Queued, 0) })
        .await;
    apply(&store.pool, &event(id, JobEventType::Started, 1)).await;
    apply(&store.pool, &event(id, JobEventType::Progressed, 2)).await;
    let running = job(&store.pool, id).await;
    assert_eq!((running.state, running.attempt, running.last_number), (JobState::Running, 1, 3));
    assert_eq!(running.progress, Some(json!({"phase": "rows", "done": 2, "total": 100})));

    apply(&store.pool, &event(id, JobEventType::Succeeded, 3)).await;
    let done = job(&store.pool, id).await;
    assert_eq!((done.state, done.last_number, done.error), (JobState::Succeeded, 4, None));
    assert_eq!((done.progress, done.result), (None, Some(json!({"sequence": 3}))));
    assert_eq!(done.finished_at, Some(noon() + TimeDelta::minutes(3)));

    let timeline = events_after(&store.pool, id, 0).await.unwrap();
    let types: Vec<_> = timeline.iter().map(|line| (line.number, line.event_type.as_str(), line.effect)).collect();
    let moved = Effect::Moved;
    assert_eq!(
        types,
        [
            (1, "job.queued", moved),
            (2, "job.started", moved),
            (3, "job.progressed", moved),
            (4, "job.succeeded", moved)
        ]
    );
    assert_eq!(events_after(&store.pool, id, 3).await.unwrap(), timeline[3..]);
}

#[tokio::test]
async fn why_a_job_is_retrying_refused_or_dead_is_shown_with_it() {
    let store = TestStore::create().await;
    for (event_type, error) in [
        (JobEventType::Retrying, json!({"kind": "error", "reason": "no 2"})),
        (JobEventType::Refused, json!({"code": "out-of-stock", "reason": "none left"})),
        (JobEventType::Dead, json!({"kind": "error", "reason": "no 2"})),
    ] {
        let id = Uuid::new_v4();
        apply(&store.pool, &event(id, event_type, 2)).await;
        assert_eq!(job(&store.pool, id).await.error, Some(error));
    }
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Retrying, 2)).await;
    apply(&store.pool, &JobEvent { attempt: 2, ..event(id, JobEventType::Started, 1) }).await;
    assert_eq!(job(&store.pool, id).await.error, None, "the next attempt has not failed yet");
}

#[tokio::test]
async fn an_old_event_never_overwrites_a_newer_state() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    let newest = JobEvent { attempt: 2, redeliveries: 1, ..event(id, JobEventType::Started, 1) };
    apply(&store.pool, &newest).await;
    let before = job(&store.pool, id).await;
    for old in [
        JobEvent { attempt: 2, redeliveries: 0, ..event(id, JobEventType::Retrying, 9) },
        JobEvent { attempt: 1, redeliveries: 7, ..event(id, JobEventType::Retrying, 9) },
        event(id, JobEventType::Queued, 0),
    ] {
        assert_eq!(apply(&store.pool, &old).await, Effect::Late);
        let after = job(&store.pool, id).await;
        assert_eq!((after.state, after.attempt, after.error), (before.state, before.attempt, None));
    }
    let outdated = JobEvent { attempt: 1, ..event(id, JobEventType::Progressed, 50) };
    assert_eq!(apply_event(&store.pool, &outdated).await.unwrap(), Applied::Outdated);
    assert_eq!(job(&store.pool, id).await.progress, None);
    assert_eq!(events_after(&store.pool, id, 0).await.unwrap().len(), 4, "an outdated progress report is not kept");
}

#[tokio::test]
async fn the_end_of_a_run_counts_although_its_delivery_has_started_again() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &JobEvent { redeliveries: 1, ..event(id, JobEventType::Started, 1) }).await;
    apply(&store.pool, &JobEvent { redeliveries: 0, ..event(id, JobEventType::Succeeded, 5) }).await;
    assert_eq!(job(&store.pool, id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn the_first_final_event_wins_and_a_later_one_is_noted_as_a_duplicate() {
    let store = TestStore::create().await;
    let finals = [JobEventType::Succeeded, JobEventType::Refused, JobEventType::Cancelled, JobEventType::Dead];
    for first in finals {
        for second in finals {
            let id = Uuid::new_v4();
            apply(&store.pool, &event(id, first, 5)).await;
            let before = job(&store.pool, id).await;
            // Neither a later nor an earlier place in the order makes a difference.
            for sequence in [3, 9] {
                let later = JobEvent { at: noon() + TimeDelta::hours(1), ..event(id, second, sequence) };
                assert_eq!(apply(&store.pool, &later).await, Effect::Duplicate);
            }
            let after = job(&store.pool, id).await;
            assert_eq!(after, JobRow { last_number: 3, ..before });
            let effects: Vec<_> =
                events_after(&store.pool, id, 0).await.unwrap().iter().map(|line| line.effect).collect();
            assert_eq!(effects, [Effect::Moved, Effect::Duplicate, Effect::Duplicate]);
        }
    }
}

#[tokio::test]
async fn only_a_replay_reopens_a_final_job() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Dead, 5)).await;
    assert_eq!(apply(&store.pool, &JobEvent { attempt: 9, ..event(id, JobEventType::Started, 1) }).await, Effect::Late);
    assert_eq!(job(&store.pool, id).await.state, JobState::Dead);

    let replayed = |event_type, sequence| JobEvent { replays: 1, ..event(id, event_type, sequence) };
    assert_eq!(apply(&store.pool, &replayed(JobEventType::Started, 1)).await, Effect::Moved);
    let reopened = job(&store.pool, id).await;
    assert_eq!((reopened.state, reopened.replays, reopened.attempt), (JobState::Running, 1, 1));
    assert_eq!((reopened.error, reopened.finished_at), (None, None));

    // What the time before the replay still says does not close it again.
    assert_eq!(apply(&store.pool, &JobEvent { attempt: 9, ..event(id, JobEventType::Dead, 9) }).await, Effect::Late);
    assert_eq!(job(&store.pool, id).await.state, JobState::Running);
    apply(&store.pool, &replayed(JobEventType::Succeeded, 2)).await;
    assert_eq!(job(&store.pool, id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn an_event_that_is_delivered_again_changes_nothing() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    let started = event(id, JobEventType::Started, 1);
    apply(&store.pool, &started).await;
    let before = (job(&store.pool, id).await, events_after(&store.pool, id, 0).await.unwrap());
    assert_eq!(apply_event(&store.pool, &started).await.unwrap(), Applied::Repeated);
    let twice_in_a_batch = [started.clone(), started];
    assert_eq!(apply_events(&store.pool, &twice_in_a_batch).await.unwrap(), [Applied::Repeated; 2]);
    assert_eq!((job(&store.pool, id).await, events_after(&store.pool, id, 0).await.unwrap()), before);
}

#[tokio::test]
async fn a_job_keeps_one_progress_report_however_many_come() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Started, 1)).await;
    for sequence in 2..20 {
        apply(&store.pool, &event(id, JobEventType::Progressed, sequence)).await;
    }
    let batch: Vec<_> = (20..30).map(|sequence| event(id, JobEventType::Progressed, sequence)).collect();
    apply_events(&store.pool, &batch).await.unwrap();
    let timeline = events_after(&store.pool, id, 0).await.unwrap();
    let lines: Vec<_> = timeline.iter().map(|line| (line.number, line.sequence)).collect();
    assert_eq!(lines, [(1, 1), (29, 29)]);
    assert_eq!(job(&store.pool, id).await.progress.unwrap()["done"], 29);

    apply(&store.pool, &JobEvent { attempt: 2, ..event(id, JobEventType::Started, 1) }).await;
    assert_eq!(job(&store.pool, id).await.progress, None, "a new run begins at nothing");
}

#[tokio::test]
async fn a_job_is_shown_to_its_owner_only() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    record_queued(&store.pool, &new_job(id)).await;
    assert!(find_job(&store.pool, id, "alice").await.unwrap().is_some());
    assert!(find_job(&store.pool, id, "bob").await.unwrap().is_none());
    assert!(find_job(&store.pool, id, "").await.unwrap().is_none());

    let foreign = JobEvent { owner: None, ..event(Uuid::new_v4(), JobEventType::Started, 1) };
    apply(&store.pool, &foreign).await;
    for nobody in ["alice", "bob", ""] {
        assert!(find_job(&store.pool, foreign.job_id, nobody).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn an_owner_once_known_stays() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &JobEvent { owner: None, ..event(id, JobEventType::Started, 1) }).await;
    record_queued(&store.pool, &new_job(id)).await;
    apply(&store.pool, &JobEvent { owner: Some("mallory".to_owned()), ..event(id, JobEventType::Retrying, 2) }).await;
    record_queued(&store.pool, &NewJob { owner: "mallory".to_owned(), ..new_job(id) }).await;
    assert_eq!(job(&store.pool, id).await.owner.as_deref(), Some("alice"));
    assert!(find_job(&store.pool, id, "mallory").await.unwrap().is_none());
}

#[tokio::test]
async fn recording_a_job_again_or_late_takes_nothing_back() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Succeeded, 5)).await;
    for _ in 0..2 {
        record_queued(&store.pool, &new_job(id)).await;
        let row = job(&store.pool, id).await;
        assert_eq!((row.state, row.last_number, row.created_at), (JobState::Succeeded, 1, noon()));
    }
}

#[tokio::test]
async fn every_job_that_an_event_touched_is_announced() {
    let store = TestStore::create().await;
    let mut listener = PgListener::connect_with(&store.pool).await.unwrap();
    listener.listen(CHANGED_CHANNEL).await.unwrap();
    let ids: BTreeSet<_> = (0..3).map(|_| Uuid::new_v4()).collect();
    let batch: Vec<_> = ids.iter().map(|&id| event(id, JobEventType::Started, 1)).collect();
    apply_events(&store.pool, &batch).await.unwrap();
    // Repeated: nothing has changed, nobody is woken. Then one more, to know where the announcements end.
    apply_events(&store.pool, &batch).await.unwrap();
    let last = event(Uuid::new_v4(), JobEventType::Succeeded, 2);
    apply_event(&store.pool, &last).await.unwrap();

    let mut announced = Vec::new();
    while announced.last() != Some(&last.job_id) {
        let notification =
            tokio::time::timeout(Duration::from_secs(10), listener.recv()).await.expect("in time").unwrap();
        announced.push(notification.payload().parse().unwrap());
    }
    assert_eq!(announced.len(), 4, "{announced:?}");
    assert_eq!(announced[..3].iter().copied().collect::<BTreeSet<Uuid>>(), ids);
}

#[tokio::test]
async fn a_nul_in_what_a_foreign_worker_says_holds_up_nothing() {
    let store = TestStore::create().await;
    let mut odd = event(Uuid::new_v4(), JobEventType::Dead, 1);
    odd.worker = Some("a\0b".to_owned());
    odd.job_kind = "foreign\0kind".to_owned();
    odd.data = json!({"failure": {"kind": "error", "reason": "\0"}});
    let plain = event(Uuid::new_v4(), JobEventType::Succeeded, 1);
    apply_events(&store.pool, &[odd.clone(), plain.clone()]).await.unwrap();
    assert_eq!(job(&store.pool, plain.job_id).await.state, JobState::Succeeded);
    let row = job(&store.pool, odd.job_id).await;
    assert_eq!((row.kind.as_str(), row.error), ("foreign\u{FFFD}kind", Some(odd.data["failure"].clone())));
}
