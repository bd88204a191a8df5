//! Consumes the queues of a service's workers and gives each delivery its life.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use serde::Deserialize;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection::LinkState;
use crate::consumer::{Consume, Consumes, Permits, Settle};
use crate::publisher::Publisher;
use crate::topology::{self, Lane, ServiceRow, WorkerRow};

use super::decide::{Outcome, decide};
use super::dependencies::Dependencies;
use super::executor::HandlerThreads;
use super::handler::Handlers;
use super::run::{Received, run};
use super::running::{Running, listen};
use super::settle::Settlement;

/// How long a settlement waits for a confirm before it publishes again. A copy published twice is a job run twice, and nobody
/// waits for this one: so longer than a disk stalls, and longer than a broker that is gone stays unnoticed (two heartbeats).
const SETTLE_DEADLINE: Duration = Duration::from_secs(60);

/// How a service works.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSettings {
    /// Jobs that run at once, 1 to 1000.
    pub concurrency: Concurrency,
}

/// A number from 1 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub struct Concurrency(u16);

impl TryFrom<u16> for Concurrency {
    type Error = &'static str;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        if (1..=1000).contains(&number) { Ok(Self(number)) } else { Err("concurrency is 1 to 1000") }
    }
}

impl Concurrency {
    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

pub(crate) struct Runtime {
    pub(crate) service: &'static ServiceRow,
    pub(crate) handlers: Handlers,
    pub(crate) publisher: Publisher,
    pub(crate) link: watch::Receiver<LinkState>,
    pub(crate) settings: WorkerSettings,
    pub(crate) time_scale: f64,
    pub(crate) consuming: watch::Sender<BTreeSet<String>>,
    pub(crate) away: watch::Sender<BTreeSet<&'static str>>,
    pub(crate) drain: CancellationToken,
    pub(crate) abort: CancellationToken,
}

/// What one delivery's life needs.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) row: &'static WorkerRow,
    pub(super) queue: String,
    pub(super) handlers: Arc<Handlers>,
    pub(super) dependencies: Dependencies,
    pub(super) running: Running,
    pub(super) publisher: Publisher,
    /// The same with the patience of [`SETTLE_DEADLINE`].
    pub(super) settling: Publisher,
    pub(super) threads: HandlerThreads,
    pub(super) process: Arc<str>,
    pub(super) time_scale: f64,
    /// Held, shared, while a message is set apart: until its original is gone, no run apart begins here that could end the process.
    pub(super) setting_apart: Arc<RwLock<()>>,
}

/// Works until the drain is over, or until `abort`.
pub(crate) async fn work(mut runtime: Runtime) {
    let service = runtime.service.name;
    let probes = std::mem::take(&mut runtime.handlers.probes);
    let dependencies = Dependencies::start(probes, &runtime.away, runtime.time_scale);
    let running = Running::default();
    let stop_listening = CancellationToken::new();
    let listening = tokio::spawn(listen(running.clone(), service, runtime.link.clone(), stop_listening.clone()));
    let (threads, handlers) = (HandlerThreads::start(service), Arc::new(std::mem::take(&mut runtime.handlers)));
    let mut queues = JoinSet::new();
    let concurrency = runtime.settings.concurrency.get();
    let urgent = Permits::new(concurrency);
    let others = urgent.but_one();
    for row in runtime.service.works.iter().filter_map(|name| topology::worker(name)) {
        let worker = Worker {
            row,
            queue: String::new(),
            handlers: Arc::clone(&handlers),
            dependencies: dependencies.clone(),
            running: running.clone(),
            publisher: runtime.publisher.clone(),
            settling: runtime.publisher.with_deadline(SETTLE_DEADLINE),
            threads: threads.clone(),
            process: process_name(service).into(),
            time_scale: runtime.time_scale,
            setting_apart: Arc::default(),
        };
        let mut consume = |queue: String, prefetch, permits: &Permits| {
            let consume = Consume {
                link: runtime.link.clone(),
                queue: queue.clone(),
                prefetch,
                permits: permits.clone(),
                away: runtime.away.subscribe(),
                drain: runtime.drain.clone(),
                consuming: runtime.consuming.clone(),
            };
            queues.spawn(consume.run(Lives(Arc::new(Worker { queue, ..worker.clone() }))));
        };
        for lane in Lane::ALL {
            let permits = if lane == Lane::Urgent { &urgent } else { &others };
            consume(row.queue(lane), row.prefetch(concurrency), permits);
        }
        consume(row.suspect_queue(), 1, &others);
    }
    let finished = async {
        while let Some(ended) = queues.join_next().await {
            if let Err(error) = ended {
                // A runtime that stops consuming without a word is the worst of all failures: end, and be restarted.
                std::panic::resume_unwind(error.into_panic());
            }
        }
        stop_listening.cancel();
        if let Err(error) = listening.await {
            std::panic::resume_unwind(error.into_panic());
        }
    };
    if runtime.abort.run_until_cancelled(finished).await.is_none() {
        tracing::warn!("aborted with jobs still running: the broker will give them to another worker");
    }
}

/// Gives each delivery its life.
struct Lives(Arc<Worker>);

impl Consumes for Lives {
    fn handle(&self, delivery: Delivery, settle: Settle) -> impl Future<Output = ()> + Send + 'static {
        // In its place for good: on its way into a task it would be copied several times.
        Box::pin(live(Arc::clone(&self.0), delivery, settle))
    }

    fn put_back(&self, delivery: Delivery, settle: Settle) -> impl Future<Output = ()> + Send + 'static {
        let worker = Arc::clone(&self.0);
        async move {
            let received = Received::decode(&worker, &delivery);
            Settlement { worker: &worker, received, delivery, settle }.put_back_unbegun().await;
        }
    }
}

/// The life of a delivery: decode, run, decide, settle.
async fn live(worker: Arc<Worker>, delivery: Delivery, mut settle: Settle) {
    let mut received = Received::decode(&worker, &delivery);
    let Some(outcome) = run(&worker, &mut received, &delivery, &settle.lost).await else {
        return; // The connection is gone: the broker has given the job to somebody else.
    };
    // Of a message that is set apart a crash is near: nothing begins in its place before its original is gone.
    if !matches!(outcome, Outcome::Suspicious) {
        settle.leave_place();
    }
    let decision = decide(received.attempt(), outcome, &worker.row.retry, worker.time_scale);
    Settlement { worker: &worker, received, delivery, settle }.settle(decision).await;
}

/// `<service>@<host>:<process id>`.
fn process_name(service: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{service}@{}:{}", host.trim(), std::process::id())
}
