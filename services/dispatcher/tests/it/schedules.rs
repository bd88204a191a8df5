//! Due times and their jobs.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, TimeDelta, Utc, Weekday};
use dispatcher::schedules::fire_next;
use futures_util::future::join_all;
use pipeline::jobs::{Job, RenderReport};
use serde_json::Value;
use store::schedules::{NewSchedule, Schedule, Timing, create, find, firings, job_id};
use uuid::Uuid;

use crate::fixture::{Fixture, QUEUE, template};

async fn schedule(fixture: &Fixture, cron: &str, due_at: DateTime<Utc>) -> Schedule {
    let new = NewSchedule {
        id: Uuid::new_v4(),
        owner: "alice".to_owned(),
        kind: RenderReport::KIND.to_owned(),
        name: "Last week".to_owned(),
        timing: Timing::parse(cron, "UTC").unwrap(),
        template: serde_json::to_value(template()).unwrap(),
    };
    let made = create(&fixture.pool, &new).await.unwrap();
    sqlx::query("UPDATE schedules SET next_due_at = $2 WHERE id = $1")
        .bind(made.id)
        .bind(due_at)
        .execute(&fixture.pool)
        .await
        .unwrap();
    made
}

/// The latest full hour.
fn hour() -> DateTime<Utc> {
    let seconds = Utc::now().timestamp();
    DateTime::from_timestamp(seconds - seconds % 3600, 0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_due_time_fires_once_with_two_dispatchers() {
    let fixture = Fixture::new().await;
    // Due now, and next in a year: so that a second firing could only be the same again.
    let yearly = format!("0 0 {} {} *", hour().day(), hour().month());
    let mut wanted = BTreeSet::new();
    for _ in 0..20 {
        let made = schedule(&fixture, &yearly, hour()).await;
        wanted.insert(job_id(made.id, hour()));
    }
    let dispatchers = [fixture.dispatcher().await, fixture.dispatcher().await];
    fixture.wait_sent(20).await;
    let sent = fixture.take(20).await;
    assert_eq!(sent.into_iter().collect::<BTreeSet<_>>(), wanted);
    for dispatcher in dispatchers {
        dispatcher.stop().await;
    }
    assert_eq!(fixture.count("SELECT count(*) FROM schedule_firings WHERE outcome = 'fired'").await, 20);
    fixture.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_fire_at_once_one_does() {
    let fixture = Fixture::new().await;
    schedule(&fixture, "0 8 * * 1", hour()).await;
    let fired = join_all((0..8).map(|_| {
        let pool = fixture.pool.clone();
        tokio::spawn(async move { fire_next(&pool).await.unwrap() })
    }))
    .await;
    assert_eq!(fired.into_iter().filter(|fired| *fired.as_ref().unwrap()).count(), 1);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 1);
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn the_report_of_a_schedule_covers_the_week_before_its_due_time() {
    let fixture = Fixture::new().await;
    let made = schedule(&fixture, "0 * * * *", hour()).await;
    let dispatcher = fixture.dispatcher().await;
    let message = fixture.vhost.take(QUEUE).await;
    let properties = &message.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), job_id(made.id, hour()).to_string());
    let payload: Value = serde_json::from_slice(&message.data).unwrap();
    let monday = hour().date_naive().week(Weekday::Mon).first_day();
    assert_eq!(payload["period"]["from"], (monday - TimeDelta::days(7)).to_string());
    assert_eq!(payload["period"]["to"], (monday - TimeDelta::days(1)).to_string());
    assert_eq!(payload["recipient"]["name"], "Alice");
    fixture.wait_sent(1).await;
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn of_the_times_that_were_missed_only_the_latest_fires() {
    let fixture = Fixture::new().await;
    let first = hour() - TimeDelta::days(21);
    let made = schedule(&fixture, "0 * * * *", first).await;
    assert!(fire_next(&fixture.pool).await.unwrap());
    assert!(!fire_next(&fixture.pool).await.unwrap());
    let noted = firings(&fixture.pool, made.id, 100).await.unwrap();
    assert_eq!(noted.len(), 1);
    assert_eq!((noted[0].outcome.as_str(), noted[0].missed_since), ("fired", Some(first)));
    // The hour may have turned since the test began.
    assert!((hour() - noted[0].due_at).num_hours() <= 1, "{noted:?}");
    assert_eq!(noted[0].job_id, Some(job_id(made.id, noted[0].due_at)));
    let next = find(&fixture.pool, made.id, "alice").await.unwrap().unwrap().next_due_at.unwrap();
    assert_eq!(next, noted[0].due_at + TimeDelta::hours(1));
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 1);
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_time_that_was_missed_for_more_than_a_day_is_noted_and_does_not_fire() {
    let fixture = Fixture::new().await;
    let yesterday = hour() - TimeDelta::hours(26);
    let yearly = format!("0 {} {} {} *", yesterday.format("%H"), yesterday.day(), yesterday.month());
    let made = schedule(&fixture, &yearly, yesterday).await;
    assert!(fire_next(&fixture.pool).await.unwrap());
    let noted = firings(&fixture.pool, made.id, 100).await.unwrap();
    let noted: Vec<_> = noted.iter().map(|firing| (firing.outcome.as_str(), firing.due_at, firing.job_id)).collect();
    assert_eq!(noted, [("missed", yesterday, None)]);
    assert!(find(&fixture.pool, made.id, "alice").await.unwrap().unwrap().next_due_at.unwrap() > Utc::now());
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 0);
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_schedule_that_cannot_be_read_holds_up_no_other() {
    let fixture = Fixture::new().await;
    let broken = schedule(&fixture, "0 * * * *", hour() - TimeDelta::hours(1)).await;
    sqlx::query("UPDATE schedules SET time_zone = 'Mars/Olympus' WHERE id = $1")
        .bind(broken.id)
        .execute(&fixture.pool)
        .await
        .unwrap();
    let good = schedule(&fixture, "0 * * * *", hour()).await;
    let dispatcher = fixture.dispatcher().await;
    assert_eq!(fixture.take(1).await, [job_id(good.id, hour())]);
    fixture.wait_sent(1).await;
    let stopped = find(&fixture.pool, broken.id, "alice").await.unwrap().unwrap();
    assert_eq!(stopped.next_due_at, None);
    let firing = &firings(&fixture.pool, broken.id, 1).await.unwrap()[0];
    assert!(firing.outcome == "failed" && firing.reason.as_ref().unwrap().contains("time zone"), "{firing:?}");
    dispatcher.stop().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_schedule_whose_owner_may_not_ask_for_reports_makes_none_and_stops() {
    let fixture = Fixture::new().await;
    for (role, fires) in [("staff", true), ("operator", true), ("customer", false)] {
        let owner: Uuid = sqlx::query_scalar(
            "INSERT INTO users (id, name, email, country, role) VALUES (gen_random_uuid(), $1, $1 || '@shop.example', 'DE', $1) RETURNING id",
        )
        .bind(role)
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
        let made = schedule(&fixture, "0 * * * *", hour()).await;
        sqlx::query("UPDATE schedules SET owner = $2 WHERE id = $1")
            .bind(made.id)
            .bind(owner.to_string())
            .execute(&fixture.pool)
            .await
            .unwrap();
        assert!(fire_next(&fixture.pool).await.unwrap());
        let noted = &firings(&fixture.pool, made.id, 1).await.unwrap()[0];
        assert_eq!((noted.outcome == "fired", noted.job_id.is_some()), (fires, fires), "{role}: {noted:?}");
        let next = find(&fixture.pool, made.id, &owner.to_string()).await.unwrap().unwrap().next_due_at;
        assert_eq!(next.is_some(), fires, "{role}");
    }
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 2);
    fixture.vhost.finish(&[]).await;
}
