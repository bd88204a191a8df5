//! A database, a virtual host and a directory of files of its own for each test, and dispatchers that work on them.

use backing::{Directory, Vhost};
use chrono::{DateTime, Utc};
use dispatcher::due::Due;
use dispatcher::schedules::Schedules;
use dispatcher::sender::{SERVICE, Sender};
use futures_util::FutureExt;
use pipeline::jobs::{Job, RenderReport, ReportTemplate};
use pipeline::{Broker, BrokerSettings, BrokerState, Fullness, OutgoingJob, TraceContext, topology};
use serde_json::{Value, json};
use store::jobs::NewJob;
use store::outbox::{NewOutboxRow, Put, put};
use store::{DatabaseSettings, Files, FilesSettings, PgPool};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Of every job in the outbox.
pub(crate) const CAUSE: Uuid = Uuid::from_u128(6);
/// Where the jobs of these tests go.
pub(crate) const QUEUE: &str = "report.normal";

/// What a dispatcher works on.
pub(crate) struct Fixture {
    pub(crate) vhost: Vhost,
    pub(crate) pool: PgPool,
    pub(crate) files: Files,
    pub(crate) directory: Directory,
    pub(crate) database: backing::Database,
    /// How many messages a queue takes.
    pub(crate) queue_length: u32,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let definitions = topology::definitions();
        let (database, vhost) = tokio::join!(backing::Database::create(), Vhost::create(&definitions));
        let pool = store::connect(&DatabaseSettings { url: database.url().into(), max_connections: 10 }).unwrap();
        store::MIGRATOR.run(&pool).await.expect("migrate the database");
        let directory = Directory::new();
        let files = Files::open(&FilesSettings { url: directory.url().parse().unwrap() }).unwrap();
        Self { vhost, pool, files, directory, database, queue_length: 200_000 }
    }

    /// A connected broker, whose queues stand.
    pub(crate) async fn broker(&self) -> Broker {
        let queue_length = self.queue_length;
        let settings: BrokerSettings = serde_json::from_value(
            json!({"url": self.vhost.url(SERVICE), "time_scale": 1.0, "queue_length": queue_length}),
        )
        .unwrap();
        let broker = Broker::start(&settings, SERVICE).unwrap();
        let state = broker.publishing_state();
        self.vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
        broker
    }

    pub(crate) async fn dispatcher(&self) -> Dispatcher {
        let (broker, due, drain) = (self.broker().await, Due::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let fullness = broker.fullness();
        tasks.spawn(Sender::new(&broker, fullness.clone(), self.pool.clone(), &due).run(drain.clone()));
        tasks.spawn(fullness.clone().watch(drain.clone()).map(Ok));
        tasks.spawn(Schedules::new(self.pool.clone(), due.clone()).run(drain.clone()));
        tasks.spawn(due.clone().listen(self.pool.clone(), drain.clone()));
        let listening = due.readiness();
        self.vhost.wait("listening", || async { listening().is_ok() }).await;
        Dispatcher { broker, fullness, drain, tasks }
    }

    /// Puts so many reports into the outbox.
    pub(crate) async fn put(&self, count: usize) -> Vec<Uuid> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.put_due(None).await);
        }
        ids
    }

    pub(crate) async fn put_due(&self, due_at: Option<DateTime<Utc>>) -> Uuid {
        let id = Uuid::new_v4();
        let report = template().due_on(Utc::now().date_naive()).unwrap();
        let (owner, trace) = (Some("alice".to_owned()), Some(TraceContext::root()));
        let job = OutgoingJob { owner, trace, correlation_id: Some(CAUSE), ..OutgoingJob::new(id, report) };
        self.put_message(id, serde_json::to_value(job.sealed().unwrap()).unwrap(), due_at).await;
        id
    }

    pub(crate) async fn put_message(&self, id: Uuid, message: Value, due_at: Option<DateTime<Utc>>) {
        let job = NewJob {
            id,
            kind: RenderReport::KIND.to_owned(),
            owner: "alice".to_owned(),
            caused_by: None,
            at: Utc::now(),
        };
        assert_eq!(put(&self.pool, &job, &NewOutboxRow { message, due_at }).await.unwrap(), Put::Stored);
    }

    /// Waits until so many rows are marked as sent.
    pub(crate) async fn wait_sent(&self, wanted: i64) {
        let what = format!("{wanted} rows are sent");
        self.vhost
            .wait(&what, || async {
                self.count("SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL").await == wanted
            })
            .await;
    }

    pub(crate) async fn count(&self, question: &'static str) -> i64 {
        sqlx::query_scalar(question).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        sqlx::query(statement).execute(&self.pool).await.unwrap();
    }

    /// Takes so many jobs from the queue; their ids.
    pub(crate) async fn take(&self, count: usize) -> Vec<Uuid> {
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.vhost.take(QUEUE).await.properties.message_id().as_ref().unwrap().as_str().parse().unwrap());
        }
        ids
    }

    /// Nobody tracks here: what was told of the jobs is not minded. All else must be gone.
    pub(crate) async fn finish(self) {
        self.vhost.purge(topology::TRACKER_LIFECYCLE).await;
        self.vhost.finish(&[]).await;
    }
}

/// A dispatcher in this process.
pub(crate) struct Dispatcher {
    pub(crate) broker: Broker,
    pub(crate) fullness: Fullness,
    drain: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Dispatcher {
    pub(crate) async fn stop(mut self) {
        self.drain.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
        self.broker.close().await;
    }
}

pub(crate) fn template() -> ReportTemplate {
    let template = json!({
        "report": "sales", "period": "last-week", "recipient": {"name": "Alice", "address": "alice@shop.example"},
    });
    serde_json::from_value(template).unwrap()
}
