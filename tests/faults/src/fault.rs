//! The faults, each from its beginning to its end.

use std::fmt;
use std::future::ready;
use std::time::Duration;

use anyhow::{Context, ensure};
use backing::containers::copies_of;
use backing::relay::{Act, Stage};
use backing::samples;
use chrono::Utc;
use clap::ValueEnum;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use rand::Rng;
use tokio::task::block_in_place;
use tokio::time::sleep;
use uuid::Uuid;

use crate::load::{Accepted, Kind, Load, Report};
use crate::system::{self, System};
use crate::verdict::Verdict;

/// The load runs for so long before a fault begins.
const BEFORE: Duration = Duration::from_millis(500);
/// Past the heartbeat, which the suite sets to 2 s: whoever misses two in a row is given up.
const PAST_HEARTBEAT: Duration = Duration::from_secs(6);
/// Past the time after which the nodes of a cluster give up a silent one, 8 to 12 s: see compose/rabbitmq/cluster.conf.
const PAST_NET_TICK: Duration = Duration::from_secs(15);
/// Past the time after which a web that listens to a silent Redis gives it up, 4 s at most.
const PAST_SILENCE: Duration = Duration::from_secs(7);
/// What is neither. Past the first retry of a mail, so that some are put off twice; those are waited for 12 s.
const SHORT: Duration = Duration::from_secs(3);
/// Past the first retry of a report, and before any of a mail.
const BRIEF: Duration = Duration::from_secs(2);

/// Orders at once, five times, while there is no database.
const ORDERS: usize = 20;

/// Whose copies are killed one after another.
const WORKERS: [&str; 3] = ["email-worker", "order-worker", "pdf-report"];

/// The Redis of the cache.
const COPIES: &str = "redis-cache";
/// The one that knows who is signed in.
pub(crate) const SESSIONS: &str = "redis-durable";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// RabbitMQ is killed (SIGKILL) and started again
    BrokerKilled,
    /// RabbitMQ stands still for longer than the heartbeat
    BrokerPaused,
    /// Every connection to the broker breaks off, and none is taken for a while
    ConnectionsCut,
    /// Every connection to the broker falls silent for longer than the heartbeat
    ConnectionsHalfOpen,
    /// RabbitMQ's memory alarm blocks whoever publishes
    MemoryAlarm,
    /// RabbitMQ's disk alarm blocks whoever publishes
    DiskAlarm,
    /// PostgreSQL is stopped and started again
    PostgresStopped,
    /// PostgreSQL is stopped for a whole load of orders, and all that takes or shows them is killed meanwhile
    OrdersWithoutPostgres,
    /// The Redis of the copies is stopped and started again
    RedisCacheStopped,
    /// The Redis of the copies stands still
    RedisCachePaused,
    /// The Redis of the copies is killed (SIGKILL) and started again
    RedisCacheKilled,
    /// The Redis of sessions, tokens and limits is stopped and started again
    RedisDurableStopped,
    /// The Redis of sessions, tokens and limits stands still
    RedisDurablePaused,
    /// The Redis of sessions, tokens and limits is killed (SIGKILL) and started again
    RedisDurableKilled,
    /// The volume of reports and videos is full
    FilesFull,
    /// Workers are killed (SIGKILL) one after another at random moments
    WorkersKilled,
    /// Every video-worker is killed (SIGKILL) in the middle of a long video
    VideoWorkersKilled,
    /// Each web is killed (SIGKILL) when the broker has a job and the caller no answer
    WebKilled,
    /// Every dispatcher is killed (SIGKILL) when the broker has a row's job and the row no mark
    DispatchersKilled,
    /// Messages come twice
    DeliveredTwice,
    /// Messages that nobody can read, and one that kills whoever runs it
    Poison,
    /// The mail relay takes its time for each answer
    RelaySlow,
    /// The mail relay puts off (4xx) what it is given
    RelayDefers,
    /// The mail relay refuses (5xx) what it is given
    RelayRefuses,
    /// The mail relay takes connections and says nothing
    RelayHangs,
    /// The mail relay takes a mail and drops the connection before it says so
    RelayDrops,
    /// The RabbitMQ node that leads the queue of the no-ops is killed (SIGKILL), and started again
    LeaderKilled,
    /// The RabbitMQ node that leads the queue of the no-ops is cut off from everybody, and comes back
    LeaderCutOff,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Fault {
    /// What it is, in words.
    pub(crate) fn description(self) -> String {
        let value = self.to_possible_value();
        value.as_ref().and_then(|value| value.get_help()).map(ToString::to_string).unwrap_or_default()
    }

    /// Whether it strikes one node of three.
    pub(crate) fn needs_cluster(self) -> bool {
        matches!(self, Self::LeaderKilled | Self::LeaderCutOff)
    }

    /// The Redis that it strikes; then there are visitors beside the load.
    pub(crate) fn redis(self) -> Option<&'static str> {
        match self {
            Self::RedisCacheStopped | Self::RedisCachePaused | Self::RedisCacheKilled => Some(COPIES),
            Self::RedisDurableStopped | Self::RedisDurablePaused | Self::RedisDurableKilled => Some(SESSIONS),
            _ => None,
        }
    }

    /// How long the load runs, at least.
    pub(crate) fn length(self) -> Duration {
        match self {
            Self::BrokerPaused | Self::ConnectionsHalfOpen | Self::LeaderKilled => PAST_HEARTBEAT + 2 * BEFORE,
            Self::LeaderCutOff => PAST_NET_TICK + 2 * BEFORE,
            Self::FilesFull | Self::RelayDrops => BRIEF + 3 * BEFORE,
            Self::RedisCachePaused => PAST_SILENCE + 2 * BEFORE,
            Self::DeliveredTwice | Self::Poison => SHORT,
            _ => SHORT + 2 * BEFORE,
        }
    }

    /// Whether mails may end as dead letters.
    pub(crate) fn kills_mails(self) -> bool {
        self == Self::RelayRefuses
    }

    /// What shows that it struck at all; what is missing, in words.
    pub(crate) fn missed(self, verdict: &Verdict) -> Option<&'static str> {
        let (shown, sign) = match self {
            Self::BrokerKilled
            | Self::BrokerPaused
            | Self::ConnectionsCut
            | Self::ConnectionsHalfOpen
            | Self::MemoryAlarm
            | Self::DiskAlarm => (verdict.asked_again > 0, "nobody had to ask again"),
            // Ten at each copy.
            Self::WebKilled if verdict.asked_again < 20 => {
                (false, "callers had their answers before their web was killed")
            }
            Self::WebKilled => (verdict.known_before > 0, "the broker had no job without an answer"),
            Self::DispatchersKilled
            | Self::DeliveredTwice
            | Self::WorkersKilled
            | Self::VideoWorkersKilled
            | Self::Poison => (verdict.duplicates > 0, "nothing came twice"),
            Self::RedisCacheStopped | Self::RedisCachePaused | Self::RedisCacheKilled => {
                (verdict.past_the_cache > 0, "the cache had everything")
            }
            Self::RedisDurableStopped | Self::RedisDurablePaused | Self::RedisDurableKilled => {
                (verdict.seen.as_ref().is_some_and(|seen| seen.put_off > 0), "nobody who is signed in was put off")
            }
            Self::RelayRefuses => (verdict.dead > 0, "no mail was refused"),
            Self::RelayDrops => (verdict.maybe_sent > 0, "no mail was in doubt"),
            Self::PostgresStopped | Self::OrdersWithoutPostgres | Self::FilesFull => {
                (verdict.retried > 0, "no attempt was put off")
            }
            // The relay counts by itself; of a cluster's node others may take over before anybody notices.
            Self::RelaySlow | Self::RelayDefers | Self::RelayHangs | Self::LeaderKilled | Self::LeaderCutOff => {
                return None;
            }
        };
        (!shown).then_some(sign)
    }

    /// Begins it, and returns when it is over.
    pub(crate) async fn strike(self, system: &System, load: &mut Load) -> anyhow::Result<()> {
        sleep(BEFORE).await;
        match self {
            Self::BrokerKilled => kill_and_start("rabbitmq"),
            Self::BrokerPaused => pause("rabbitmq", PAST_HEARTBEAT).await,
            Self::ConnectionsCut => {
                system.each_proxy(|proxy| proxy.cut(true));
                sleep(SHORT).await;
                system.each_proxy(|proxy| proxy.cut(false));
            }
            Self::ConnectionsHalfOpen => {
                system.each_proxy(|proxy| proxy.silence(true));
                sleep(PAST_HEARTBEAT).await;
                system.each_proxy(|proxy| proxy.silence(false));
            }
            Self::MemoryAlarm => {
                control(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
                sleep(BRIEF).await;
                control(&["set_vm_memory_high_watermark", "absolute", "1200MB"]);
            }
            Self::DiskAlarm => {
                control(&["set_disk_free_limit", "1000000GB"]);
                sleep(BRIEF).await;
                control(&["set_disk_free_limit", "1GB"]);
            }
            Self::PostgresStopped => stop_and_start("postgres").await,
            Self::OrdersWithoutPostgres => order_without_database(system, load).await?,
            Self::RedisCacheStopped => stop_and_start(COPIES).await,
            Self::RedisCachePaused => pause(COPIES, PAST_SILENCE).await,
            Self::RedisCacheKilled => kill_and_start(COPIES),
            Self::RedisDurableStopped => stop_and_start(SESSIONS).await,
            Self::RedisDurablePaused => pause(SESSIONS, SHORT).await,
            Self::RedisDurableKilled => kill_and_start(SESSIONS),
            Self::FilesFull => {
                let reports = copies_of("pdf-report");
                // It ends where the volume does.
                let fill = "! cat /dev/zero > files/filling && test -s files/filling";
                block_in_place(|| reports.run(&["bash", "-c", fill]));
                sleep(BRIEF).await;
                block_in_place(|| reports.run(&["rm", "files/filling"]));
            }
            Self::WorkersKilled => kill_workers(system).await?,
            Self::VideoWorkersKilled => kill_video_workers(system, load).await?,
            Self::WebKilled => kill_webs(system, load).await,
            Self::DispatchersKilled => kill_dispatchers(system, load).await,
            Self::DeliveredTwice => publish_twice(load),
            Self::Poison => poison(load).await?,
            Self::RelaySlow => relay(system, SHORT, Stage::Recipient, Act::Slow(Duration::from_millis(500))).await?,
            Self::RelayDefers => relay(system, SHORT, Stage::Recipient, Act::Answer("451 4.3.0 later")).await?,
            Self::RelayRefuses => relay(system, SHORT, Stage::Recipient, Act::Answer("550 5.1.1 nobody here")).await?,
            Self::RelayHangs => relay(system, SHORT, Stage::Sender, Act::Hang).await?,
            Self::RelayDrops => relay(system, BRIEF, Stage::Content, Act::Drop).await?,
            Self::LeaderKilled => {
                let leader = copies_of(&system.leader("noop.normal").await?);
                block_in_place(|| leader.kill());
                sleep(PAST_HEARTBEAT).await;
                block_in_place(|| leader.start());
            }
            Self::LeaderCutOff => {
                let leader = copies_of(&system.leader("noop.normal").await?);
                block_in_place(|| leader.cut_off());
                sleep(PAST_NET_TICK).await;
                block_in_place(|| leader.let_back());
            }
        }
        Ok(())
    }
}

fn kill_and_start(service: &str) {
    let struck = copies_of(service);
    block_in_place(|| struck.kill());
    block_in_place(|| struck.start());
}

async fn stop_and_start(service: &str) {
    let struck = copies_of(service);
    block_in_place(|| struck.stop());
    sleep(SHORT).await;
    block_in_place(|| struck.start());
}

async fn pause(service: &str, time: Duration) {
    let struck = copies_of(service);
    block_in_place(|| struck.pause());
    sleep(time).await;
    block_in_place(|| struck.unpause());
}

/// That takes a second or two, in which what was ordered before goes on.
fn control(order: &[&str]) {
    block_in_place(|| copies_of("rabbitmq").run(&[&["rabbitmqctl", "--quiet"], order].concat()));
}

async fn relay(system: &System, time: Duration, stage: Stage, act: Act) -> anyhow::Result<()> {
    let before = system.relay.met();
    system.relay.stand(Some((stage, act)));
    sleep(time).await;
    system.relay.stand(None);
    ensure!(system.relay.met() > before, "no mail met the relay meanwhile");
    Ok(())
}

async fn kill_workers(system: &System) -> anyhow::Result<()> {
    for _ in 0..4 {
        let chance = rand::rng().random_range(0..800);
        sleep(Duration::from_millis(chance)).await;
        system.noop_workers.kill(rand::rng().random_range(0..2))?;
        let worker = copies_of(WORKERS[rand::random_range(0..WORKERS.len())]).one(rand::random_range(0..2));
        block_in_place(|| worker.kill());
        block_in_place(|| worker.start());
    }
    Ok(())
}

/// When the run has told how far it is.
async fn kill_video_workers(system: &System, load: &mut Load) -> anyhow::Result<()> {
    let (workers, web) = (copies_of("video-worker"), &system.ways.web);
    let video = web.video(samples::FORTY_SECONDS).await?;
    web.is_at_work(&video).await?;
    block_in_place(|| workers.kill());
    block_in_place(|| workers.start());
    system::ready(&workers).await;
    load.add(|_| ready(Ok(video)));
    Ok(())
}

/// Each order is taken without the database, and shown at each web whatever was killed since.
async fn order_without_database(system: &System, load: &mut Load) -> anyhow::Result<()> {
    let (database, web) = (copies_of("postgres"), &system.ways.web);
    block_in_place(|| database.stop());
    let mut taken = web.orders(ORDERS).await?;
    for struck in ["order-worker", COPIES, "web", "web-2"] {
        kill_and_start(struck);
        taken.extend(web.orders(ORDERS).await?);
        web.answers().await?;
        if struck == COPIES {
            web.show(&taken).await?;
        }
    }
    web.show(&taken).await?;
    block_in_place(|| database.start());
    for order in taken {
        load.add(|_| ready(Ok(order)));
    }
    Ok(())
}

/// The broker's answers are held back while callers ask, and the web dies before they come.
async fn kill_webs(system: &System, load: &mut Load) {
    for (number, web) in ["web", "web-2"].into_iter().enumerate() {
        let container = copies_of(web);
        system.proxy(web).hold_answers(true);
        for _ in 0..10 {
            load.add(|ways| async move { ways.web.report(Report { web: Some(number), run_at: None }).await });
        }
        // Enough to hand the jobs over, and far from the second that web waits for the broker.
        sleep(Duration::from_millis(100)).await;
        block_in_place(|| container.kill());
        system.proxy(web).hold_answers(false);
        block_in_place(|| container.start());
        system::ready(&container).await;
    }
}

/// The broker's answers are held back when rows come due, and the dispatchers die before they come.
async fn kill_dispatchers(system: &System, load: &mut Load) {
    let (dispatchers, due) = (copies_of("dispatcher"), Utc::now() + Duration::from_secs(2));
    for _ in 0..20 {
        load.add(|ways| async move { ways.web.report(Report { web: None, run_at: Some(due) }).await });
    }
    sleep(Duration::from_secs(1)).await;
    system.proxy("dispatcher").hold_answers(true);
    sleep(Duration::from_secs(2)).await;
    block_in_place(|| dispatchers.kill());
    system.proxy("dispatcher").hold_answers(false);
    block_in_place(|| dispatchers.start());
    system::ready(&dispatchers).await;
}

fn publish_twice(load: &mut Load) {
    for number in 0..300 {
        let id = Uuid::now_v7();
        for _ in 0..2 {
            match number % 10 {
                0 => load.add(|ways| async move { ways.mail(id).await }),
                _ => load.add(|ways| async move { ways.noop(id, Duration::ZERO).await }),
            }
        }
    }
}

/// Messages that no publisher of ours makes.
async fn poison(load: &mut Load) -> anyhow::Result<()> {
    let (connection, channel) = backing::connect(&backing::broker_url("postroom", "operator")).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let json = "application/json";
    for (kind, routed_as, content_type, body) in [
        ("noop.run", "noop.run", json, "{\"note\": "),
        ("noop.run", "noop.run", json, "{\"note\": 7}"),
        ("noop.run", "noop.run", "text/plain", "{\"note\": \"\"}"),
        ("no.such.kind", "noop.run", json, "{}"),
        ("noop.run", "noop.run", json, "{\"note\": \"kill\"}"),
        ("email.send", "email.send", json, "[]"),
        ("report.render", "report.render", json, "null"),
    ] {
        let id = Uuid::now_v7();
        let properties = BasicProperties::default()
            .with_message_id(id.to_string().into())
            .with_type(kind.into())
            .with_content_type(content_type.into())
            .with_delivery_mode(2);
        let (options, exchange) = (BasicPublishOptions::default(), format!("postroom.jobs.{routed_as}"));
        #[expect(clippy::disallowed_methods, reason = "it is meant to be what no publisher of ours would send")]
        let publish =
            channel.basic_publish(exchange.as_str().into(), "normal".into(), options, body.as_bytes(), properties);
        publish.await?.await.context("the broker takes the message")?;
        load.add(move |_| async move { Ok(Accepted::now(id, Kind::Poison, 0)) });
    }
    channel.close(200, "done".into()).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}
