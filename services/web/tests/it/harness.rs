//! The API on a port of its own, with as much behind it as a test wants.

use std::net::SocketAddr;
use std::time::Duration;

use backing::{Database, Directory, Vhost};
use cache::{Cache, Redis, RedisSettings, Role};
use chrono::{TimeDelta, Utc};
use pipeline::{Broker, BrokerState, topology};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use service::http;
use sha2::{Digest, Sha256};
use store::jobs::{JobEvent, JobEventType, NewJob};
use store::outbox::NewOutboxRow;
use store::{Files, PgPool, SignedLinks};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use web::{App, Changes, JobStatus, LimitSettings, Limits, RateLimits, Tracker};

pub(crate) const ALICE: &str = "token-of-alice-0123456789";
pub(crate) const BOB: &str = "token-of-bob-0123456789-";
/// The users whose tokens these are.
pub(crate) const ALICE_ID: Uuid = Uuid::from_u128(0x0193_5a7c_0000_7000_8000_0000_0000_000a);
pub(crate) const BOB_ID: Uuid = Uuid::from_u128(0x0193_5a7c_0000_7000_8000_0000_0000_000b);
/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What stands behind an API.
pub(crate) struct Behind {
    pub(crate) broker_url: String,
    pub(crate) database_url: String,
    pub(crate) redis: RedisSettings,
    /// Where copies are, if anywhere.
    pub(crate) cache: RedisSettings,
    /// So much that only tests of limits meet one.
    pub(crate) requests_per_minute: u32,
    pub(crate) trusted_proxies: &'static str,
    pub(crate) limits: Limits,
    pub(crate) http: http::Limits,
    /// Whether it hears of changes, from the database and from Redis.
    pub(crate) listens: bool,
    /// Whether it consumes events.
    pub(crate) tracks: bool,
    /// How many messages a work queue holds.
    pub(crate) queue_length: u32,
}

impl Behind {
    /// Neither broker nor database: their ports are closed. Redis knows the tokens.
    pub(crate) fn nothing() -> Self {
        Self {
            broker_url: format!("amqp://a:b@{}/none", closed_port()),
            database_url: format!("postgres://a:b@{}/none", closed_port()),
            redis: redis(),
            cache: no_redis(),
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

    /// A database that has all the time that it needs, an ear for its notices, and copies of what it has.
    pub(crate) fn database(database: &Database) -> Self {
        let limits = Limits { publish: Limits::default().publish, ..patient() };
        let cache = cache_of(database);
        let redis = RedisSettings { prefix: cache.prefix.clone(), ..redis() };
        Self { database_url: database.url(), redis, cache, listens: true, limits, ..Self::nothing() }
    }
}

/// Bounds that a loaded machine keeps, so that what does not happen is not for want of time.
fn patient() -> Limits {
    let long = Duration::from_secs(20);
    Limits { publish: long, record: long, hashing: long, answer: 2 * DEADLINE, ..Limits::default() }
}

/// Of every account that a test makes.
pub(crate) const PASSWORD: &str = "correct horse";

/// Somebody who is signed in.
pub(crate) struct Member {
    pub(crate) sid: String,
    pub(crate) user: Uuid,
}

/// The session that an answer sets.
pub(crate) fn sid(response: &Response) -> Option<String> {
    let mut cookies = response.headers().get_all("set-cookie").iter().map(|cookie| cookie.to_str().unwrap());
    let cookie = cookies.find_map(|cookie| cookie.strip_prefix("__Host-sid="))?;
    cookie.split(';').next().filter(|sid| !sid.is_empty()).map(str::to_owned)
}

/// A running API.
pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    pub(crate) pool: PgPool,
    pub(crate) files: Files,
    pub(crate) links: SignedLinks,
    pub(crate) drain: CancellationToken,
    pub(crate) client: Client,
    pub(crate) redis: Redis,
    pub(crate) status: JobStatus,
    app: App,
    live: Box<dyn Fn() -> bool + Send + Sync>,
    broker: Broker,
    _folder: Directory,
    tasks: JoinSet<()>,
}

impl Web {
    pub(crate) async fn start(behind: Behind) -> Self {
        introduce(&behind.redis).await;
        let folder = Directory::new();
        let settings = json!({"url": behind.database_url, "max_connections": 5});
        let pool = store::connect(&serde_json::from_value(settings).unwrap()).unwrap();
        let settings = json!({"url": folder.url()});
        let files = Files::open(&serde_json::from_value(settings).unwrap()).unwrap();
        let settings = json!({"base_url": "http://shop.example", "secret": "a secret of at least 32 bytes ..."});
        let links = SignedLinks::new(&serde_json::from_value(settings).unwrap()).unwrap();
        let settings = json!({"url": behind.broker_url, "time_scale": 0.05, "queue_length": behind.queue_length});
        let broker = Broker::start(&serde_json::from_value(settings).unwrap(), "web").unwrap();
        // A loaded machine has its pauses.
        let server = |settings, role| Redis::new(settings, role).unwrap().with_deadline(Duration::from_secs(2));
        let (copies, redis) = (server(&behind.cache, Role::Cache), server(&behind.redis, Role::Durable));
        let settings = LimitSettings { requests_per_minute: behind.requests_per_minute };
        let proxies = behind.trusted_proxies.to_owned().try_into().unwrap();
        let rate_limits = RateLimits::new(redis.clone(), &settings, proxies).unwrap();
        let status = JobStatus::new(copies.clone(), pool.clone());
        let (changes, drain) = (Changes::default(), CancellationToken::new());
        let (app, recording) = App::new(
            &broker,
            pool.clone(),
            files.clone(),
            links.clone(),
            Cache::new(copies.clone(), 3),
            status.clone(),
            redis.clone(),
            changes.clone(),
            rate_limits,
            behind.limits,
            drain.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(app.clone().watch_broker());
        tasks.spawn(copies.clone().watch(drain.clone()));
        tasks.spawn(redis.clone().watch(drain.clone()));
        tasks.spawn(status.clone().keep_up(drain.clone()));
        tasks.spawn(web::serve(listener, app.clone(), recording, behind.http));
        if behind.tracks {
            tasks.spawn(broker.track(Tracker::new(pool.clone(), status.clone()), drain.clone()));
        }
        let readiness = changes.readiness();
        let live: Box<dyn Fn() -> bool + Send + Sync> = Box::new(move || readiness().is_ok());
        if behind.listens {
            tasks.spawn(changes.clone().listen(pool.clone(), drain.clone()));
            tasks.spawn(changes.clone().listen_to_redis(status.clone(), drain.clone()));
            wait("the database's notices are heard", async || live()).await;
            wait("redis is heard", async || changes.is_told() || copies.is_away()).await;
        }
        let client = Client::builder().timeout(DEADLINE).build().unwrap();
        Self { address, pool, files, links, drain, client, redis, status, app, live, broker, _folder: folder, tasks }
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

    /// Makes an account, and signs in to it; its session and its user's id.
    pub(crate) async fn member(&self, email: &str) -> Member {
        let body = json!({"name": "Ada", "email": email, "password": PASSWORD, "country": "DE"});
        let registered = self.client.post(self.url("/v1/register")).json(&body).send().await.unwrap();
        assert_eq!(registered.status(), StatusCode::ACCEPTED);
        self.signed_in(email, PASSWORD).await
    }

    /// Signs in with a password that is right.
    pub(crate) async fn signed_in(&self, email: &str, password: &str) -> Member {
        let response = self.login(email, password).await;
        assert_eq!(response.status(), StatusCode::OK);
        let sid = sid(&response).unwrap();
        let user: Value = response.json().await.unwrap();
        Member { sid, user: user["id"].as_str().unwrap().parse().unwrap() }
    }

    /// The same, of somebody who belongs to the staff.
    pub(crate) async fn staff_member(&self, email: &str) -> Member {
        self.member_who_is(email, "staff").await
    }

    /// The same, of somebody with that role.
    pub(crate) async fn member_who_is(&self, email: &str, role: &str) -> Member {
        let member = self.member(email).await;
        let promote = sqlx::query("UPDATE users SET role = $2 WHERE id = $1").bind(member.user).bind(role);
        promote.execute(&self.pool).await.unwrap();
        self.signed_in(email, PASSWORD).await
    }

    pub(crate) async fn login(&self, email: &str, password: &str) -> Response {
        let body = json!({"email": email, "password": password});
        self.client.post(self.url("/v1/login")).json(&body).send().await.unwrap()
    }

    /// A request with a session's cookie.
    pub(crate) fn with_sid(&self, method: Method, path: &str, sid: &str) -> RequestBuilder {
        self.client.request(method, self.url(path)).header("cookie", format!("a=b; __Host-sid={sid}"))
    }

    /// Puts what replaces something, with a session and with an `If-Match`, if there is one.
    pub(crate) async fn replace(&self, sid: &str, path: &str, body: &Value, if_match: Option<&str>) -> Response {
        let request = self.with_sid(Method::PUT, path, sid).json(body);
        let request = if let Some(tags) = if_match { request.header("if-match", tags) } else { request };
        request.send().await.unwrap()
    }

    /// The names of the cache entries that changes have left for the dispatcher, in their order.
    pub(crate) async fn left_to_end(&self) -> Vec<String> {
        sqlx::query_scalar("SELECT entry FROM cache_invalidations ORDER BY id").fetch_all(&self.pool).await.unwrap()
    }

    /// What a session that lists its tokens is answered.
    pub(crate) async fn status_of(&self, sid: &str) -> u16 {
        self.with_sid(Method::GET, "/v1/tokens", sid).send().await.unwrap().status().as_u16()
    }

    /// What a token that looks at its schedules is answered.
    pub(crate) async fn status_of_token(&self, token: &str) -> u16 {
        self.client.get(self.url("/v1/schedules")).bearer_auth(token).send().await.unwrap().status().as_u16()
    }

    /// What Redis has under a name.
    pub(crate) async fn kept(&self, key: &str) -> Option<String> {
        self.redis.query("look into redis", redis::cmd("GET").arg(self.redis.key(&[key]))).await.unwrap()
    }

    /// Deletes as Alice.
    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.client.delete(self.url(path)).bearer_auth(ALICE).send().await.unwrap()
    }
}

/// The durable Redis, with keys of a test's own.
pub(crate) fn redis() -> RedisSettings {
    RedisSettings { url: backing::redis_url("durable").into(), prefix: format!("test-{}", Uuid::new_v4().simple()) }
}

/// A Redis that is away.
pub(crate) fn no_redis() -> RedisSettings {
    RedisSettings { url: format!("redis://{}", closed_port()).into(), prefix: "test".to_owned() }
}

/// Ends what is cached under these names, as the dispatcher does.
pub(crate) async fn end_entries(settings: &RedisSettings, entries: &[String]) {
    let redis = Redis::new(settings, Role::Cache).unwrap().with_deadline(DEADLINE);
    for entry in entries {
        Cache::new(redis.clone(), 1).invalidate_entry(entry).await.unwrap();
    }
}

/// The tag of an answer.
pub(crate) fn etag(response: &Response) -> String {
    response.headers()["etag"].to_str().unwrap().to_owned()
}

/// The cache of all processes with this database.
pub(crate) fn cache_of(database: &Database) -> RedisSettings {
    let prefix = database.url().rsplit('/').next().unwrap().to_owned();
    RedisSettings { prefix, ..cache() }
}

/// The cache, with keys of a test's own.
pub(crate) fn cache() -> RedisSettings {
    RedisSettings { url: backing::redis_url("cache").into(), ..redis() }
}

/// The name under which Redis keeps what belongs to a secret.
pub(crate) fn secret_key(family: &str, secret: &str) -> String {
    let digest = Sha256::digest(secret.as_bytes());
    format!("{family}:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// What Redis knows of a token of Alice's or Bob's, in the form that every release reads.
pub(crate) fn entry(user: Uuid, name: &str) -> Value {
    json!({
        "person": {"user": user, "name": name, "address": format!("{}@shop.example", name.to_lowercase()), "role": "staff"},
        "scopes": ["jobs:read", "jobs:write"],
        "expires_at": Utc::now() + TimeDelta::hours(1),
        "generation": 0,
        "read_at": Utc::now(),
    })
}

/// Has Redis know the tokens of Alice and Bob, so that a test needs no database for them.
async fn introduce(settings: &RedisSettings) {
    let direct = RedisSettings { url: backing::redis_url("durable").into(), prefix: settings.prefix.clone() };
    for (token, user, name) in [(ALICE, ALICE_ID, "Alice"), (BOB, BOB_ID, "Bob")] {
        keep(&direct, &secret_key("token", token), &entry(user, name).to_string()).await;
    }
}

/// Writes a value for an hour.
pub(crate) async fn keep(settings: &RedisSettings, key: &str, value: &str) {
    let redis = Redis::new(settings, Role::Durable).unwrap().with_deadline(DEADLINE);
    let command = redis::cmd("SET").arg(redis.key(&[key])).arg(value).arg("EX").arg(3600).to_owned();
    redis.query::<()>("prepare a test", &command).await.unwrap();
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
    vhost.finish_but(&["tracker.lifecycle", "tracker.progress", "tracker.dead_letters"], &[left]).await;
}

/// A member of the staff without a password.
async fn insert_user(pool: &PgPool, id: Uuid, name: &str) {
    sqlx::query("INSERT INTO users (id, name, email, country, role) VALUES ($1, $2, $3, 'DE', 'staff')")
        .bind(id)
        .bind(name)
        .bind(format!("{}@shop.example", name.to_lowercase()))
        .execute(pool)
        .await
        .unwrap();
}

/// A token that is good for everything, for an hour; its id.
pub(crate) async fn insert_token(pool: &PgPool, user: Uuid, token: &str) -> Uuid {
    sqlx::query_scalar(
        "INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at)
         VALUES (gen_random_uuid(), $1, 'a machine', $2, '{jobs:read,jobs:write}', now() + interval '1 hour') RETURNING id",
    )
    .bind(user)
    .bind(Sha256::digest(token.as_bytes()).as_slice())
    .fetch_one(pool)
    .await
    .unwrap()
}

/// A database with its tables, and Alice and Bob with their tokens.
pub(crate) async fn database() -> Database {
    let database = Database::create().await;
    let pool = store::connect(&serde_json::from_value(json!({"url": database.url()})).unwrap()).unwrap();
    store::MIGRATOR.run(&pool).await.unwrap();
    for (token, user, name) in [(ALICE, ALICE_ID, "Alice"), (BOB, BOB_ID, "Bob")] {
        insert_user(&pool, user, name).await;
        insert_token(&pool, user, token).await;
    }
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
    kind: &'static str,
    owner: Uuid,
    caused_by: Option<Uuid>,
    pool: PgPool,
    status: JobStatus,
    run: Uuid,
    /// Of the run: replays, attempt, redeliveries.
    place: (u32, u32, u32),
    sequence: u32,
}

impl Told {
    pub(crate) async fn queued(web: &Web) -> Self {
        Self::queued_as(web, "report.render").await
    }

    pub(crate) async fn queued_as(web: &Web, kind: &'static str) -> Self {
        Self::unknown(web, kind, ALICE_ID, None).queue().await
    }

    /// A job of somebody else's.
    pub(crate) async fn queued_for(web: &Web, owner: Uuid) -> Self {
        Self::unknown(web, "report.render", owner, None).queue().await
    }

    async fn queue(self) -> Self {
        let (id, kind, owner) = (self.id, self.kind, self.owner.to_string());
        let job = NewJob { id, kind: kind.to_owned(), owner, caused_by: None, at: Utc::now() };
        let row = NewOutboxRow { message: Value::Null, due_at: None };
        store::outbox::put(&self.pool, &job, &row).await.unwrap();
        sqlx::query("DELETE FROM outbox WHERE job_id = $1").bind(id).execute(&self.pool).await.unwrap();
        self
    }

    /// A mail that a job caused, of which nothing was heard yet.
    pub(crate) fn caused_by(web: &Web, cause: Uuid, owner: Uuid) -> Self {
        Self::unknown(web, "email.send", owner, Some(cause))
    }

    fn unknown(web: &Web, kind: &'static str, owner: Uuid, caused_by: Option<Uuid>) -> Self {
        let (id, run) = (Uuid::now_v7(), Uuid::now_v7());
        let (pool, status) = (web.pool.clone(), web.status.clone());
        Self { id, kind, owner, caused_by, pool, status, run, place: (0, 1, 0), sequence: 0 }
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
            job_kind: self.kind.to_owned(),
            owner: Some(self.owner.to_string()),
            caused_by: self.caused_by,
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
        let (changed, repeated) = store::jobs::apply_events_unannounced(&self.pool, &[event]).await.unwrap();
        self.status.tell(&changed, &repeated).await.unwrap();
    }

    pub(crate) fn path(&self) -> String {
        format!("/v1/jobs/{}", self.id)
    }
}
