//! The system under test: the ways into it that the suite can cut, silence and hold back, and what stands on its broker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use backing::containers::{Containers, copies_of, ours};
use backing::relay::Relay;
use backing::{Proxy, ask_management, broker_password, composed};
use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use pipeline::jobs::{Message, SendEmail};
use pipeline::{Broker, BrokerState};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::load::{Report, Ways, Web};
use crate::noop_workers::NoopWorkers;
use crate::visits::Visitors;

const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);
/// Whose connections to the broker have a proxy of their own, and the variable that says where.
const PROXIES: [(&str, &str); 9] = [
    ("web", "POSTROOM_FAULTS_WEB"),
    ("web-2", "POSTROOM_FAULTS_WEB_2"),
    ("email-worker", "POSTROOM_FAULTS_EMAIL_WORKER"),
    ("order-worker", "POSTROOM_FAULTS_ORDER_WORKER"),
    ("pdf-report", "POSTROOM_FAULTS_PDF_REPORT"),
    ("video-worker", "POSTROOM_FAULTS_VIDEO_WORKER"),
    ("dispatcher", "POSTROOM_FAULTS_DISPATCHER"),
    ("noop-worker", "POSTROOM_FAULTS_NOOP_WORKER"),
    ("load", "POSTROOM_FAULTS_LOAD"),
];

/// The ports of a cluster's nodes.
const NODES: [&str; 3] = ["POSTROOM_AMQP_PORT", "POSTROOM_AMQP_2_PORT", "POSTROOM_AMQP_3_PORT"];

#[derive(Debug)]
pub(crate) struct System {
    pub(crate) ways: Arc<Ways>,
    pub(crate) visitors: Arc<Visitors>,
    pub(crate) relay: Relay,
    pub(crate) noop_workers: NoopWorkers,
    proxies: BTreeMap<&'static str, Proxy>,
    brokers: [Broker; 2],
    /// The services that are the broker.
    nodes: &'static [&'static str],
}

impl System {
    /// Opens the ways, and waits until a report has gone all of them.
    pub(crate) async fn start(cluster: bool) -> anyhow::Result<Self> {
        let mut proxies = BTreeMap::new();
        if !cluster {
            let broker = format!("amqp://{}", broker_node("POSTROOM_AMQP_PORT"));
            for (name, variable) in PROXIES {
                proxies.insert(name, Proxy::start_at(composed(variable), &broker).await);
            }
        }
        let addresses = |by_proxy: &str| match cluster {
            true => NODES.map(broker_node).to_vec(),
            false => vec![composed(by_proxy).to_owned()],
        };
        let relay = Relay::start_at(composed("POSTROOM_FAULTS_RELAY"), []).await;
        let noop_workers =
            NoopWorkers::start(2, &broker_urls("noop-worker", &addresses("POSTROOM_FAULTS_NOOP_WORKER")))?;
        let load = addresses("POSTROOM_FAULTS_LOAD");
        let brokers = [load_broker("noop-worker", &load).await?, load_broker("pdf-report", &load).await?];
        let [noops, mails] = brokers.each_ref().map(Broker::publisher);
        let web = Web::new(plentiful().await?)?;
        let first = web.report(Report::default()).await?.id;
        ready(&copies_of("web").and(copies_of("web-2"))).await;
        let visitors = Arc::new(Visitors::invite().await?);
        let mail = mail_about(first).await?;
        let ways = Arc::new(Ways { web, noops, mails, mail });
        let nodes = if cluster { &["rabbitmq", "rabbitmq-2", "rabbitmq-3"][..] } else { &["rabbitmq"] };
        let system = Self { ways, visitors, relay, noop_workers, proxies, brokers, nodes };
        system.ready().await?;
        // The first report has a mail of its own, and so has everybody who registered.
        all_jobs_ended().await?;
        system.rest(PATIENCE).await?;
        drop(system.relay.take_mails());
        Ok(system)
    }

    /// The way of a service, or of the load, to the broker.
    pub(crate) fn proxy(&self, name: &str) -> &Proxy {
        &self.proxies[name]
    }

    pub(crate) fn each_proxy(&self, order: impl Fn(&Proxy)) {
        self.proxies.values().for_each(order);
    }

    /// Waits until every node of the broker is up, and every service says that it can do all of its work.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        ready(&ours()).await;
        let end = Instant::now() + PATIENCE;
        loop {
            // A node that was cut off starts anew once it is back, and says nothing until then.
            match self.is_replicated().await {
                Ok(true) => return Ok(()),
                Ok(false) => ensure!(Instant::now() < end, "a node of the broker is no member of each queue"),
                Err(error) => ensure!(Instant::now() < end, "the broker does not tell of its queues: {error:#}"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Whether each queue that is replicated has a member on every node.
    async fn is_replicated(&self) -> anyhow::Result<bool> {
        let queues: Vec<Value> = Self::manage("queues/postroom").await?.json().await?;
        let replicated: Vec<&Value> = queues.iter().filter(|queue| queue["type"] == "quorum").collect();
        let everywhere =
            |queue: &&Value| queue["online"].as_array().is_some_and(|online| online.len() == self.nodes.len());
        Ok(!replicated.is_empty() && replicated.iter().all(everywhere))
    }

    /// Waits until no queue holds anything but dead letters; those that do when the patience is over.
    pub(crate) async fn rest(&self, patience: Duration) -> anyhow::Result<BTreeMap<String, u64>> {
        let end = Instant::now() + patience;
        loop {
            let mut queues = self.queues().await?;
            queues.retain(|queue, _| !queue.ends_with(".dead"));
            if queues.is_empty() || Instant::now() > end {
                return Ok(queues);
            }
            sleep(PAUSE).await;
        }
    }

    /// How often each web has read from the database what it might have had from the cache.
    pub(crate) fn reads_past_the_cache(&self) -> u64 {
        let webs = copies_of("web").and(copies_of("web-2"));
        let reads =
            |outcome: &str| block_in_place(|| webs.counters("cache_reads_total", outcome)).values().sum::<u64>();
        reads("outcome=\"loaded\"") + reads("outcome=\"bypassed\"")
    }

    /// How often each container has acked a delivery of a job that it knew to be done.
    pub(crate) fn acked_as_done(&self) -> BTreeMap<String, u64> {
        let workers = copies_of("email-worker").and(copies_of("order-worker"));
        let workers = workers.and(copies_of("pdf-report")).and(copies_of("video-worker"));
        block_in_place(|| workers.counters("jobs_total", "outcome=\"repeated\""))
    }

    /// Deletes videos, and the reports but the one that the mails are about: the volume is small.
    pub(crate) fn clear_files(&self) {
        let Message::ReportReady(kept) = &self.ways.mail.message else { unreachable!("the mail is about a report") };
        let kept = format!("{}.pdf", kept.report_id);
        let reports = copies_of("pdf-report");
        let delete = format!("find files/reports -name '*.pdf' -not -name {kept} -delete && rm -rf files/videos");
        block_in_place(|| reports.run(&["bash", "-c", &delete]));
    }

    /// The service in whose container the leader of a queue is.
    pub(crate) async fn leader(&self, queue: &str) -> anyhow::Result<String> {
        let queue: Value = Self::manage(&format!("queues/postroom/{queue}")).await?.json().await?;
        let node = queue["leader"].as_str().context("a queue without a leader")?;
        Ok(node.rsplit('@').next().unwrap_or(node).to_owned())
    }

    /// Takes every dead letter out of its queue; how many there were of each job.
    pub(crate) async fn take_dead_letters(&self) -> anyhow::Result<BTreeMap<Uuid, u64>> {
        let (connection, channel) = backing::connect(&backing::broker_url("postroom", "operator")).await;
        let mut letters = BTreeMap::new();
        for queue in self.queues().await?.into_keys().filter(|queue| queue.ends_with(".dead")) {
            let options = BasicGetOptions { no_ack: true };
            while let Some(letter) = channel.basic_get(queue.as_str().into(), options).await? {
                let id = letter.properties.message_id().as_ref().context("a dead letter without an id")?;
                *letters.entry(id.as_str().parse()?).or_default() += 1;
            }
        }
        connection.close(200, "done".into()).await?;
        Ok(letters)
    }

    /// How many messages each queue holds, where it holds any: those at a worker as the broker knew them half a second ago (5 s in
    /// a cluster: a quorum queue tells no sooner), those that are ready as they are now.
    async fn queues(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let answer = Self::manage("queues/postroom?disable_stats=true&enable_queue_totals=true").await?;
        let queues: Vec<Value> = answer.json().await?;
        let (connection, channel) = backing::connect(&backing::broker_url("postroom", "operator")).await;
        let mut held = BTreeMap::new();
        // An exclusive queue belongs to a connection and may not be asked by another.
        for queue in queues.iter().filter(|queue| queue["exclusive"] != true) {
            let name = queue["name"].as_str().context("a queue without a name")?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(name.into(), options, FieldTable::default()).await?;
            let messages = queue["messages"].as_u64().unwrap_or_default().max(declared.message_count().into());
            if messages > 0 {
                held.insert(name.to_owned(), messages);
            }
        }
        connection.close(200, "done".into()).await?;
        Ok(held)
    }

    async fn manage(path: &str) -> anyhow::Result<Response> {
        Ok(ask_management("operator", Method::GET, path, None).await?.error_for_status()?)
    }

    pub(crate) async fn stop(self) {
        for broker in self.brokers {
            broker.close().await;
        }
    }
}

/// Waits until each says that it can do all of its work.
pub(crate) async fn ready(containers: &Containers) {
    block_in_place(|| tokio::runtime::Handle::current().block_on(containers.ready()));
}

/// `host:port` of the node that a variable holds the port of.
fn broker_node(port: &str) -> String {
    format!("127.0.0.1:{}", composed(port))
}

/// `broker.url` for a service, by these nodes.
fn broker_urls(service: &str, nodes: &[String]) -> String {
    let password = broker_password(service);
    let urls = nodes.iter().map(|node| format!("amqp://{service}:{password}@{node}/postroom?heartbeat=2"));
    urls.collect::<Vec<_>>().join(",")
}

/// A way to publish as a service may.
async fn load_broker(service: &str, nodes: &[String]) -> anyhow::Result<Broker> {
    let settings = json!({
        "url": broker_urls(service, nodes),
        "time_scale": composed("POSTROOM_FAULTS_TIME_SCALE").parse::<f64>()?,
        "queue_length": 200_000,
    });
    let broker = Broker::start(&serde_json::from_value(settings)?, service)?;
    let (state, end) = (broker.publishing_state(), Instant::now() + PATIENCE);
    while state() != BrokerState::Connected {
        ensure!(Instant::now() < end, "no connection to the broker: {}", state());
        sleep(PAUSE).await;
    }
    Ok(broker)
}

/// The product of which there is most.
async fn plentiful() -> anyhow::Result<Uuid> {
    let query = "SELECT id FROM products ORDER BY stock DESC, id LIMIT 1";
    Ok(sqlx::query_scalar(query).fetch_one(&mut database().await?).await?)
}

/// What is on all shelves together.
pub(crate) async fn stock() -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar("SELECT sum(stock)::bigint FROM products").fetch_one(&mut database().await?).await?)
}

/// A mail about a report, once that is there.
async fn mail_about(report: Uuid) -> anyhow::Result<SendEmail> {
    let (mut database, end) = (database().await?, Instant::now() + PATIENCE);
    let query = "SELECT result::text FROM jobs WHERE id = $1 AND state = 'succeeded'";
    let result: Value = loop {
        let result: Option<String> = sqlx::query_scalar(query).bind(report).fetch_optional(&mut database).await?;
        if let Some(result) = result {
            break serde_json::from_str(&result)?;
        }
        ensure!(Instant::now() < end, "the first report is not made");
        sleep(PAUSE).await;
    };
    let file = json!({
        "key": format!("reports/{report}.pdf"), "name": result["name"], "content_type": "application/pdf",
        "bytes": result["bytes"],
    });
    let data = json!({
        "report_id": report, "title": result["title"], "period": result["period"], "pages": result["pages"], "file": file,
    });
    let to = json!({"name": "Reader", "address": "reader@shop.example"});
    Ok(serde_json::from_value(json!({"to": to, "template": "report-ready", "data": data}))?)
}

/// Waits until every job that anybody knows of has ended.
async fn all_jobs_ended() -> anyhow::Result<()> {
    let (mut database, end) = (database().await?, Instant::now() + PATIENCE);
    while sqlx::query_scalar("SELECT EXISTS (SELECT FROM jobs WHERE finished_at IS NULL)")
        .fetch_one(&mut database)
        .await?
    {
        ensure!(Instant::now() < end, "the first jobs do not end");
        sleep(PAUSE).await;
    }
    Ok(())
}

/// A connection of the suite's own to the database.
pub(crate) async fn database() -> anyhow::Result<PgConnection> {
    let url = backing::database_url("postroom");
    let end = Instant::now() + PATIENCE;
    loop {
        match PgConnection::connect(&url).await {
            Ok(connection) => return Ok(connection),
            Err(error) if Instant::now() > end => return Err(error).context("connect to PostgreSQL"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
