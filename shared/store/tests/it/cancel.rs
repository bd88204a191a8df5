//! The mark by which a job is to be stopped.

use store::PgPool;
use store::jobs::{CancelRequest, JobEvent, JobEventType, JobMark, JobState, mark_of, request_cancel};
use uuid::Uuid;

use crate::TestStore;
use crate::jobs::{apply, event, job, new_job, record_queued};

async fn cancel(pool: &PgPool, id: Uuid) -> CancelRequest {
    request_cancel(pool, id, "alice").await.unwrap()
}

#[tokio::test]
async fn the_wish_to_cancel_is_kept_once_and_only_from_the_owner() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    assert_eq!(cancel(&store.pool, id).await, CancelRequest::NotFound);
    assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::Open, "nothing is known of it");

    record_queued(&store.pool, &new_job(id)).await;
    assert_eq!(request_cancel(&store.pool, id, "bob").await.unwrap(), CancelRequest::NotFound);
    assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::Open);
    assert_eq!(job(&store.pool, id).await.cancel_requested_at, None);

    assert_eq!(cancel(&store.pool, id).await, CancelRequest::Marked);
    let first = job(&store.pool, id).await;
    assert!(first.cancel_requested_at.is_some());
    assert_eq!(first.state, JobState::Queued, "only the worker ends it");
    assert_eq!(cancel(&store.pool, id).await, CancelRequest::Marked);
    assert_eq!(job(&store.pool, id).await, first);
    assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::CancelRequested);
    assert_eq!(mark_of(&store.pool, id, 1).await.unwrap(), JobMark::Open, "a replay is a new decision");
}

#[tokio::test]
async fn a_job_that_has_ended_is_not_marked_but_says_how_it_ended() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Succeeded, 3)).await;
    assert_eq!(cancel(&store.pool, id).await, CancelRequest::Final(JobState::Succeeded));
    assert_eq!(job(&store.pool, id).await.cancel_requested_at, None);
    assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::Final);
}

#[tokio::test]
async fn a_dead_job_that_somebody_moved_back_by_hand_may_run() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Dead, 3)).await;
    assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::Open);
}

#[tokio::test]
async fn a_replay_takes_the_mark_away_and_outdates_older_copies() {
    let store = TestStore::create().await;
    let id = Uuid::new_v4();
    apply(&store.pool, &event(id, JobEventType::Started, 1)).await;
    assert_eq!(cancel(&store.pool, id).await, CancelRequest::Marked);
    apply(&store.pool, &event(id, JobEventType::Cancelled, 2)).await;
    assert!(job(&store.pool, id).await.cancel_requested_at.is_some(), "it was heeded");

    apply(&store.pool, &JobEvent { replays: 1, ..event(id, JobEventType::Queued, 0) }).await;
    assert_eq!(job(&store.pool, id).await.cancel_requested_at, None);
    assert_eq!(mark_of(&store.pool, id, 1).await.unwrap(), JobMark::Open);
    assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::Final, "a copy from before the replay");
    assert_eq!(cancel(&store.pool, id).await, CancelRequest::Marked);
    assert_eq!(mark_of(&store.pool, id, 1).await.unwrap(), JobMark::CancelRequested);
}
