//! The HTTP API of Postroom.

use anyhow::Context;
use cache::{Cache, Redis, Role};
use pipeline::Broker;
use service::{Health, Shutdown, Tasks, telemetry};
use store::{Files, SignedLinks};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use web::{App, Changes, DEFAULTS, JobStatus, Limits, RateLimits, Settings, Tracker};

/// What is cached is loaded by so many of the pool's connections at a time; the others are for what is asked for and written.
const LOADS: usize = 2;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    let metrics = telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;

    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let files = Files::open(&settings.files).context("open the files")?;
    let links = SignedLinks::new(&settings.links).context("read the settings of the links")?;
    let broker = Broker::start(&settings.broker, "web").context("read the settings of the broker")?;
    let copies = Redis::new(&settings.redis.cache, Role::Cache).context("read the settings of redis.cache")?;
    let redis = Redis::new(&settings.redis.durable, Role::Durable).context("read the settings of redis.durable")?;
    let rate_limits = RateLimits::new(redis.clone(), &settings.limits, settings.http.trusted_proxies)?;
    let status = JobStatus::new(copies.clone(), pool.clone());
    let changes = Changes::default();

    let drain = || shutdown.drain.clone();
    let (app, recording) = App::new(
        &broker,
        pool.clone(),
        files,
        links,
        Cache::new(copies.clone(), LOADS),
        status.clone(),
        redis.clone(),
        changes.clone(),
        rate_limits,
        Limits { video_bytes: settings.videos.max_bytes, ..Limits::default() },
        drain(),
    );
    let listener =
        TcpListener::bind(settings.http.listen).await.with_context(|| format!("listen on {}", settings.http.listen))?;

    let health = Health::new(&settings.health, metrics)
        .part("publishing", broker.publishing_readiness())
        .part("tracking", broker.consuming_readiness())
        .part("topology", broker.topology_readiness())
        .part("database", changes.readiness())
        .part("redis-cache", copies.readiness())
        .part("redis-durable", redis.readiness());
    let stop_health = CancellationToken::new();
    let health = tokio::spawn(health.serve(stop_health.clone()));

    let mut tasks = Tasks::default();
    tasks.spawn("broker", ended(app.clone().watch_broker()));
    tasks.spawn("http", ended(web::serve(listener, app, recording, service::http::Limits::default())));
    tasks.spawn("tracker", ended(broker.track(Tracker::new(pool.clone(), status.clone()), drain())));
    tasks.spawn("redis-cache", ended(copies.watch(drain())));
    tasks.spawn("redis-durable", ended(redis.watch(drain())));
    tasks.spawn("changes", ended(changes.clone().listen(pool, drain())));
    tasks.spawn("changes in redis", ended(changes.listen_to_redis(status.clone(), drain())));
    tasks.spawn("job status", ended(status.keep_up(drain())));

    let outcome = tasks.finish(&shutdown).await;
    broker.close().await;
    stop_health.cancel();
    health.await.context("run the health server")?.and(outcome)
}

/// A task that cannot fail, only end.
async fn ended(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}
