//! Schedules and what became of their due times.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use store::PgPool;
use store::jobs::{JobState, NewJob, find_job};
use store::outbox::{self, NewOutboxRow};
use store::schedules::{
    DueSchedule, NewSchedule, Plan, Schedule, Timing, Turn, create, delete, find, firings, job_id, list, next_in,
    take_due,
};
use uuid::Uuid;

use crate::TestStore;

fn timing() -> Timing {
    Timing::parse("0 8 * * 1", "Europe/Berlin").unwrap()
}

async fn weekly(pool: &PgPool, owner: &str) -> Schedule {
    let schedule = NewSchedule {
        id: Uuid::new_v4(),
        owner: owner.to_owned(),
        kind: "noop.run".to_owned(),
        name: "Mondays".to_owned(),
        timing: timing(),
        template: json!({"note": "hello"}),
    };
    create(pool, &schedule).await.unwrap()
}

async fn due_at(pool: &PgPool, schedule: &Schedule, at: DateTime<Utc>) {
    sqlx::query("UPDATE schedules SET next_due_at = $2 WHERE id = $1")
        .bind(schedule.id)
        .bind(at)
        .execute(pool)
        .await
        .unwrap();
}

fn plan(due: &DueSchedule) -> Plan {
    let next_due_at = timing().first_after(due.now());
    Plan { due_at: due.first_due(), in_time: true, missed_since: None, next_due_at }
}

fn fired(due: &DueSchedule) -> Turn {
    let (schedule, id) = (due.schedule(), job_id(due.schedule().id, due.first_due()));
    let job = NewJob { id, kind: schedule.kind.clone(), owner: schedule.owner.clone(), caused_by: None, at: due.now() };
    Turn::Fired(Box::new((job, NewOutboxRow { message: schedule.template.clone(), due_at: None })))
}

#[tokio::test]
async fn a_schedule_is_its_owners() {
    let store = TestStore::create().await;
    let before = Utc::now();
    let made = weekly(&store.pool, "alice").await;
    assert_eq!((made.cron.as_str(), made.time_zone.as_str()), ("0 8 * * 1", "Europe/Berlin"));
    assert_eq!(made.template, json!({"note": "hello"}));
    assert_eq!(made.next_due_at, timing().first_after(before));
    let wait = next_in(&store.pool).await.unwrap().unwrap();
    assert!(wait <= Duration::from_secs(8 * 24 * 3600), "{wait:?}");

    let second = weekly(&store.pool, "alice").await;
    weekly(&store.pool, "bob").await;
    assert_eq!(list(&store.pool, "alice").await.unwrap(), [made.clone(), second]);
    assert_eq!(find(&store.pool, made.id, "alice").await.unwrap(), Some(made.clone()));
    assert_eq!(find(&store.pool, made.id, "bob").await.unwrap(), None);
    assert!(!delete(&store.pool, made.id, "bob").await.unwrap());
    assert!(delete(&store.pool, made.id, "alice").await.unwrap());
    assert!(!delete(&store.pool, made.id, "alice").await.unwrap());
}

#[tokio::test]
async fn a_due_time_makes_one_job_with_its_row_and_the_next_time() {
    let store = TestStore::create().await;
    let schedule = weekly(&store.pool, "alice").await;
    assert!(take_due(&store.pool).await.unwrap().is_none());
    let at: DateTime<Utc> = "2026-01-05T07:00:00Z".parse().unwrap();
    due_at(&store.pool, &schedule, at).await;
    assert_eq!(next_in(&store.pool).await.unwrap(), Some(Duration::ZERO));

    let due = take_due(&store.pool).await.unwrap().unwrap();
    assert_eq!(due.first_due(), at);
    assert!(take_due(&store.pool).await.unwrap().is_none(), "it is held");
    let (plan, turn) = (plan(&due), fired(&due));
    due.record(&plan, &turn).await.unwrap();

    let id = job_id(schedule.id, at);
    let after = find(&store.pool, schedule.id, "alice").await.unwrap().unwrap();
    assert_eq!((after.last_due_at, after.next_due_at), (Some(at), plan.next_due_at));
    assert_eq!(find_job(&store.pool, id, "alice").await.unwrap().unwrap().state, JobState::Queued);
    let firing = &firings(&store.pool, schedule.id, 10).await.unwrap()[0];
    assert_eq!((firing.due_at, firing.outcome.as_str(), firing.job_id), (at, "fired", Some(id)));
    let batch = outbox::take_due(&store.pool, 10).await.unwrap().unwrap();
    assert_eq!(batch.rows().len(), 1);
    assert_eq!((batch.rows()[0].job_id, batch.rows()[0].message.as_str()), (id, r#"{"note":"hello"}"#));
    batch.finish(&[(id, outbox::Outcome::Sent)]).await.unwrap();

    // The same due time once more, as if the clock had gone back: it is known, and makes nothing.
    due_at(&store.pool, &schedule, at).await;
    let due = take_due(&store.pool).await.unwrap().unwrap();
    due.record(&plan, &turn).await.unwrap();
    assert_eq!(firings(&store.pool, schedule.id, 10).await.unwrap().len(), 1);
    assert!(outbox::take_due(&store.pool, 10).await.unwrap().is_none());
}

#[tokio::test]
async fn a_due_time_that_is_not_recorded_is_due_again() {
    let store = TestStore::create().await;
    let schedule = weekly(&store.pool, "alice").await;
    due_at(&store.pool, &schedule, "2026-01-05T07:00:00Z".parse().unwrap()).await;
    drop(take_due(&store.pool).await.unwrap().unwrap());
    let again = loop {
        if let Some(due) = take_due(&store.pool).await.unwrap() {
            break due;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(again.schedule().id, schedule.id);
}

#[tokio::test]
async fn what_was_missed_or_failed_is_noted_without_a_job() {
    let store = TestStore::create().await;
    let schedule = weekly(&store.pool, "alice").await;
    let first: DateTime<Utc> = "2026-01-05T07:00:00Z".parse().unwrap();
    due_at(&store.pool, &schedule, first).await;
    let due = take_due(&store.pool).await.unwrap().unwrap();
    let missed = Plan { missed_since: Some(first), ..plan(&due) };
    due.record(&missed, &Turn::Missed).await.unwrap();

    let second = first + TimeDelta::days(7);
    due_at(&store.pool, &schedule, second).await;
    let due = take_due(&store.pool).await.unwrap().unwrap();
    let stops = Plan { next_due_at: None, ..plan(&due) };
    due.record(&stops, &Turn::Failed { reason: "no such time zone".to_owned() }).await.unwrap();

    let noted = firings(&store.pool, schedule.id, 10).await.unwrap();
    let noted: Vec<_> =
        noted.iter().map(|firing| (firing.due_at, firing.outcome.as_str(), firing.missed_since)).collect();
    assert_eq!(noted, [(second, "failed", None), (first, "missed", Some(first))]);
    assert_eq!(find(&store.pool, schedule.id, "alice").await.unwrap().unwrap().next_due_at, None);
    assert_eq!(next_in(&store.pool).await.unwrap(), None);
    assert!(outbox::take_due(&store.pool, 10).await.unwrap().is_none());
}
