//! `POST /v1/reports`: how many are accepted per second, how long an answer takes, and how long until the work is done.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use pipeline::jobs::Noop;
use pipeline::{BrokerState, Done, Failure, Handler, Handlers, JobContext, OutgoingJob};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Plan;
use crate::house::House;
use crate::http::Client;
use crate::latency::{Latencies, paced};
use crate::part::{EXCHANGE, ROUTING_KEY, bare};
use crate::postroom;
use crate::process::Program;
use crate::results::Results;

/// Connections that each have one request open, and confirms that the publisher beside has outstanding.
const OUTSTANDING: usize = 64;
const REQUESTS: u32 = 10_000;
const PUBLISHES: u32 = 20_000;
/// One report may take so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds at a steady rate.
const STEADY: f64 = 4.0;
/// Small reports per second that one worker makes beside everything else, and how many.
const REPORTS_PER_SECOND: f64 = 2.0;
const REPORTS: u32 = 100;

/// The queues that a report that is asked for fills.
const QUEUES: [&str; 3] = ["report.normal", "tracker.lifecycle", "email.normal"];
/// A day of the sample data: key figures, a chart, tables of its products and of its 150 orders or so.
const REQUEST: &str = r#"{"report":"sales","period":{"from":"2025-11-11","to":"2025-11-11"}}"#;

pub(crate) const WEB: &str = "POST /v1/reports";
pub(crate) const PUBLISHER: &str = "Postroom, Publisher";
pub(crate) const LAPIN: &str = "lapin, bare: confirm";
pub(crate) const NOOP: &str = "no-op job: publish to done";
pub(crate) const REPORT: &str = "report: POST to done";

/// One round.
pub(crate) async fn measure(house: &House, plan: &Plan, results: &mut Results) -> anyhow::Result<()> {
    clear(house).await?;
    let published = published(house, plan.sized(PUBLISHES)).await?;
    results.add("accepting", PUBLISHER, "rate", "1/s", published);
    clear(house).await?;
    // Nobody makes the reports: what is measured is how they are accepted.
    let accepted = accepted(house, plan.sized(REQUESTS)).await?;
    results.add("accepting", WEB, "rate", "1/s", accepted);
    clear(house).await?;

    let rate = accepted / 2.0;
    let count = (rate * if plan.quick { 1.0 } else { STEADY }).ceil() as u32;
    let latencies = answers(house, rate, count).await?;
    add(results, WEB, &latencies)?;
    clear(house).await?;
    let latencies = confirms(house, rate, count).await?;
    add(results, LAPIN, &latencies)?;
    clear(house).await?;
    let latencies = no_ops(house, rate, count).await?;
    add(results, NOOP, &latencies)?;
    let latencies = reports(house, plan.sized(REPORTS)).await?;
    add(results, REPORT, &latencies)?;
    clear(house).await
}

fn add(results: &mut Results, contender: &str, latencies: &Latencies) -> anyhow::Result<()> {
    for percent in [50, 99] {
        results.add("accepting", contender, &format!("p{percent}"), "ms", latencies.percentile(percent)?);
    }
    Ok(())
}

async fn clear(house: &House) -> anyhow::Result<()> {
    house.clear(&QUEUES, &[]).await?;
    house.forget_jobs().await
}

async fn published(house: &House, count: u32) -> anyhow::Result<f64> {
    let program = Program::part(house, "publish-reports")?.arg(OUTSTANDING.to_string());
    let program = program.env("BENCH_URL", house.broker_url("web")).env("BENCH_COUNT", count.to_string());
    Ok(f64::from(count) / program.span().await?.seconds())
}

async fn clients(address: &str) -> anyhow::Result<Vec<Client>> {
    try_join_all((0..OUTSTANDING).map(|_| Client::connect(address))).await
}

async fn accepted(house: &House, count: u32) -> anyhow::Result<f64> {
    let (mut web, address) = postroom::web(house).await?;
    let clients = clients(&address).await?;
    let begin = Instant::now();
    // Due all at once: each connection asks again as soon as it has its answer.
    paced(f64::INFINITY, count, clients, async |client| ask(client).await.map(drop)).await?;
    let seconds = begin.elapsed().as_secs_f64();
    web.check()?;
    web.stop().await?;
    Ok(f64::from(count) / seconds)
}

async fn answers(house: &House, rate: f64, count: u32) -> anyhow::Result<Latencies> {
    let (web, address) = postroom::web(house).await?;
    let latencies = paced(rate, count, clients(&address).await?, async |client| ask(client).await.map(drop)).await?;
    web.stop().await?;
    Ok(latencies)
}

/// Asks for a report; its id.
async fn ask(client: &mut Client) -> anyhow::Result<String> {
    let answer = client.post("/v1/reports", REQUEST).await?;
    ensure!(answer.status == 202, "POST: {}, {}", answer.status, String::from_utf8_lossy(&answer.body));
    Ok(answer.json()?["id"].as_str().context("an answer without an id")?.to_owned())
}

async fn confirms(house: &House, rate: f64, count: u32) -> anyhow::Result<Latencies> {
    let bare = bare::Publishing::start(&house.broker_url("noop-worker")).await?;
    let tools = vec![&bare; OUTSTANDING];
    let latencies = paced(rate, count, tools, async |bare| bare.publish(EXCHANGE, ROUTING_KEY).await).await?;
    bare.close().await?;
    house.clear(&["noop.normal"], &[]).await?;
    Ok(latencies)
}

/// Notes how long ago its job was published, by the clock of this process.
struct Note {
    begin: Instant,
    durations: std::sync::Arc<Mutex<Vec<Duration>>>,
}

impl Handler for Note {
    type Job = Noop;

    async fn run(&self, job: Noop, _context: &JobContext) -> Result<Done, Failure> {
        let sent = job.note.parse().map(Duration::from_nanos).map_err(|_| Failure::reject("no time"))?;
        if let Ok(mut durations) = self.durations.lock() {
            durations.push(self.begin.elapsed().saturating_sub(sent));
        }
        Ok(Done::empty())
    }
}

async fn no_ops(house: &House, rate: f64, count: u32) -> anyhow::Result<Latencies> {
    house.clear(&["noop.normal"], &[]).await?;
    let broker = postroom::broker(&house.broker_url("noop-worker"), "noop-worker").await?;
    let (begin, durations) = (Instant::now(), std::sync::Arc::<Mutex<Vec<Duration>>>::default());
    let handlers = Handlers::new().register_quiet(Note { begin, durations: std::sync::Arc::clone(&durations) });
    let drain = CancellationToken::new();
    let work = broker.work(handlers, &postroom::worker_settings()?, drain.clone(), CancellationToken::new());
    let (work, state) = (tokio::spawn(work), broker.consuming_state());
    postroom::wait("consuming", || state() == BrokerState::Consuming).await?;
    let publisher = broker.publisher();
    let tools = vec![&publisher; OUTSTANDING];
    paced(rate, count, tools, async |publisher| {
        let note = begin.elapsed().as_nanos().to_string();
        Ok(publisher.publish_job(&OutgoingJob::new(Uuid::now_v7(), Noop { note })).await?)
    })
    .await?;
    let done = || durations.lock().is_ok_and(|durations| durations.len() >= count as usize);
    postroom::wait("the worker", done).await?;
    drain.cancel();
    work.await?;
    broker.close().await;
    let durations = durations.lock().map_err(|_| anyhow::anyhow!("a handler panicked"))?;
    Ok(Latencies::new(durations.clone()))
}

/// From the request to the moment at which its caller hears that the report is done.
async fn reports(house: &House, count: u32) -> anyhow::Result<Latencies> {
    let (web, address) = postroom::web(house).await?;
    let worker = postroom::pdf_report(house).await?;
    let address = address.as_str();
    // The first pays for what is loaded once.
    wait_for_report(address).await?;
    // Each by a connection of its own: web closes those that rest.
    let callers = vec![address; OUTSTANDING];
    let latencies = paced(REPORTS_PER_SECOND, count, callers, async |address| wait_for_report(address).await).await?;
    worker.stop().await?;
    web.stop().await?;
    Ok(latencies)
}

async fn wait_for_report(address: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(address).await?;
    let (id, begin) = (ask(&mut client).await?, Instant::now());
    let mut tag = String::new();
    loop {
        let headers = format!("Prefer: wait=20\r\n{tag}");
        ensure!(begin.elapsed() < PATIENCE, "report {id} is not made");
        let answer = client.get(&format!("/v1/jobs/{id}"), &headers).await?;
        match answer.status {
            200 => {}
            304 => continue,
            status => bail!("GET: {status}"),
        }
        let job = answer.json()?;
        match job["state"].as_str() {
            Some("succeeded") => return Ok(()),
            Some("queued" | "running") => {
                tag = answer.tag.map(|tag| format!("If-None-Match: {tag}\r\n")).unwrap_or_default();
            }
            _ => bail!("the report is not made: {job}"),
        }
    }
}
