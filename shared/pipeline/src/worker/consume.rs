//! Consumes the queues of a service's workers and gives each delivery its life.

use std::sync::Arc;

use lapin::message::Delivery;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection::LinkState;
use crate::consumer::Consume;
use crate::publisher::Publisher;
use crate::topology::{self, Lane, ServiceRow, WorkerRow};

use super::executor::HandlerThreads;
use super::handler::Handlers;
use super::run::{Received, run};
use super::{decide::decide, settle::Settlement};

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
    pub(crate) consuming: watch::Sender<bool>,
    pub(crate) drain: CancellationToken,
    pub(crate) abort: CancellationToken,
}

/// What one delivery's life needs.
pub(super) struct Worker {
    pub(super) row: &'static WorkerRow,
    pub(super) queue: String,
    pub(super) handlers: Arc<Handlers>,
    pub(super) publisher: Publisher,
    pub(super) threads: HandlerThreads,
    pub(super) process: String,
    pub(super) time_scale: f64,
}

/// Works until the drain is over, or until `abort`.
pub(crate) async fn work(runtime: Runtime) {
    let concurrency = runtime.settings.concurrency.get();
    let permits = Arc::new(Semaphore::new(usize::from(concurrency)));
    let threads = HandlerThreads::start(runtime.service.name);
    let handlers = Arc::new(runtime.handlers);
    let mut queues = JoinSet::new();
    for row in runtime.service.works.iter().filter_map(|name| topology::worker(name)) {
        for lane in Lane::ALL {
            let worker = Arc::new(Worker {
                row,
                queue: row.queue(lane),
                handlers: Arc::clone(&handlers),
                publisher: runtime.publisher.clone(),
                threads: threads.clone(),
                process: process_name(runtime.service.name),
                time_scale: runtime.time_scale,
            });
            let consume = Consume {
                link: runtime.link.clone(),
                queue: worker.queue.clone(),
                prefetch: row.prefetch.with(concurrency),
                permits: Arc::clone(&permits),
                drain: runtime.drain.clone(),
                consuming: runtime.consuming.clone(),
            };
            queues.spawn(consume.run(move |delivery, lost| live(Arc::clone(&worker), delivery, lost)));
        }
    }
    let finished = async {
        while let Some(ended) = queues.join_next().await {
            if let Err(error) = ended {
                // A runtime that stops consuming without a word is the worst of all failures: end, and be restarted.
                std::panic::resume_unwind(error.into_panic());
            }
        }
    };
    if runtime.abort.run_until_cancelled(finished).await.is_none() {
        tracing::warn!("aborted with jobs still running: the broker will give them to another worker");
    }
}

/// The life of a delivery: decode, run, decide, settle.
async fn live(worker: Arc<Worker>, delivery: Delivery, lost: CancellationToken) {
    let mut received = Received::decode(&worker, &delivery);
    let Some(outcome) = run(&worker, &mut received, &delivery.data, &lost).await else {
        return; // The connection is gone: the broker has given the job to somebody else.
    };
    let decision = decide(received.attempt(), outcome, &worker.row.retry, worker.time_scale);
    Settlement { worker: &worker, received, delivery, lost }.settle(decision).await;
}

/// `<service>@<host>:<process id>`.
fn process_name(service: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{service}@{}:{}", host.trim(), std::process::id())
}
