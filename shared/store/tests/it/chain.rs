//! What caused a job, and what it caused.

use chrono::TimeDelta;
use serde_json::json;
use store::PgPool;
use store::jobs::{Chain, JobEvent, JobEventType, JobState, NewJob, apply_events_unannounced, chain_of, find_job_for};
use store::outbox::{NewOutboxRow, Outcome, put, take_due};
use uuid::Uuid;

use crate::TestStore;
use crate::jobs::{apply, event, job, new_job, noon, record_queued};

fn caused(by: Uuid, owner: Option<&str>) -> JobEvent {
    let owner = owner.map(str::to_owned);
    JobEvent { owner, caused_by: Some(by), ..event(Uuid::new_v4(), JobEventType::Succeeded, 1) }
}

/// Of a job, whosever it is.
async fn chain(pool: &PgPool, id: Uuid) -> Chain {
    let job = find_job_for(pool, id, None).await.unwrap().unwrap();
    chain_of(pool, &job).await.unwrap()
}

#[tokio::test]
async fn what_caused_a_job_once_known_stays_whoever_knew_it() {
    let store = TestStore::create().await;
    let (cause, other) = (Uuid::new_v4(), Uuid::new_v4());
    let by = |cause, event: JobEvent| JobEvent { caused_by: cause, ..event };
    let (told, recorded) = (Uuid::new_v4(), Uuid::new_v4());
    apply(&store.pool, &event(told, JobEventType::Started, 1)).await;
    assert_eq!(job(&store.pool, told).await.caused_by, None);
    apply(&store.pool, &by(Some(cause), event(told, JobEventType::Retrying, 2))).await;
    apply(&store.pool, &event(recorded, JobEventType::Started, 1)).await;
    record_queued(&store.pool, &NewJob { caused_by: Some(cause), ..new_job(recorded) }).await;
    for id in [told, recorded] {
        apply(&store.pool, &by(Some(other), event(id, JobEventType::Succeeded, 3))).await;
        record_queued(&store.pool, &NewJob { caused_by: Some(other), ..new_job(id) }).await;
        record_queued(&store.pool, &new_job(id)).await;
        assert_eq!(job(&store.pool, id).await.caused_by, Some(cause));
    }
}

#[tokio::test]
async fn a_job_has_what_caused_it_and_what_it_caused_as_far_as_they_are_its_owners() {
    let store = TestStore::create().await;
    let cause = Uuid::new_v4();
    record_queued(&store.pool, &new_job(cause)).await;
    assert_eq!(chain(&store.pool, cause).await, Chain::default());
    let second = caused(cause, Some("alice"));
    let first = JobEvent { at: noon(), ..caused(cause, Some("alice")) };
    let (bobs, nobodys) = (caused(cause, Some("bob")), caused(cause, None));
    for event in [&second, &first, &bobs, &nobodys] {
        apply(&store.pool, event).await;
    }
    let found = chain(&store.pool, cause).await;
    let found: Vec<_> = found.caused.iter().map(|job| (job.id, job.kind.as_str(), job.state, job.waits)).collect();
    let shown = |event: &JobEvent| (event.job_id, "noop.run", JobState::Succeeded, false);
    assert_eq!(found, [shown(&first), shown(&second)]);
    for (event, by) in [(&first, Some(cause)), (&second, Some(cause)), (&bobs, None), (&nobodys, None)] {
        assert_eq!(chain(&store.pool, event.job_id).await, Chain { caused_by: by, caused: Vec::new() });
    }
    // Nobody's job is not everybody's.
    let nobodys_effect = caused(nobodys.job_id, None);
    apply(&store.pool, &nobodys_effect).await;
    assert_eq!(chain(&store.pool, nobodys.job_id).await.caused, []);
}

#[tokio::test]
async fn a_caused_job_that_waits_in_the_outbox_says_so() {
    let store = TestStore::create().await;
    let (cause, id) = (Uuid::new_v4(), Uuid::new_v4());
    record_queued(&store.pool, &new_job(cause)).await;
    let row = NewOutboxRow { message: json!({}), due_at: None };
    put(&store.pool, &NewJob { caused_by: Some(cause), ..new_job(id) }, &row).await.unwrap();
    let waits = async || chain(&store.pool, cause).await.caused.iter().map(|job| job.waits).collect::<Vec<_>>();
    assert_eq!(waits().await, [true]);
    let batch = take_due(&store.pool, 1).await.unwrap().unwrap();
    batch.finish(&[(id, Outcome::Sent)]).await.unwrap();
    assert_eq!(waits().await, [false]);
}

#[tokio::test]
async fn of_many_that_a_job_caused_the_first_twenty_are_told_of() {
    let store = TestStore::create().await;
    let cause = Uuid::new_v4();
    record_queued(&store.pool, &new_job(cause)).await;
    let at = |place: i32| noon() + TimeDelta::seconds(place.into());
    let events: Vec<_> =
        (0..25).rev().map(|place| JobEvent { at: at(place), ..caused(cause, Some("alice")) }).collect();
    apply_events_unannounced(&store.pool, &events).await.unwrap();
    let told: Vec<_> = chain(&store.pool, cause).await.caused.into_iter().map(|job| job.id).collect();
    let expected: Vec<_> = events.iter().rev().take(20).map(|event| event.job_id).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn whose_event_came_before_is_named_with_what_caused_it() {
    let store = TestStore::create().await;
    let cause = Uuid::new_v4();
    let event = caused(cause, Some("alice"));
    let (changed, _) = apply_events_unannounced(&store.pool, std::slice::from_ref(&event)).await.unwrap();
    assert_eq!(changed[0].job.caused_by, Some(cause));
    let (changed, repeated) = apply_events_unannounced(&store.pool, std::slice::from_ref(&event)).await.unwrap();
    assert_eq!((changed.len(), repeated), (0, vec![event.job_id, cause]));
}
