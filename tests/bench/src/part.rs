//! Contenders written here, each in a process of its own like the peers: they get what to do by the same variables.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use pipeline::jobs::{Noop, RenderReport};
use pipeline::{BrokerState, Done, Failure, Handler, Handlers, JobContext, OutgoingJob};
use serde_json::json;
use service::{Shutdown, ShutdownSettings};
use uuid::Uuid;

use crate::house::variable;
use crate::postroom;
use crate::publishing::Outstanding;

pub(crate) mod bare;

/// Confirms that an enqueuer has outstanding.
const WINDOW: usize = 256;
/// A disk that stalls is slow, no failure: the others here have no deadline at all.
const PATIENCE: Duration = Duration::from_secs(60);
/// What every peer's message travels by as well: the exchange and the key of a no-op job.
pub(crate) const EXCHANGE: &str = "postroom.jobs.noop.run";
pub(crate) const ROUTING_KEY: &str = "normal";

/// Does one part and prints what the driver waits for.
pub(crate) async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["enqueue-lapin"] => bare::publish("", bare::QUEUE, payload()?, WINDOW).await,
        ["work-lapin"] => bare::work().await,
        ["publish-lapin", window] => bare::publish(EXCHANGE, ROUTING_KEY, payload()?, window.parse()?).await,
        ["enqueue-postroom"] => publish(WINDOW).await,
        ["publish-postroom", window] => publish(window.parse()?).await,
        ["publish-reports", window] => publish_reports(window.parse()?).await,
        ["work-postroom-quiet"] => work(|done| Handlers::new().register_quiet(done)).await,
        ["work-postroom-told"] => work(|done| Handlers::new().register(done)).await,
        _ => bail!("there is no part {arguments:?}"),
    }
}

/// The body of every contender's message: a no-op job's.
fn payload() -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&json!({"note": variable("BENCH_PAYLOAD")?}))?)
}

fn count() -> anyhow::Result<usize> {
    variable("BENCH_COUNT")?.parse().context("BENCH_COUNT")
}

#[expect(clippy::print_stdout, reason = "the driver reads it")]
fn say(what: impl std::fmt::Display) {
    println!("{what}");
}

fn say_span(begin: SystemTime) -> anyhow::Result<()> {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs_f64());
    say(json!({"begin": seconds(begin)?, "end": seconds(SystemTime::now())?}));
    Ok(())
}

/// Publishes no-op jobs by the product's publisher.
async fn publish(window: usize) -> anyhow::Result<()> {
    let broker = postroom::broker(&variable("BENCH_URL")?, "noop-worker").await?;
    let (count, note) = (count()?, variable("BENCH_PAYLOAD")?);
    let publisher = broker.publisher().with_deadline(PATIENCE);
    let begin = SystemTime::now();
    let publish = async |_| {
        let job = OutgoingJob::new(Uuid::now_v7(), Noop { note: note.clone() });
        anyhow::Ok(publisher.publish_job(&job).await?)
    };
    Outstanding(window).of(count, publish).await?;
    say_span(begin)?;
    broker.close().await;
    Ok(())
}

/// Publishes what `POST /v1/reports` publishes.
async fn publish_reports(window: usize) -> anyhow::Result<()> {
    let broker = postroom::broker(&variable("BENCH_URL")?, "web").await?;
    let (count, publisher) = (count()?, broker.publisher().with_deadline(PATIENCE));
    let report: RenderReport = serde_json::from_value(json!({
        "report": "sales",
        "period": {"from": "2025-11-01", "to": "2025-11-30"},
        "group_by": "day",
        "recipient": {"name": "Alice", "address": "alice@shop.example"},
    }))?;
    let begin = SystemTime::now();
    let publish = async |_| {
        let owner = Some("alice".to_owned());
        let job = OutgoingJob { owner, ..OutgoingJob::new(Uuid::now_v7(), report.clone()) };
        anyhow::Ok(publisher.publish_job(&job).await?)
    };
    Outstanding(window).of(count, publish).await?;
    say_span(begin)?;
    broker.close().await;
    Ok(())
}

/// Does nothing. One byte more in the file says that one more is done.
struct DoNothing(Arc<File>);

impl Handler for DoNothing {
    type Job = Noop;

    async fn run(&self, _job: Noop, _context: &JobContext) -> Result<Done, Failure> {
        match (&*self.0).write_all(b".") {
            Ok(()) => Ok(Done::empty()),
            Err(error) => Err(Failure::reject(error.to_string())),
        }
    }
}

/// Works by the product's runtime, as a service does.
async fn work(handlers: impl FnOnce(DoNothing) -> Handlers) -> anyhow::Result<()> {
    service::telemetry::start(&serde_json::from_value(json!({"format": "json", "filter": "info"}))?)?;
    let settings: ShutdownSettings = serde_json::from_value(json!({"grace_seconds": 20}))?;
    let shutdown = Shutdown::on_signals(&settings)?;
    let broker = postroom::broker(&variable("BENCH_URL")?, "noop-worker").await?;
    let handlers = handlers(DoNothing(Arc::new(done_file()?)));
    let settings = postroom::worker_settings()?;
    let work = broker.work(handlers, &settings, shutdown.drain.clone(), shutdown.abort.clone());
    let (work, state) = (tokio::spawn(work), broker.consuming_state());
    postroom::wait("consuming", || state() == BrokerState::Consuming).await?;
    say("ready");
    work.await?;
    broker.close().await;
    Ok(())
}

fn done_file() -> anyhow::Result<File> {
    let path = variable("BENCH_DONE")?;
    File::options().append(true).open(&path).with_context(|| format!("open {path}"))
}
