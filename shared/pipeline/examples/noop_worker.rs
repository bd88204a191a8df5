//! The smallest worker there can be, whole: `noop.run`, as a process of its own. Tests kill it; benchmarks load it; a new
//! worker starts as a copy of it.
//!
//! The job's `note` says how it goes: `sleep 250` works for so many milliseconds, `fail` fails, `kill` ends the process.

use std::time::Duration;

use anyhow::Context;
use pipeline::jobs::Noop;
use pipeline::{Broker, BrokerSettings, Done, Failure, Handler, Handlers, JobContext, WorkerSettings};
use serde::Deserialize;
use service::{LogSettings, Shutdown, ShutdownSettings, Tasks};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    log: LogSettings,
    shutdown: ShutdownSettings,
    broker: BrokerSettings,
    worker: WorkerSettings,
}

const DEFAULTS: &str = r#"
log = { format = "json", filter = "info" }
shutdown = { grace_seconds = 25 }
broker = { time_scale = 1.0, queue_length = 200000 }
worker = { concurrency = 16 }
"#;

struct DoNothing;

impl Handler for DoNothing {
    type Job = Noop;

    async fn run(&self, job: Noop, context: &JobContext) -> Result<Done, Failure> {
        match job.note.split_once(' ').unwrap_or((&job.note, "")) {
            ("sleep", millis) => {
                let millis = millis.parse().map_err(|_| Failure::reject("sleep wants milliseconds"))?;
                context.progress("sleeping", 0, millis);
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(Done::empty())
            }
            ("fail", _) => Err(Failure::retry("asked to fail")),
            ("kill", _) => std::process::abort(),
            _ => Ok(Done::empty()),
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    service::telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;
    let broker = Broker::start(&settings.broker, "noop-worker").context("read the broker's settings")?;
    let handlers = Handlers::new().register(DoNothing);
    let work = broker.work(handlers, &settings.worker, shutdown.drain.clone(), shutdown.abort.clone());
    let mut tasks = Tasks::default();
    tasks.spawn("worker", async move {
        work.await;
        Ok(())
    });
    let result = tasks.finish(&shutdown).await;
    broker.close().await;
    result
}
