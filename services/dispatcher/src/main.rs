//! Sends what is due, fires schedules, ends what is cached of what was changed, sweeps what is old.

use anyhow::Context;
use cache::{Redis, Role};
use dispatcher::due::Due;
use dispatcher::invalidator::{self, Invalidator};
use dispatcher::schedules::Schedules;
use dispatcher::sender::{self, Sender};
use dispatcher::settings::{DEFAULTS, Settings};
use dispatcher::sweeper::Sweeper;
use futures_util::FutureExt;
use pipeline::Broker;
use service::{Health, Shutdown, Tasks};
use store::Files;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    let metrics = service::telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;

    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let files = Files::open(&settings.files).context("open the files")?;
    let broker = Broker::start(&settings.broker, sender::SERVICE).context("read the settings of the broker")?;
    let redis = Redis::new(&settings.redis.cache, Role::Cache).context("read the settings of redis.cache")?;
    let (due, changed) = (Due::default(), invalidator::notices());

    let health = Health::new(&settings.health, metrics)
        .part("publishing", broker.publishing_readiness())
        .part("topology", broker.topology_readiness())
        .part("database", due.readiness())
        .part("redis-cache", redis.readiness());
    let stop_health = CancellationToken::new();
    let health = tokio::spawn(health.serve(stop_health.clone()));

    let drain = || shutdown.drain.clone();
    let mut tasks = Tasks::default();
    let fullness = broker.fullness();
    tasks.spawn("sender", Sender::new(&broker, fullness.clone(), pool.clone(), &due).run(drain()));
    tasks.spawn("fullness", fullness.watch(drain()).map(Ok));
    tasks.spawn("schedules", Schedules::new(pool.clone(), due.clone()).run(drain()));
    tasks.spawn("sweeper", Sweeper::new(pool.clone(), files, settings.retention.days).run(drain()));
    tasks.spawn("backlog", sender::measure(pool.clone(), drain()));
    tasks.spawn("due", due.listen(pool.clone(), drain()));
    tasks.spawn("invalidator", Invalidator::new(redis.clone(), pool.clone(), &changed).run(drain()));
    tasks.spawn("invalidations", invalidator::measure(pool.clone(), drain()));
    tasks.spawn("changed", changed.listen(pool, drain()));
    tasks.spawn("redis-cache", redis.watch(drain()).map(Ok));

    let outcome = tasks.finish(&shutdown).await;
    broker.close().await;
    // Health is served until the last message is out.
    stop_health.cancel();
    health.await.context("run the health server")?.and(outcome)
}
