//! The API on a port of its own, with as much behind it as a test wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use backing::{Database, Directory, Vhost};
use cache::{Redis, RedisSettings, Role};
use chrono::Utc;
use pipeline::{Broker, BrokerState, topology};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use service::http;
use store::jobs::{JobEvent, JobEventType, NewJob};
use store::outbox::NewOutboxRow;
use store::{Files, PgPool, SignedLinks};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use web::{App, CallerSettings, Callers, Changes, LimitSettings, Limits, RateLimits, Tracker};

pub(crate) const ALICE: &str = "token-of-alice-0123456789";
pub(crate) const BOB: &str = "token-of-bob-0123456789-";
/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What stands behind an API.
pub(crate) struct Behind {
    pub(crate) broker_url: String,
    pub(crate) database_url: String,
    pub(crate) redis: RedisSettings,
    /// So much that only tests of limits meet one.
    pub(crate) requests_per_minute: u32,
    pub(crate) trusted_proxies: &'static str,
    pub(crate) limits: Limits,
    pub(crate) http: http::Limits,
    /// Whether it hears the database's notices.
    pub(crate) listens: bool,
    /// Whether it consumes events.
    pub(crate) tracks: bool,
    /// How many messages a work queue holds.
    pub(crate) queue_length: u32,
}

impl Behind {
    /// Neither broker nor database nor Redis: their ports are closed.
    pub(crate) fn nothing() -> Self {
        Self {
            broker_url: format!("amqp://a:b@{}/none", closed_port()),
            database_url: format!("postgres://a:b@{}/none", closed_port()),
            redis: RedisSettings { url: format!("redis://{}", closed_port()).into(), prefix: "test".to_owned() },
            requests_per_minute: 1_000_000,
            trusted_proxies: "",
            limits: Limits::default(),
            http: http::Limits::default(),
            listens: false,
            tracks: false,
            queue_length: 200_000,
        }
    }

    /// A broker that has all the time that it needs.
    pub(crate) fn broker(vhost: &Vhost) -> Self {
        Self { broker_url: vhost.url("web"), limits: patient(), ..Self::nothing() }
    }

    /// Both, and an ear for the database's notices.
    pub(crate) fn both(vhost: &Vhost, database: &Database) -> Self {
        Self { limits: patient(), broker_url: vhost.url("web"), ..Self::database(database) }
    }

    /// A database that has all the time that it needs, and an ear for its notices.
    pub(crate) fn database(database: &Database) -> Self {
        let limits = Limits { publish: Limits::default().publish, ..patient() };
        Self { database_url: database.url(), listens: true, limits, ..Self::nothing() }
    }
}

/// Bounds that a loaded machine keeps, so that what does not happen is not for want of time.
fn patient() -> Limits {
    let long = Duration::from_secs(20);
    Limits { publish: long, record: long, answer: 2 * DEADLINE, ..Limits::default() }
}

/// A running API.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    pub(crate) pool: PgPool,
    pub(crate) files: Files,
    pub(crate) links: SignedLinks,
    pub(crate) drain: CancellationToken,
    pub(crate) client: Client,
    app: App,
    live: Box<dyn Fn() -> bool + Send + Sync>,
    broker: Broker,
    _folder: Directory,
    tasks: JoinSet<()>,
}

impl Web {
    pub(crate) async fn start(behind: Behind) -> Self {
        let folder = Directory::new();
        let settings = json!({"url": behind.database_url, "max_connections": 5});
        let pool = store::connect(&serde_json::from_value(settings).unwrap()).unwrap();
        let settings = json!({"url": folder.url()});
        let files = Files::open(&serde_json::from_value(settings).unwrap()).unwrap();
        let settings = json!({"base_url": "http://shop.example", "secret": "a secret of at least 32 bytes ..."});
        let links = SignedLinks::new(&serde_json::from_value(settings).unwrap()).unwrap();
        let settings = json!({"url": behind.broker_url, "time_scale": 0.05, "queue_length": behind.queue_length});
        let broker = Broker::start(&serde_json::from_value(settings).unwrap(), "web").unwrap();
        let redis = Redis::new(&behind.redis, Role::Durable).unwrap();
        let settings = LimitSettings { requests_per_minute: behind.requests_per_minute };
        let proxies = behind.trusted_proxies.to_owned().try_into().unwrap();
        let rate_limits = RateLimits::new(redis.clone(), &settings, proxies).unwrap();
        let (changes, drain) = (Changes::default(), CancellationToken::new());
        let (app, recording) = App::new(
            &broker,
            pool.clone(),
            files.clone(),
            links.clone(),
            callers(),
            changes.clone(),
            rate_limits,
            behind.limits,
            drain.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(app.clone().watch_broker());
        tasks.spawn(redis.watch(drain.clone()));
        tasks.spawn(web::serve(listener, app.clone(), recording, behind.http));
        if behind.tracks {
            tasks.spawn(broker.track(Tracker::new(pool.clone()), drain.clone()));
        }
        let readiness = changes.readiness();
        let live: Box<dyn Fn() -> bool + Send + Sync> = Box::new(move || readiness().is_ok());
        if behind.listens {
            tasks.spawn(changes.listen(pool.clone(), drain.clone()));
            wait("the database's notices are heard", async || live()).await;
        }
        let client = Client::builder().timeout(DEADLINE).build().unwrap();
        Self { address, pool, files, links, drain, client, app, live, broker, _folder: folder, tasks }
    }

    /// The same, once it is connected to the broker.
    pub(crate) async fn start_connected(behind: Behind) -> Self {
        let web = Self::start(behind).await;
        let state = web.broker.publishing_state();
        wait("connected to the broker", async || state() == BrokerState::Connected).await;
        web
    }

    pub(crate) async fn stop(mut self) {
        self.drain.cancel();
        timeout(DEADLINE, async { while self.tasks.join_next().await.transpose().unwrap().is_some() {} })
            .await
            .unwrap();
        self.broker.close().await;
        self.pool.close().await;
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What the API knows of itself.
    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.app.waiting()
    }

    /// Whether it hears the database's notices.
    pub(crate) fn listening(&self) -> bool {
        (self.live)()
    }

    /// Gets as Alice.
    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).bearer_auth(ALICE).send().await.unwrap()
    }

    /// Posts as Alice.
    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(self.url(path)).bearer_auth(ALICE).json(body)
    }

    /// Asks for a report as Alice.
    pub(crate) async fn post_report(&self, body: &Value) -> Response {
        self.post("/v1/reports", body).send().await.unwrap()
    }

    /// The same under a key.
    pub(crate) async fn post_report_once(&self, key: &str, body: &Value) -> Response {
        self.post("/v1/reports", body).header("idempotency-key", key).send().await.unwrap()
    }

    /// Deletes as Alice.
    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.client.delete(self.url(path)).bearer_auth(ALICE).send().await.unwrap()
    }
}

fn callers() -> Callers {
    let caller = |token: &str, name: &str| CallerSettings {
        token: token.into(),
        address: format!("{}@shop.example", name.to_lowercase()).try_into().unwrap(),
        name: name.to_owned().try_into().unwrap(),
    };
    let callers = [("alice", caller(ALICE, "Alice")), ("bob", caller(BOB, "Bob"))];
    let callers: BTreeMap<String, CallerSettings> = callers.map(|(id, caller)| (id.to_owned(), caller)).into();
    Callers::new(&callers).unwrap()
}

/// The durable Redis, with keys of one test.
pub(crate) fn own_redis() -> RedisSettings {
    let prefix = format!("test-{}", Uuid::new_v4().simple());
    RedisSettings { url: backing::redis_url("durable").into(), prefix }
}

/// Where nothing listens.
pub(crate) fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) async fn vhost() -> Vhost {
    Vhost::create(&topology::definitions()).await
}

/// Ends a test with a tracker in it: what it had kept and not yet acked when it was stopped is back on its queues.
pub(crate) async fn finish_tracked(vhost: Vhost, left: (&str, u32)) {
    let mut expected = vec![left];
    for queue in ["tracker.lifecycle", "tracker.progress", "tracker.dead_letters"] {
        expected.push((queue, vhost.ready(queue).await.unwrap()));
    }
    vhost.finish(&expected).await;
}

/// A database with its tables.
pub(crate) async fn database() -> Database {
    let database = Database::create().await;
    let pool = store::connect(&serde_json::from_value(json!({"url": database.url()})).unwrap()).unwrap();
    store::MIGRATOR.run(&pool).await.unwrap();
    pool.close().await;
    database
}

/// Asks until the answer is yes.
pub(crate) async fn wait(what: &str, question: impl AsyncFn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !question().await {
        assert!(Instant::now() < end, "not within {} s: {what}", DEADLINE.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn november() -> Value {
    json!({"report": "sales", "period": {"from": "2025-11-01", "to": "2025-11-30"}})
}

/// Checks that an answer is a problem of that status and kind, with the headers that every answer has.
pub(crate) async fn problem(response: Response, status: u16, kind: &str) -> Value {
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers().contains_key("retry-after"), matches!(status, 429 | 503));
    let given = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (given, &body["type"]),
        (StatusCode::from_u16(status).unwrap(), &json!(format!("/problems/{kind}"))),
        "{body}"
    );
    assert_eq!(body["status"], status);
    body
}

/// A job of Alice's in the store, and its life as a test tells it.
pub(crate) struct Told {
    pub(crate) id: Uuid,
    pool: PgPool,
    run: Uuid,
    /// Of the run: replays, attempt, redeliveries.
    place: (u32, u32, u32),
    sequence: u32,
}

impl Told {
    pub(crate) async fn queued(web: &Web) -> Self {
        let id = Uuid::now_v7();
        let job = NewJob { id, kind: "report.render".to_owned(), owner: "alice".to_owned(), at: Utc::now() };
        let row = NewOutboxRow { message: Value::Null, due_at: None };
        store::outbox::put(&web.pool, &job, &row).await.unwrap();
        sqlx::query("DELETE FROM outbox WHERE job_id = $1").bind(id).execute(&web.pool).await.unwrap();
        Self { id, pool: web.pool.clone(), run: Uuid::now_v7(), place: (0, 1, 0), sequence: 0 }
    }

    /// What is told from now on is of another run.
    pub(crate) fn begin_run(&mut self, replays: u32, attempt: u32, redeliveries: u32) {
        (self.run, self.place, self.sequence) = (Uuid::now_v7(), (replays, attempt, redeliveries), 0);
    }

    /// The next event of its run, which is its first if no other was begun.
    pub(crate) async fn tell(&mut self, event_type: JobEventType, data: Value) {
        self.sequence += 1;
        let event = JobEvent {
            event_id: Uuid::now_v7(),
            job_id: self.id,
            job_kind: "report.render".to_owned(),
            owner: Some("alice".to_owned()),
            event_type,
            run_id: Some(self.run),
            replays: self.place.0,
            attempt: self.place.1,
            redeliveries: self.place.2,
            sequence: self.sequence,
            worker: Some("pdf-report@10.0.0.7:1".to_owned()),
            at: Utc::now(),
            data,
        };
        store::jobs::apply_event(&self.pool, &event).await.unwrap();
    }

    pub(crate) fn path(&self) -> String {
        format!("/v1/jobs/{}", self.id)
    }
}
