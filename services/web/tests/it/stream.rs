use std::time::{Duration, Instant};

use backing::Proxy;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use store::jobs::JobEventType as Type;
use tokio::time::timeout;
use web::Limits;

use crate::harness::{ALICE, BOB, BOB_ID, Behind, DEADLINE, Told, Web, database, no_redis, problem, wait};

#[tokio::test]
async fn the_events_of_a_job_arrive_in_order_and_end_with_the_final_one() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let mut stream = open(&web, &job, None).await;
    assert_eq!(stream.response.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.next().await.unwrap(), Item::Retry(1000));
    let begun = Instant::now();
    job.tell(Type::Started, json!({})).await;
    assert_eq!(stream.event().await, (1, "job.started".to_owned()));
    job.tell(Type::Progressed, json!({"progress": {"phase": "orders", "done": 1, "total": 2}})).await;
    let Some(Item::Event { number: 2, data, .. }) = stream.next().await else { panic!("no second event") };
    assert_eq!(
        (&data["progress"]["phase"], &data["number"], &data["type"]),
        (&json!("orders"), &json!(2), &json!("job.progressed"))
    );
    job.tell(Type::Succeeded, json!({"result": {"pages": 4}})).await;
    assert_eq!(stream.event().await, (3, "job.succeeded".to_owned()));
    assert_eq!(stream.next().await, None);
    // The slow look alone would have taken 10 s for each.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    web.stop().await;
}

#[tokio::test]
async fn a_stream_goes_on_after_the_last_event_that_was_received() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let other = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Started, json!({})).await;
    job.tell(Type::Retrying, json!({"failure": {"kind": "error", "reason": "secret"}, "next_attempt": 2})).await;
    let mut first = open(&web, &job, None).await;
    assert_eq!(first.next().await, Some(Item::Retry(1000)));
    assert_eq!(first.event().await.0, 1);
    drop(first);

    job.tell(Type::Succeeded, json!({"result": null})).await;
    let mut resumed = open(&other, &job, Some("1")).await;
    assert_eq!(resumed.next().await, Some(Item::Retry(1000)));
    let Some(Item::Event { number: 2, data, .. }) = resumed.next().await else { panic!("no second event") };
    assert_eq!(data["failure"], json!({"kind": "error"}));
    assert_eq!(resumed.event().await, (3, "job.succeeded".to_owned()));
    assert_eq!(resumed.next().await, None);
    for (last, status) in
        [("3", StatusCode::NO_CONTENT), ("99", StatusCode::NO_CONTENT), ("2", StatusCode::OK), ("what", StatusCode::OK)]
    {
        assert_eq!(open(&other, &job, Some(last)).await.response.status(), status, "{last}");
    }
    web.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn what_is_written_down_after_the_final_event_is_streamed_to_nobody() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Succeeded, json!({"result": null})).await;
    job.tell(Type::Started, json!({})).await;
    let mut stream = open(&web, &job, None).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    assert_eq!(stream.event().await, (1, "job.succeeded".to_owned()));
    assert_eq!(stream.next().await, None);
    assert_eq!(open(&web, &job, Some("1")).await.response.status(), StatusCode::NO_CONTENT);
    web.stop().await;
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let database = database().await;
    let limits = Limits { keep_alive: Duration::from_millis(50), ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::database(&database) }).await;
    let job = Told::queued(&web).await;
    let mut stream = open(&web, &job, None).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    let begun = Instant::now();
    assert_eq!(stream.next().await, Some(Item::Comment));
    assert_eq!(stream.next().await, Some(Item::Comment));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(stream);
    web.stop().await;
}

#[tokio::test]
async fn a_drain_ends_streams_at_once() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let job = Told::queued(&web).await;
    let mut stream = open(&web, &job, None).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    let begun = Instant::now();
    web.drain.cancel();
    assert_eq!(stream.next().await, None);
    web.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn an_old_stream_ends_and_is_resumed_without_loss() {
    let database = database().await;
    let limits = Limits { stream_age: Duration::from_millis(300), ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::database(&database) }).await;
    let mut job = Told::queued(&web).await;
    job.tell(Type::Started, json!({})).await;
    let mut stream = open(&web, &job, None).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    assert_eq!(stream.event().await, (1, "job.started".to_owned()));
    assert_eq!(stream.next().await, None);
    job.tell(Type::Succeeded, json!({"result": null})).await;
    let mut stream = open(&web, &job, Some("1")).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    assert_eq!(stream.event().await, (2, "job.succeeded".to_owned()));
    web.stop().await;
}

#[tokio::test]
async fn streams_are_bounded_in_number_and_a_closed_one_makes_room() {
    let database = database().await;
    let limits = Limits { waiting: 1, keep_alive: Duration::from_millis(50), ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::database(&database) }).await;
    let job = Told::queued(&web).await;
    let stream = open(&web, &job, None).await;
    problem(open(&web, &job, None).await.response, 503, "too-many-streams").await;
    drop(stream);
    wait("the place is free", async || open(&web, &job, None).await.response.status() == StatusCode::OK).await;
    web.stop().await;
}

#[tokio::test]
async fn who_waits_as_often_as_one_may_leaves_places_to_others() {
    let database = database().await;
    let limits = Limits { waiting: 3, waiting_each: 2, ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::database(&database) }).await;
    let (job, bobs) = (Told::queued(&web).await, Told::queued_for(&web, BOB_ID).await);
    let streams = [open(&web, &job, None).await, open(&web, &job, None).await];
    assert!(streams.iter().all(|stream| stream.response.status() == StatusCode::OK));
    problem(open(&web, &job, None).await.response, 503, "too-many-streams").await;
    let poll = web.client.get(web.url(&job.path())).bearer_auth(ALICE).header("prefer", "wait=30");
    assert!(!poll.send().await.unwrap().headers().contains_key("preference-applied"));
    let bob = web.client.get(web.url(&format!("{}/events", bobs.path()))).bearer_auth(BOB);
    assert_eq!(bob.send().await.unwrap().status(), StatusCode::OK);
    web.stop().await;
}

#[tokio::test]
async fn a_stream_outlives_a_database_that_is_away_for_a_while() {
    let database = database().await;
    let proxy = Proxy::start(&database.url()).await;
    let behind = Behind { database_url: proxy.url.clone(), cache: no_redis(), ..Behind::database(&database) };
    let web = Web::start(behind).await;
    let mut job = Told::queued(&web).await;
    let mut stream = open(&web, &job, None).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening()).await;
    // Whoever waits looks when the loss is noticed: as these two fail one after the other, that look has failed too.
    for _ in 0..2 {
        problem(web.get(&job.path()).await, 503, "store-unavailable").await;
    }
    proxy.cut(false);
    wait("the database answers again", async || web.get(&job.path()).await.status() == StatusCode::OK).await;
    job.tell(Type::Started, json!({})).await;
    assert_eq!(stream.event().await, (1, "job.started".to_owned()));
    drop(stream);
    web.stop().await;
}

#[tokio::test]
async fn a_stream_from_beyond_the_last_event_ends_all_the_same() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let mut stream = open(&web, &job, Some("99")).await;
    assert_eq!(stream.next().await, Some(Item::Retry(1000)));
    job.tell(Type::Succeeded, json!({"result": null})).await;
    assert_eq!(stream.next().await, None);
    web.stop().await;
}

/// What comes in a stream.
#[derive(Debug, PartialEq)]
enum Item {
    Event { number: i64, name: String, data: Value },
    Retry(u64),
    Comment,
}

struct Stream {
    response: Response,
    buffer: String,
}

async fn open(web: &Web, job: &Told, last: Option<&str>) -> Stream {
    let request = web.client.get(web.url(&format!("{}/events", job.path()))).bearer_auth(ALICE);
    let request = match last {
        Some(last) => request.header("last-event-id", last),
        None => request,
    };
    Stream { response: request.send().await.unwrap(), buffer: String::new() }
}

impl Stream {
    /// The next block, or `None` at the end.
    async fn next(&mut self) -> Option<Item> {
        let block = loop {
            if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let block = block.to_owned();
                self.buffer = rest.to_owned();
                break block;
            }
            let piece = timeout(DEADLINE, self.response.chunk()).await.expect("nothing within a minute").unwrap()?;
            self.buffer.push_str(std::str::from_utf8(&piece).unwrap());
        };
        let field =
            |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
        if let Some(retry) = field("retry") {
            return Some(Item::Retry(retry.parse().unwrap()));
        }
        let Some(data) = field("data") else {
            return Some(Item::Comment);
        };
        let data = serde_json::from_str(&data).unwrap();
        Some(Item::Event { number: field("id").unwrap().parse().unwrap(), name: field("event").unwrap(), data })
    }

    /// Number and type of the next event.
    async fn event(&mut self) -> (i64, String) {
        match self.next().await {
            Some(Item::Event { number, name, .. }) => (number, name),
            other => panic!("no event: {other:?}"),
        }
    }
}
