//! Several write the events of one job at once.

use chrono::TimeDelta;
use futures_util::future::join_all;
use store::jobs::{Applied, Effect, JobEventType, apply_event, apply_events, events_after};
use uuid::Uuid;

use crate::TestStore;
use crate::jobs::{apply, event, job, noon};

#[tokio::test]
async fn of_final_events_that_race_exactly_one_wins() {
    let store = TestStore::create().await;
    for _ in 0..3 {
        let id = Uuid::new_v4();
        let events: Vec<_> = (0..16)
            .map(|place| event(id, [JobEventType::Succeeded, JobEventType::Dead][place as usize % 2], place))
            .collect();
        let effects = join_all(events.iter().map(|event| apply(&store.pool, event))).await;
        let winners: Vec<_> = (0..16).filter(|&place| effects[place] == Effect::Moved).collect();
        assert_eq!(winners.len(), 1, "{effects:?}");
        let winner = &events[winners[0]];
        let row = job(&store.pool, id).await;
        assert_eq!((row.state, row.updated_at), (winner.event_type.state(), winner.at));
    }
}

#[tokio::test]
async fn an_event_that_many_deliver_at_once_is_kept_once() {
    let store = TestStore::create().await;
    let event = event(Uuid::new_v4(), JobEventType::Succeeded, 1);
    let outcomes = join_all((0..16).map(|_| apply_event(&store.pool, &event))).await;
    let new = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Applied::New { number: 1, .. }))).count();
    let repeated = outcomes.iter().filter(|outcome| matches!(outcome, Ok(Applied::Repeated))).count();
    assert_eq!((new, repeated), (1, 15), "{outcomes:?}");
    assert_eq!(job(&store.pool, event.job_id).await.last_number, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_numbers_grow_by_one_however_many_write_at_once() {
    let store = TestStore::create().await;
    let ids = [Uuid::new_v4(), Uuid::new_v4()];
    let writers = (0..24_u32).map(|writer| {
        let pool = store.pool.clone();
        tokio::spawn(async move {
            // Some alone, some with the other job's, in either order of jobs.
            let mut events: Vec<_> = ids.iter().map(|&id| event(id, JobEventType::Retrying, writer)).collect();
            if writer % 2 == 0 {
                events.reverse();
            }
            if writer % 3 == 0 {
                let alone =
                    [apply_event(&pool, &events[0]).await.unwrap(), apply_event(&pool, &events[1]).await.unwrap()];
                alone.to_vec()
            } else {
                apply_events(&pool, &events).await.unwrap()
            }
        })
    });
    for outcomes in join_all(writers).await {
        assert_eq!(outcomes.unwrap().len(), 2);
    }
    for id in ids {
        let numbers: Vec<_> = events_after(&store.pool, id, 0).await.unwrap().iter().map(|line| line.number).collect();
        assert_eq!(numbers, (1..=24).collect::<Vec<_>>());
        let row = job(&store.pool, id).await;
        assert_eq!((row.last_number, row.updated_at), (24, noon() + TimeDelta::minutes(23)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_cross_do_not_wait_for_each_other_in_a_circle() {
    let store = TestStore::create().await;
    let ids: Vec<_> = (0..60).map(|_| Uuid::new_v4()).collect();
    // First the jobs are new to all writers, then they have rows.
    for round in 0..3_u32 {
        let writers = (0..8_u32).map(|writer| {
            let (pool, mut ids) = (store.pool.clone(), ids.clone());
            ids.rotate_left(writer as usize * 4);
            if writer % 2 == 0 {
                ids.reverse();
            }
            tokio::spawn(async move {
                let events = ids.into_iter().map(|id| event(id, JobEventType::Retrying, round * 8 + writer));
                apply_events(&pool, &events.collect::<Vec<_>>()).await
            })
        });
        for outcome in join_all(writers).await {
            let outcome = outcome.unwrap().expect("no deadlock");
            let new = outcome.iter().filter(|applied| matches!(applied, Applied::New { .. })).count();
            assert_eq!(new, 60, "{outcome:?}");
        }
    }
    for id in ids {
        assert_eq!(job(&store.pool, id).await.last_number, 24);
    }
}
