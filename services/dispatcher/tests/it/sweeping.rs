//! What is old goes, what is not stays.

use std::fs::File;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use dispatcher::settings::KeptDays;
use dispatcher::sweeper::Sweeper;
use serde_json::json;
use sqlx::AssertSqlSafe;
use store::files::{report_key, upload_key, video_folder, video_key, video_source_key};
use store::jobs::{JobEvent, JobEventType, NewJob, apply_event, find_job};
use store::outbox::{self, NewOutboxRow};
use store::retention;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::Fixture;

fn sweeper(fixture: &Fixture) -> Sweeper {
    Sweeper::new(fixture.pool.clone(), fixture.files.clone(), KeptDays::try_from(30).unwrap())
}

async fn sweep(fixture: &Fixture) -> bool {
    sweeper(fixture).sweep(Utc::now(), &CancellationToken::new()).await.unwrap()
}

/// A job that ended so many days ago, with a report.
async fn job(fixture: &Fixture, kind: &str, days: i64) -> Uuid {
    let id = told(fixture, kind, JobEventType::Succeeded, TimeDelta::days(days)).await;
    fixture.files.put(&report_key(id), Bytes::from_static(b"%PDF")).await.unwrap();
    id
}

/// A job of which this was told so long ago.
async fn told(fixture: &Fixture, kind: &str, event_type: JobEventType, age: TimeDelta) -> Uuid {
    let id = Uuid::new_v4();
    let event = JobEvent {
        event_id: Uuid::new_v4(),
        job_id: id,
        job_kind: kind.to_owned(),
        owner: Some("alice".to_owned()),
        caused_by: None,
        event_type,
        run_id: None,
        replays: 0,
        attempt: 1,
        redeliveries: 0,
        sequence: 1,
        worker: None,
        at: Utc::now() - age,
        data: json!({"result": {}}),
    };
    apply_event(&fixture.pool, &event).await.unwrap();
    id
}

async fn is_there(fixture: &Fixture, id: Uuid) -> (bool, bool) {
    let job = find_job(&fixture.pool, id, "alice").await.unwrap().is_some();
    (job, fixture.files.size(&report_key(id)).await.unwrap().is_some())
}

#[tokio::test]
async fn what_is_past_is_deleted_and_what_is_not_stays() {
    let fixture = Fixture::new().await;
    let old = job(&fixture, "report.render", 31).await;
    let young = job(&fixture, "report.render", 29).await;
    let other = job(&fixture, "email.send", 31).await;
    fixture.put(1).await;
    for (table, key, column, past, not_past) in [
        ("outbox", "job_id, kind, message, due_at, next_try_at", "sent_at", 31, 29),
        ("idempotency_keys", "job_id, hash", "claimed_at", 31, 29),
        ("sent_mails", "job_id", "created_at", 91, 89),
    ] {
        for days in [past, not_past] {
            let values = match table {
                "outbox" => "gen_random_uuid(), 'report.render', '{}', '2025-01-01Z', '2025-01-01Z'",
                "idempotency_keys" => "gen_random_uuid(), 'hash'",
                _ => "gen_random_uuid()",
            };
            let statement =
                format!("INSERT INTO {table} ({key}, {column}) VALUES ({values}, now() - interval '{days} days')");
            sqlx::query(AssertSqlSafe(statement)).execute(&fixture.pool).await.unwrap();
        }
    }
    fixture
        .execute(
            "WITH made AS (
                 INSERT INTO schedules (id, owner, kind, name, cron, time_zone, template)
                 VALUES (gen_random_uuid(), 'alice', 'report.render', 'Mondays', '0 8 * * 1', 'UTC', '{}') RETURNING id)
             INSERT INTO schedule_firings (schedule_id, due_at, outcome, noted_at)
             SELECT id, at, 'missed', at FROM made, (VALUES (now() - interval '31 days'), (now() - interval '29 days')) AS t (at)",
        )
        .await;

    assert!(sweep(&fixture).await);
    assert_eq!(is_there(&fixture, old).await, (false, false));
    assert_eq!(is_there(&fixture, young).await, (true, true));
    assert_eq!(is_there(&fixture, other).await, (false, true), "only reports are files under the job's id");
    // One sent lately, one still open.
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 2);
    for kept in [
        "SELECT count(*) FROM idempotency_keys",
        "SELECT count(*) FROM sent_mails",
        "SELECT count(*) FROM schedule_firings",
        "SELECT count(*) FROM schedules",
    ] {
        assert_eq!(fixture.count(kept).await, 1, "{kept}");
    }
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_job_stays_as_long_as_its_file_cannot_be_deleted() {
    let fixture = Fixture::new().await;
    let (stuck, free) = (job(&fixture, "report.render", 32).await, job(&fixture, "report.render", 31).await);
    let path = fixture.directory.0.join(report_key(stuck));
    std::fs::remove_file(&path).unwrap();
    // A folder where a file should be.
    std::fs::create_dir_all(path.join("full")).unwrap();
    assert!(sweep(&fixture).await);
    assert_eq!(is_there(&fixture, free).await, (false, false));
    assert!(find_job(&fixture.pool, stuck, "alice").await.unwrap().is_some());

    std::fs::remove_dir_all(&path).unwrap();
    assert!(sweep(&fixture).await);
    assert_eq!(is_there(&fixture, stuck).await, (false, false));
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_sweep_takes_as_many_batches_as_it_needs() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "INSERT INTO idempotency_keys (job_id, hash, claimed_at)
             SELECT gen_random_uuid(), 'hash', now() - interval '31 days' FROM generate_series(1, 1234)",
        )
        .await;
    assert!(sweep(&fixture).await);
    assert_eq!(fixture.count("SELECT count(*) FROM idempotency_keys").await, 0);
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn only_one_sweeps_at_a_time() {
    let fixture = Fixture::new().await;
    let old = job(&fixture, "report.render", 31).await;
    let other = retention::begin(&fixture.pool).await.unwrap().unwrap();
    assert!(!sweep(&fixture).await);
    assert_eq!(is_there(&fixture, old).await, (true, true));
    other.finish().await.unwrap();
    assert!(sweep(&fixture).await);
    assert_eq!(is_there(&fixture, old).await, (false, false));
    fixture.vhost.finish(&[]).await;
}

/// Makes a file or a folder look as if it was last changed so long ago.
fn age(fixture: &Fixture, path: &str, age: TimeDelta) {
    File::open(fixture.directory.0.join(path)).unwrap().set_modified((Utc::now() - age).into()).unwrap();
}

/// A video that was uploaded so many days ago, with a rendition.
async fn video(fixture: &Fixture, id: Uuid, days: i64) {
    for key in [video_source_key(id, id), video_key(id, "720p.mp4")] {
        fixture.files.put(&key, Bytes::from_static(b"video")).await.unwrap();
        age(fixture, &key, TimeDelta::days(days));
    }
    age(fixture, &video_folder(id), TimeDelta::days(days));
}

async fn has_source(fixture: &Fixture, id: Uuid) -> bool {
    fixture.files.size(&video_source_key(id, id)).await.unwrap().is_some()
}

fn has_video(fixture: &Fixture, id: Uuid) -> bool {
    fixture.directory.0.join(video_folder(id)).exists()
}

#[tokio::test]
async fn a_video_goes_with_its_job_and_all_its_files() {
    let fixture = Fixture::new().await;
    let old = job(&fixture, "video.transcode", 31).await;
    let young = job(&fixture, "video.transcode", 29).await;
    let mail = job(&fixture, "email.send", 31).await;
    for id in [old, young, mail] {
        video(&fixture, id, 0).await;
    }
    assert!(sweep(&fixture).await);
    assert!(find_job(&fixture.pool, old, "alice").await.unwrap().is_none());
    assert!(!has_video(&fixture, old));
    assert!(find_job(&fixture.pool, young, "alice").await.unwrap().is_some());
    assert!(has_video(&fixture, young));
    assert!(has_video(&fixture, mail), "only videos have a folder under the job's id");
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn an_upload_goes_an_hour_after_its_job_has_ended_but_as_dead_and_what_was_made_of_it_stays() {
    use JobEventType::{Cancelled, Dead, Refused, Started, Succeeded};
    let fixture = Fixture::new().await;
    let mut videos = Vec::new();
    for (event_type, minutes, stays) in [
        (Succeeded, 61, false),
        (Refused, 61, false),
        (Cancelled, 61, false),
        (Succeeded, 59, true),
        // A replay needs it.
        (Dead, 61, true),
        (Started, 61, true),
    ] {
        let id = told(&fixture, "video.transcode", event_type, TimeDelta::minutes(minutes)).await;
        video(&fixture, id, 1).await;
        videos.push((id, event_type, stays));
    }
    // Somebody repeats the request right now, and does not know yet that it is a repeat.
    let repeated = videos[0].0;
    let repeat = video_source_key(repeated, Uuid::new_v4());
    fixture.files.put(&repeat, Bytes::from_static(b"video")).await.unwrap();
    age(&fixture, &video_folder(repeated), TimeDelta::days(1));

    assert!(sweep(&fixture).await);
    for (id, event_type, stays) in videos {
        assert_eq!(has_source(&fixture, id).await, stays, "{event_type:?}");
        assert!(fixture.files.size(&video_key(id, "720p.mp4")).await.unwrap().is_some());
    }
    assert!(fixture.files.size(&repeat).await.unwrap().is_some());
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn what_was_uploaded_for_nothing_goes_after_a_day() {
    let fixture = Fixture::new().await;
    // More than one batch.
    for key in (0..520).map(|number| upload_key(Uuid::from_u128(number))) {
        fixture.files.put(&key, Bytes::from_static(b"x")).await.unwrap();
        age(&fixture, &key, TimeDelta::hours(25));
    }
    let [dead, young, arriving] = [(); 3].map(|()| upload_key(Uuid::new_v4()));
    fixture.files.put(&young, Bytes::from_static(b"x")).await.unwrap();
    age(&fixture, &young, TimeDelta::hours(23));
    let mut arriving_now = fixture.files.begin(&arriving).await.unwrap();
    age(&fixture, &format!("{arriving}#1"), TimeDelta::hours(23));
    // Its process died.
    std::mem::forget(fixture.files.begin(&dead).await.unwrap());
    age(&fixture, &format!("{dead}#1"), TimeDelta::hours(25));

    assert!(sweep(&fixture).await);
    let uploads = std::fs::read_dir(fixture.directory.0.join("uploads")).unwrap();
    let mut left: Vec<_> =
        uploads.map(|entry| format!("uploads/{}", entry.unwrap().file_name().into_string().unwrap())).collect();
    left.sort();
    let mut expected = vec![young, format!("{arriving}#1")];
    expected.sort();
    assert_eq!(left, expected);
    arriving_now.write(Bytes::from_static(b"more")).await.unwrap();
    assert_eq!(arriving_now.finish().await.unwrap(), 4);
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_video_of_which_no_job_is_known_goes_after_a_week() {
    let fixture = Fixture::new().await;
    let [unowned, young, queued, waiting] = [(); 4].map(|()| Uuid::new_v4());
    let row = NewOutboxRow { message: json!({}), due_at: None };
    for id in [queued, waiting] {
        let job = NewJob {
            id,
            kind: "video.transcode".to_owned(),
            owner: "alice".to_owned(),
            at: Utc::now(),
            caused_by: None,
        };
        outbox::put(&fixture.pool, &job, &row).await.unwrap();
    }
    // One is known by its row alone, the other by what waits in the outbox alone.
    for (statement, id) in
        [("DELETE FROM outbox WHERE job_id = $1", queued), ("DELETE FROM jobs WHERE id = $1", waiting)]
    {
        sqlx::query(statement).bind(id).execute(&fixture.pool).await.unwrap();
    }
    for (id, days) in [(unowned, 8), (young, 6), (queued, 99), (waiting, 99)] {
        video(&fixture, id, days).await;
    }
    fixture.files.put("videos/something/else", Bytes::from_static(b"x")).await.unwrap();
    age(&fixture, "videos/something", TimeDelta::days(99));

    assert!(sweep(&fixture).await);
    assert!(!has_video(&fixture, unowned));
    for id in [young, queued, waiting] {
        assert!(has_source(&fixture, id).await);
    }
    assert!(fixture.files.size("videos/something/else").await.unwrap().is_some());
    fixture.vhost.finish(&[]).await;
}
