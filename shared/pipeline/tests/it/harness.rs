//! A virtual host with a worker in it.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use backing::{Listener, Vhost};
use pipeline::jobs::{Job, Noop};
use pipeline::topology::Lane;
use pipeline::{
    Broker, BrokerSettings, BrokerState, Done, Failure, Handler, Handlers, JobContext, OutgoingJob, WorkerSettings,
    topology,
};
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Waits of 5 s become 250 ms.
pub(crate) const TIME_SCALE: f64 = 0.05;

/// One in which the exchanges stand, and the queues of the no-op worker and the tracker.
pub(crate) async fn vhost() -> Vhost {
    let vhost = empty_vhost().await;
    broker(&vhost, "noop-worker").await.close().await;
    vhost
}

/// The same, at time scale 1: a run may take 30 s.
pub(crate) async fn patient_vhost() -> Vhost {
    let vhost = empty_vhost().await;
    broker_at(1.0, &vhost, "noop-worker").await.close().await;
    vhost
}

pub(crate) async fn empty_vhost() -> Vhost {
    Vhost::create(&topology::definitions()).await
}

pub(crate) fn settings(url: &str) -> BrokerSettings {
    settings_at(TIME_SCALE, url)
}

fn settings_at(time_scale: f64, url: &str) -> BrokerSettings {
    serde_json::from_value(json!({"url": url, "time_scale": time_scale, "queue_length": 200_000})).unwrap()
}

/// A connected service of that name.
pub(crate) async fn broker(vhost: &Vhost, service: &str) -> Broker {
    broker_at(TIME_SCALE, vhost, service).await
}

async fn broker_at(time_scale: f64, vhost: &Vhost, service: &str) -> Broker {
    let broker = Broker::start(&settings_at(time_scale, &vhost.url(service)), service).unwrap();
    let state = broker.publishing_state();
    vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
    broker
}

/// The routing keys of every event of a job.
pub(crate) const JOB_EVENTS: [&str; 9] = [
    "job.queued",
    "job.queued.unrecorded",
    "job.started",
    "job.progressed",
    "job.retrying",
    "job.succeeded",
    "job.refused",
    "job.cancelled",
    "job.dead",
];

/// Hears every no-op job that is published, in any lane.
pub(crate) async fn listen_to_jobs(vhost: &Vhost) -> Listener {
    vhost.listen_to(&topology::jobs_exchange(Noop::KIND), &Lane::ALL.map(Lane::as_str)).await
}

pub(crate) fn job(note: &str) -> OutgoingJob<Noop> {
    let payload = Noop { note: note.to_owned() };
    OutgoingJob { owner: Some("alice".to_owned()), ..OutgoingJob::new(Uuid::now_v7(), payload) }
}

/// A handler made of a closure.
pub(crate) struct With<F>(pub(crate) F);

impl<F, Answer> Handler for With<F>
where
    F: Fn(Noop, JobContext) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Done, Failure>> + Send,
{
    type Job = Noop;

    async fn run(&self, job: Noop, context: &JobContext) -> Result<Done, Failure> {
        (self.0)(job, context.clone()).await
    }
}

/// A worker in this process.
pub(crate) struct Worker {
    pub(crate) broker: Broker,
    pub(crate) drain: CancellationToken,
    task: JoinHandle<()>,
}

impl Worker {
    pub(crate) async fn start(vhost: &Vhost, concurrency: u16, handler: impl Handler<Job = Noop>) -> Self {
        Self::with(vhost, concurrency, Handlers::new().register(handler)).await
    }

    pub(crate) async fn with(vhost: &Vhost, concurrency: u16, handlers: Handlers) -> Self {
        Self::at(TIME_SCALE, vhost, concurrency, handlers).await
    }

    /// At time scale 1, for a virtual host made for that.
    pub(crate) async fn patient(vhost: &Vhost, concurrency: u16, handlers: Handlers) -> Self {
        Self::at(1.0, vhost, concurrency, handlers).await
    }

    async fn at(time_scale: f64, vhost: &Vhost, concurrency: u16, handlers: Handlers) -> Self {
        let broker = broker_at(time_scale, vhost, "noop-worker").await;
        let drain = CancellationToken::new();
        let settings: WorkerSettings = serde_json::from_value(json!({"concurrency": concurrency})).unwrap();
        let task = tokio::spawn(broker.work(handlers, &settings, drain.clone(), CancellationToken::new()));
        let state = broker.consuming_state();
        vhost.wait("consuming", || async { matches!(state(), BrokerState::Consuming | BrokerState::Paused(_)) }).await;
        Self { broker, drain, task }
    }

    pub(crate) async fn stop(self) {
        self.drain.cancel();
        self.task.await.unwrap();
        self.broker.close().await;
    }
}

/// A worker in a process of its own: the example of this crate.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(vhost: &Vhost, concurrency: u16) -> Self {
        let deps = std::env::current_exe().unwrap();
        let example = deps.parent().unwrap().parent().unwrap().join("examples/noop_worker");
        let child = Command::new(&example)
            .env("POSTROOM__BROKER__URL", vhost.url("noop-worker"))
            .env("POSTROOM__BROKER__TIME_SCALE", TIME_SCALE.to_string())
            .env("POSTROOM__WORKER__CONCURRENCY", concurrency.to_string())
            .env("POSTROOM__LOG__FILTER", "warn")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        Self(
            child.unwrap_or_else(|error| {
                panic!("{}: {error}: `cargo test` builds it with the tests", example.display())
            }),
        )
    }

    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(Duration::from_secs(60), self.0.wait())
            .await
            .expect("the process ends within a minute")
            .unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.0.id().expect("the process runs").to_string();
        assert!(std::process::Command::new("kill").args([name, &id]).status().unwrap().success());
    }
}

/// A list that handlers write and tests read.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<std::sync::Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}
