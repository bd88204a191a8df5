//! Jobs are looked at in Redis; PostgreSQL decides.

use std::time::{Duration, Instant};

use backing::Proxy;
use cache::{Redis, RedisSettings, Role};
use reqwest::StatusCode;
use serde_json::{Value, json};
use store::jobs::JobEventType as Type;
use tokio::time::timeout;
use uuid::Uuid;
use web::Limits;

use crate::harness::{
    ALICE, BOB, Behind, Told, Web, cache, cache_of, database, finish_tracked, no_redis, november, problem, vhost, wait,
};

/// Sooner than anybody looks by itself, so that only a notice can have woken who waits.
const BY_NOTICE: Duration = Duration::from_secs(8);

async fn show(web: &Web, path: &str) -> Value {
    let response = web.get(path).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

#[tokio::test]
async fn a_job_that_was_polled_is_polled_without_the_database_at_every_process() {
    let database = database().await;
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { database_url: proxy.url.clone(), ..Behind::database(&database) };
    let (web, other) = tokio::join!(Web::start(behind()), Web::start(behind()));
    let mut job = Told::queued(&web).await;
    assert_eq!(show(&web, &job.path()).await["state"], "queued");
    // Each change is told to the copy, and nobody asks the database.
    job.tell(Type::Started, json!({})).await;
    job.tell(Type::Progressed, json!({"progress": {"phase": "orders", "done": 3, "total": 10}})).await;
    job.tell(Type::Progressed, json!({"progress": {"phase": "orders", "done": 4, "total": 10}})).await;
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening() && !other.listening()).await;
    for web in [&web, &other] {
        let shown = show(web, &job.path()).await;
        assert_eq!((&shown["state"], &shown["progress"]["done"]), (&json!("running"), &json!(4)));
        assert_eq!(shown["timeline"][0]["events"][0]["type"], "job.started");
        // Also of a copy only its owner hears.
        let theirs = web.client.get(web.url(&job.path())).bearer_auth(BOB).send().await.unwrap();
        problem(theirs, 404, "not-found").await;
    }
    proxy.cut(false);
    wait("the database is heard again", async || web.listening()).await;
    let (copied, other_copied) = (show(&web, &job.path()).await, show(&other, &job.path()).await);
    assert_eq!(copied, other_copied);
    let deciding = Web::start(Behind { cache: no_redis(), ..behind() }).await;
    assert_eq!(show(&deciding, &job.path()).await, copied, "the copy is what the database says");
    for web in [web, other, deciding] {
        web.stop().await;
    }
}

#[tokio::test]
async fn what_is_accepted_without_the_database_is_looked_at_at_once_and_written_down_once_it_is_back() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { tracks: true, database_url: proxy.url.clone(), ..Behind::both(&vhost, &database) };
    let (web, other) = (Web::start_connected(behind()).await, Web::start_connected(behind()).await);
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening() && !other.listening()).await;
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = accepted["links"]["self"].as_str().unwrap();
    for web in [&web, &other] {
        assert_eq!(show(web, path).await, accepted);
    }
    proxy.cut(false);
    let written = async || show(&other, path).await["timeline"][0]["events"][0]["type"] == "job.queued";
    wait("it is written down", written).await;
    web.stop().await;
    other.stop().await;
    finish_tracked(vhost, ("report.normal", 1)).await;
}

#[tokio::test]
async fn what_is_accepted_without_the_database_has_its_page_also_when_there_is_no_copy_of_it() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { tracks: true, database_url: proxy.url.clone(), ..Behind::both(&vhost, &database) };
    let web = Web::start_connected(behind()).await;
    // One whose copies are lost, and one that cannot reach the Redis that they are in.
    let forgotten = RedisSettings { prefix: format!("{}-cold", behind().cache.prefix), ..behind().cache };
    let cold = Web::start_connected(Behind { cache: forgotten, ..behind() }).await;
    let without = Web::start_connected(Behind { cache: no_redis(), ..behind() }).await;
    proxy.cut(true);
    wait("the loss is noticed", async || [&web, &cold, &without].iter().all(|web| !web.listening())).await;
    let mut paths = Vec::new();
    for asked in [&web, &without] {
        let accepted: Value = asked.post_report(&november()).await.json().await.unwrap();
        let path = accepted["links"]["self"].as_str().unwrap().to_owned();
        for web in [&web, &cold, &without] {
            assert_eq!(show(web, &path).await, accepted);
        }
        let theirs = cold.client.get(cold.url(&path)).bearer_auth(BOB).send().await.unwrap();
        assert_ne!(theirs.status(), StatusCode::OK);
        paths.push(path);
    }
    proxy.cut(false);
    for path in &paths {
        let written = async || {
            let shown: Value = cold.get(path).await.json().await.unwrap();
            shown["timeline"][0]["events"][0]["type"] == "job.queued"
        };
        wait("it is written down", written).await;
    }
    for web in [web, cold, without] {
        web.stop().await;
    }
    finish_tracked(vhost, ("report.normal", 2)).await;
}

#[tokio::test]
async fn what_a_silent_database_does_not_write_down_has_its_page_also_when_there_is_no_copy_of_it() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let proxy = Proxy::start(&database.url()).await;
    let behind = || {
        let behind = Behind { tracks: true, database_url: proxy.url.clone(), ..Behind::both(&vhost, &database) };
        let limits = Limits { record: Duration::from_millis(300), ..behind.limits };
        Behind { limits, ..behind }
    };
    let web = Web::start_connected(behind()).await;
    let cold = Web::start_connected(Behind { cache: no_redis(), ..behind() }).await;
    assert_eq!(web.get("/v1/schedules").await.status(), StatusCode::OK);
    assert_eq!(cold.get("/v1/schedules").await.status(), StatusCode::OK);
    proxy.silence(true);
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = accepted["links"]["self"].as_str().unwrap();
    wait("it is noted", async || cold.get(path).await.status() == StatusCode::OK).await;
    assert!(web.listening(), "the silence is not noticed yet");
    assert_eq!(show(&cold, path).await, accepted);
    proxy.silence(false);
    let written = async || {
        let shown: Value = cold.get(path).await.json().await.unwrap();
        shown["timeline"][0]["events"][0]["type"] == "job.queued"
    };
    wait("it is written down", written).await;
    web.stop().await;
    cold.stop().await;
    finish_tracked(vhost, ("report.normal", 1)).await;
}

#[tokio::test]
async fn a_job_whose_copy_was_lost_before_its_row_is_written_is_waited_for() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let behind = Behind::both(&vhost, &database);
    let limits = Limits { unwritten: Duration::from_secs(60), ..behind.limits };
    let other = Web::start_connected(Behind { cache: no_redis(), limits, ..behind }).await;
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE jobs IN EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = accepted["links"]["self"].as_str().unwrap();
    let mut look = tokio::spawn(other.client.get(other.url(path)).bearer_auth(ALICE).send());
    let early = timeout(Duration::from_millis(500), &mut look).await;
    assert!(early.is_err(), "answered before it could be known: {early:?}");
    holding.commit().await.unwrap();
    let shown = look.await.unwrap().unwrap();
    assert_eq!(shown.status(), StatusCode::OK);
    assert_eq!(shown.json::<Value>().await.unwrap()["id"], accepted["id"]);
    web.stop().await;
    other.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn a_change_wakes_those_who_wait_at_every_process() {
    let database = database().await;
    let behind = || Behind::database(&database);
    let (web, other) = tokio::join!(Web::start(behind()), Web::start(behind()));
    let mut job = Told::queued(&web).await;
    let begun = Instant::now();
    let polls = [&web, &other].map(|web| {
        let poll = web.client.get(web.url(&job.path())).bearer_auth(ALICE).header("prefer", "wait=30");
        tokio::spawn(poll.send())
    });
    wait("both wait", async || web.waiting() == 1 && other.waiting() == 1).await;
    job.tell(Type::Succeeded, json!({"result": null})).await;
    for poll in polls {
        let shown: Value = poll.await.unwrap().unwrap().json().await.unwrap();
        assert_eq!(shown["state"], "succeeded");
    }
    assert!(begun.elapsed() < BY_NOTICE, "{:?}", begun.elapsed());
    web.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_change_that_redis_did_not_hear_of_is_not_hidden_by_a_copy() {
    let database = database().await;
    let proxy = Proxy::start(&backing::redis_url("cache")).await;
    let behind = Behind::database(&database);
    let settings = RedisSettings { url: proxy.url.clone().into(), ..behind.cache.clone() };
    let web = Web::start(Behind { cache: settings, ..behind }).await;
    let other = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let etag = web.get(&job.path()).await.headers()["etag"].clone();
    let poll = other.client.get(other.url(&job.path())).bearer_auth(ALICE).header("prefer", "wait=30");
    let poll = tokio::spawn(poll.header("if-none-match", etag).send());
    wait("somebody waits", async || other.waiting() == 1).await;
    proxy.cut(true);
    job.tell(Type::Started, json!({})).await;
    assert_eq!(show(&web, &job.path()).await["state"], "running", "then the database is asked");
    proxy.cut(false);
    // Copies are dropped, and who waits is woken, as soon as the one who knows better reaches Redis again.
    let begun = Instant::now();
    let shown: Value = poll.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(shown["state"], "running");
    assert!(begun.elapsed() < BY_NOTICE, "{:?}", begun.elapsed());
    assert_eq!(show(&other, &job.path()).await["state"], "running");
    job.tell(Type::Succeeded, json!({"result": null})).await;
    for web in [&web, &other] {
        assert_eq!(show(web, &job.path()).await["state"], "succeeded");
    }
    web.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_job_that_is_told_to_stop_shows_it_at_every_process_at_once() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let other = Web::start_connected(Behind::both(&vhost, &database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Started, json!({})).await;
    for web in [&web, &other] {
        assert_eq!(show(web, &job.path()).await["cancelling"], false);
    }
    assert_eq!(web.delete(&job.path()).await.status(), StatusCode::ACCEPTED);
    assert_eq!(show(&other, &job.path()).await["cancelling"], true);
    job.tell(Type::Cancelled, json!({})).await;
    assert_eq!(show(&other, &job.path()).await["state"], "cancelled");
    web.stop().await;
    other.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn without_redis_a_job_is_written_down_before_the_answer() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind { cache: no_redis(), ..Behind::both(&vhost, &database) }).await;
    for _ in 0..20 {
        let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
        let shown = show(&web, accepted["links"]["self"].as_str().unwrap()).await;
        assert_eq!(shown["timeline"][0]["events"][0]["type"], "job.queued");
    }
    web.stop().await;
    vhost.finish(&[("report.normal", 20)]).await;
}

#[tokio::test]
async fn a_job_that_waits_for_its_time_is_seen_to_be_sent() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = accepted["links"]["self"].as_str().unwrap();
    assert!(show(&web, path).await["due_at"].is_string(), "it is in the outbox");
    let batch = store::outbox::take_due(&web.pool, 1).await.unwrap().unwrap();
    let sent = [(batch.rows()[0].job_id, store::outbox::Outcome::Sent)];
    batch.finish(&sent).await.unwrap();
    assert_eq!(show(&web, path).await["due_at"], json!(null));
    web.stop().await;
}

/// Nobody writes a timeline as long as this lives.
async fn hold_the_recorder(web: &Web) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE job_events IN EXCLUSIVE MODE").execute(&mut *holding).await.unwrap();
    holding
}

#[tokio::test]
async fn a_job_can_be_stopped_before_its_row_is_written() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let holding = hold_the_recorder(&web).await;
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let path = accepted["links"]["self"].as_str().unwrap();
    let theirs = web.client.delete(web.url(path)).bearer_auth(BOB).send().await.unwrap();
    problem(theirs, 404, "not-found").await;
    assert_eq!(web.delete(path).await.status(), StatusCode::ACCEPTED);
    assert_eq!(show(&web, path).await["cancelling"], true);
    holding.rollback().await.unwrap();
    let written = async || show(&web, path).await["timeline"][0]["events"][0]["type"] == "job.queued";
    wait("it is written down", written).await;
    assert_eq!(show(&web, path).await["cancelling"], true);
    web.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn a_job_that_was_swept_is_gone_also_where_a_copy_of_it_is_left() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Succeeded, json!({"result": null})).await;
    assert_eq!(show(&web, &job.path()).await["state"], "succeeded");
    sqlx::query("DELETE FROM jobs WHERE id = $1").bind(job.id).execute(&web.pool).await.unwrap();
    problem(web.delete(&job.path()).await, 404, "not-found").await;
    // As if nothing had touched the copy for hours.
    let copies = Redis::new(&cache_of(&database), Role::Cache).unwrap().with_deadline(Duration::from_secs(2));
    let key = copies.key(&["job", "1", &job.id.to_string()]);
    let aged = copies.query::<i64>("age a copy", redis::cmd("PEXPIRE").arg(key).arg(3_600_000)).await.unwrap();
    assert_eq!(aged, 1, "there is a copy");
    problem(web.get(&job.path()).await, 404, "not-found").await;
    problem(web.delete(&job.path()).await, 404, "not-found").await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&web.pool).await.unwrap();
    assert_eq!(rows, 0);
    web.stop().await;
}

#[tokio::test]
async fn a_batch_of_rows_that_has_to_wait_does_not_hold_up_the_next() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    // The first one waits for a lock.
    for statement in [
        "CREATE SEQUENCE rows",
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('rows') = 1 THEN PERFORM pg_advisory_xact_lock(7); END IF; RETURN NEW; END $$",
        "CREATE TRIGGER wait BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION wait()",
    ] {
        sqlx::raw_sql(statement).execute(&web.pool).await.unwrap();
    }
    let mut holding = web.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7)").execute(&mut *holding).await.unwrap();
    let waits = async || {
        let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
        sqlx::query_scalar::<_, bool>(waiting).fetch_one(&web.pool).await.unwrap()
    };
    let accept = async || {
        let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
        accepted["id"].as_str().unwrap().parse::<Uuid>().unwrap()
    };
    let written = async |id: Uuid| {
        let row = "SELECT EXISTS (SELECT FROM jobs WHERE id = $1)";
        sqlx::query_scalar::<_, bool>(row).bind(id).fetch_one(&web.pool).await.unwrap()
    };
    let first = accept().await;
    wait("its row waits", waits).await;
    let second = accept().await;
    wait("the other is written down", async || written(second).await).await;
    assert!(waits().await, "the first does not wait any more");
    holding.rollback().await.unwrap();
    wait("the first is written down too", async || written(first).await).await;
    web.stop().await;
    vhost.finish(&[("report.normal", 2)]).await;
}

#[tokio::test]
async fn a_stream_waits_for_a_row_that_comes_after_its_copy_has_gone() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let holding = hold_the_recorder(&web).await;
    let accepted: Value = web.post_report(&november()).await.json().await.unwrap();
    let mut stream = web.get(accepted["links"]["events"].as_str().unwrap()).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let copies = Redis::new(&cache_of(&database), Role::Cache).unwrap();
    let key = copies.key(&["job", "1", accepted["id"].as_str().unwrap()]);
    let script = redis::Script::new("redis.call('DEL', KEYS[1]) return redis.call('PUBLISH', KEYS[2], 'all')");
    let mut dropping = script.key(key);
    dropping.key(copies.key(&["job-changed"]));
    let told: i64 = copies.invoke("drop a copy", &dropping).await.unwrap();
    assert_eq!(told, 1);
    // It looks, finds nothing, and goes on.
    wait("it is gone", async || {
        web.get(accepted["links"]["self"].as_str().unwrap()).await.status() == StatusCode::NOT_FOUND
    })
    .await;
    holding.rollback().await.unwrap();
    let mut text = String::new();
    while !text.contains("event: job.queued") {
        text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
    }
    web.stop().await;
    vhost.finish(&[("report.normal", 1)]).await;
}
