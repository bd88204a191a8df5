//! The product as its users meet it: its broker, its publisher, its programs.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use pipeline::{Broker, BrokerSettings, BrokerState, Concurrency, WorkerSettings};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::house::House;
use crate::http::Client;
use crate::process::{Program, Service};

const START: Duration = Duration::from_secs(60);
/// As BullMQ's.
pub(crate) const CONCURRENCY: u16 = 50;
/// Alice's, who calls web here; `House::prepare` signs her up.
pub(crate) const TOKEN: &str = "a-token-of-the-benchmark-alone";
const LINKS_SECRET: &str = "a secret of the benchmark alone, long enough";

/// The product's way to the broker, once its connections are up.
pub(crate) async fn broker(url: &str, service: &str) -> anyhow::Result<Broker> {
    // As `defaults.toml` of every service has it.
    let settings: BrokerSettings =
        serde_json::from_value(json!({"url": url, "time_scale": 1.0, "queue_length": 200_000}))?;
    let broker = Broker::start(&settings, service)?;
    let (publishing, consuming) = (broker.publishing_state(), broker.consuming_state());
    wait("the broker", || publishing() == BrokerState::Connected && consuming() == BrokerState::Connected).await?;
    Ok(broker)
}

pub(crate) async fn wait(what: &str, done: impl Fn() -> bool) -> anyhow::Result<()> {
    let wait = async {
        while !done() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(START, wait).await.with_context(|| format!("{what} does not answer"))
}

pub(crate) fn worker_settings() -> anyhow::Result<WorkerSettings> {
    let concurrency = Concurrency::try_from(CONCURRENCY).map_err(anyhow::Error::msg)?;
    Ok(WorkerSettings { concurrency })
}

/// Has the topology stand on the broker.
pub(crate) async fn declare(house: &House) -> anyhow::Result<()> {
    for service in ["noop-worker", "web", "email-worker", "pdf-report"] {
        broker(&house.broker_url(service), service).await?.close().await;
    }
    Ok(())
}

/// A service's program with the settings that every service has.
fn service(house: &House, name: &str) -> anyhow::Result<Program> {
    let files = house.folder.join("files");
    std::fs::create_dir_all(&files).context("make a folder for files")?;
    Ok(Program::released(house, name, name)?
        .env("POSTROOM__BROKER__URL", house.broker_url(name))
        .env("POSTROOM__DATABASE__URL", house.database_url())
        .env("POSTROOM__FILES__URL", format!("file://{}", files.display())))
}

/// Whether web has a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copies {
    Kept,
    /// What is counted over all orders is ended as often as orders end it at most.
    Aged,
    /// Its server is away.
    Away,
}

/// The HTTP API, with its tracker, at a port of its own.
pub(crate) async fn web(house: &House) -> anyhow::Result<(Service, String)> {
    let (mut web, api, health) = start_web(house, house.cache_url())?;
    wait_answer(&mut web, &health, "/readyz").await?;
    Ok((web, api))
}

/// The same with a cache or without, once it has answered a path.
pub(crate) async fn web_with(house: &House, copies: Copies, path: &str) -> anyhow::Result<(Service, String)> {
    let cache = match copies {
        Copies::Kept | Copies::Aged => house.cache_url(),
        Copies::Away => format!("redis://{}", free_address()?),
    };
    let (mut web, api, _) = start_web(house, cache)?;
    wait_answer(&mut web, &api, path).await?;
    Ok((web, api))
}

fn start_web(house: &House, cache: String) -> anyhow::Result<(Service, String, String)> {
    let (api, health) = (free_address()?, free_address()?);
    let web = service(house, "web")?
        .env("POSTROOM__LINKS__SECRET", LINKS_SECRET)
        .env("POSTROOM__REDIS__CACHE__URL", cache)
        .env("POSTROOM__REDIS__DURABLE__URL", house.durable_redis_url())
        // One caller asks for all that there is.
        .env("POSTROOM__LIMITS__REQUESTS_PER_MINUTE", "60000000")
        .env("POSTROOM__HTTP__LISTEN", &api)
        .env("POSTROOM__HEALTH__LISTEN", &health)
        .start_service()?;
    Ok((web, api, health))
}

/// The worker that makes reports.
pub(crate) async fn pdf_report(house: &House) -> anyhow::Result<Service> {
    let health = free_address()?;
    let program = service(house, "pdf-report")?.env("POSTROOM__ENGINE__PATH", House::released("pdf-engine")?);
    let mut worker = program.env("POSTROOM__HEALTH__LISTEN", &health).start_service()?;
    wait_answer(&mut worker, &health, "/readyz").await?;
    Ok(worker)
}

/// The worker that sends mails.
pub(crate) async fn email_worker(house: &House, relay: &str) -> anyhow::Result<Service> {
    let health = free_address()?;
    let program = service(house, "email-worker")?
        .env("POSTROOM__LINKS__SECRET", LINKS_SECRET)
        .env("POSTROOM__SMTP__URL", format!("smtp://{relay}"));
    let mut worker = program.env("POSTROOM__HEALTH__LISTEN", &health).start_service()?;
    wait_answer(&mut worker, &health, "/readyz").await?;
    Ok(worker)
}

/// The smallest worker: the example of the pipeline.
pub(crate) async fn noop_worker(house: &House) -> anyhow::Result<Service> {
    let program =
        Program::released(house, "noop_worker", Path::new("examples").join("noop_worker").to_str().unwrap_or(""))?;
    let mut worker = program.env("POSTROOM__BROKER__URL", house.broker_url("noop-worker")).start_service()?;
    house.wait_consumed("noop.normal").await?;
    worker.check()?;
    Ok(worker)
}

async fn wait_answer(service: &mut Service, address: &str, path: &str) -> anyhow::Result<()> {
    let wait = async {
        loop {
            service.check()?;
            if let Ok(mut client) = Client::connect(address).await
                && client.get(path, "").await.is_ok_and(|answer| answer.status == 200)
            {
                return anyhow::Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(START, wait).await.context("a service does not get ready")?
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.to_string())
}
