//! A shop in a database of its own, a virtual host, and workers that are processes.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use backing::Vhost;
use pipeline::jobs::{OrderLine, PlaceOrder};
use pipeline::{Broker, BrokerSettings, BrokerState, OutgoingJob, TraceContext, topology};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use store::{DatabaseSettings, PgPool};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

pub(crate) const ADA: Uuid = Uuid::from_u128(10);
pub(crate) const LAMP: Uuid = Uuid::from_u128(1);
pub(crate) const MUG: Uuid = Uuid::from_u128(2);

/// The queues' waits, shortened.
const TIME_SCALE: f64 = 0.05;

/// What a worker works on: Ada, a lamp for 25.00 EUR of which there are many, and one mug.
pub(crate) struct Fixture {
    pub(crate) vhost: Vhost,
    pub(crate) pool: PgPool,
    pub(crate) database: backing::Database,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let definitions = topology::definitions();
        let (database, vhost) = tokio::join!(backing::Database::create(), Vhost::create(&definitions));
        let pool = store::connect(&DatabaseSettings { url: database.url().into(), max_connections: 10 }).unwrap();
        store::MIGRATOR.run(&pool).await.expect("migrate the database");
        for statement in [
            format!("INSERT INTO users (id, name, email, country) VALUES ('{ADA}', 'Ada', 'ada@shop.example', 'DE')"),
            format!(
                "INSERT INTO products (id, sku, name, category, price_minor, currency, stock) VALUES
                 ('{LAMP}', 'LAMP', 'Lamp', 'Home', 2500, 'EUR', 1000000), ('{MUG}', 'MUG', 'Mug', 'Home', 800, 'EUR', 1)"
            ),
        ] {
            sqlx::query(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
        }
        Self { vhost, pool, database }
    }

    /// Web's broker, which publishes orders.
    pub(crate) async fn web(&self) -> Broker {
        let settings = json!({"url": self.vhost.url("web"), "time_scale": TIME_SCALE, "queue_length": 200_000});
        let settings: BrokerSettings = serde_json::from_value(settings).unwrap();
        let broker = Broker::start(&settings, "web").unwrap();
        let state = broker.publishing_state();
        self.vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
        broker
    }

    pub(crate) async fn count(&self, question: &'static str) -> i64 {
        sqlx::query_scalar(question).fetch_one(&self.pool).await.unwrap()
    }

    /// Nobody tracks here: what was told of the jobs is not minded. All else must be gone.
    pub(crate) async fn finish(self) {
        self.vhost.purge(topology::TRACKER_LIFECYCLE).await;
        self.vhost.finish(&[]).await;
    }
}

/// An order of Ada's.
pub(crate) fn order(lines: &[(Uuid, u32)]) -> OutgoingJob<PlaceOrder> {
    let id = Uuid::now_v7();
    let lines = lines
        .iter()
        .map(|(product_id, quantity)| OrderLine { product_id: *product_id, quantity: (*quantity).try_into().unwrap() });
    let items = lines.collect::<Vec<_>>().try_into().unwrap();
    let payload = PlaceOrder { customer: ADA, items, accepted_at: "2026-01-15T12:00:00.123456Z".parse().unwrap() };
    let (owner, trace) = (Some(ADA.to_string()), Some(TraceContext::root()));
    OutgoingJob { owner, trace, ..OutgoingJob::new(id, payload) }
}

/// A worker process; killed with this.
pub(crate) struct Worker {
    child: Child,
    health: SocketAddr,
    /// Standard output and standard error, read as they come: a worker that nobody reads stands still once the pipe is full.
    said: [JoinHandle<String>; 2],
}

impl Worker {
    /// One that works; `database` is where it finds its database.
    pub(crate) async fn start(fixture: &Fixture, database: &str) -> Self {
        let worker = Self::spawn(fixture, database);
        let ready = || async { worker.ready().await.is_some_and(|(status, _)| status == 200) };
        fixture.vhost.wait("ready", ready).await;
        worker
    }

    /// One that starts, whatever it finds.
    pub(crate) fn spawn(fixture: &Fixture, database: &str) -> Self {
        let health = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_order-worker"))
            .env_clear()
            .env("POSTROOM__LOG__FORMAT", "pretty")
            .env("POSTROOM__HEALTH__LISTEN", health.to_string())
            .env("POSTROOM__BROKER__URL", fixture.vhost.url("order-worker"))
            .env("POSTROOM__BROKER__TIME_SCALE", TIME_SCALE.to_string())
            .env("POSTROOM__DATABASE__URL", database)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = [read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap())];
        Self { child, health, said }
    }

    /// What `/readyz` says; `None` while nobody answers.
    pub(crate) async fn ready(&self) -> Option<(u16, Value)> {
        let response = reqwest::get(format!("http://{}/readyz", self.health)).await.ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    /// Ends it as a power cut would.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end; its exit code, standard output and standard error.
    pub(crate) async fn terminate(mut self) -> (Option<i32>, String, String) {
        let process = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(process).status().await.unwrap().success());
        let ended = timeout(Duration::from_secs(30), self.child.wait()).await.expect("it does not end").unwrap();
        let [log, errors] = self.said;
        (ended.code(), log.await.unwrap(), errors.await.unwrap())
    }
}

fn read(mut from: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut text = String::new();
        from.read_to_string(&mut text).await.unwrap();
        text
    })
}
