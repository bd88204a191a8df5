//! What the `main.rs` of every worker shares: what the runtime is told of the database (how it is asked for a sign of life, what is
//! known there of a job before it runs), and the life of the process. It joins `pipeline`, `store` and `service`, which do not know
//! each other.

use pipeline::{Broker, Handlers, JobMark, WorkerSettings};
use service::{Health, Shutdown, Tasks};
use store::PgPool;
use store::jobs;
use tokio_util::sync::CancellationToken;

/// The name of the database in [`pipeline::Failure::Unavailable`].
pub const POSTGRES: &str = "postgres";

/// Handlers that pause while the database is away, and do not run a job that its owner has cancelled or that has ended.
#[must_use]
pub fn with_database(handlers: Handlers, pool: &PgPool) -> Handlers {
    let (asked, known) = (pool.clone(), pool.clone());
    let handlers = handlers.dependency(POSTGRES, move || {
        let pool = asked.clone();
        async move { store::database::ping(&pool).await }
    });
    handlers.marks(move |id, replays| {
        let pool = known.clone();
        async move {
            jobs::mark_of(&pool, id, replays).await.map(|mark| match mark {
                jobs::JobMark::Open => JobMark::Open,
                jobs::JobMark::CancelRequested => JobMark::CancelRequested,
                jobs::JobMark::Final => JobMark::Final,
            })
        }
    })
}

/// The life of a worker's process, once it has its handlers: works and serves health until it is told to end.
///
/// # Errors
/// A task failed or ended unasked, or the grace period was over before the last job.
pub async fn run(
    broker: Broker,
    handlers: Handlers,
    settings: &WorkerSettings,
    health: Health,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let health = health
        .part("consuming", broker.consuming_readiness())
        .part("publishing", broker.publishing_readiness())
        .part("topology", broker.topology_readiness());
    let stop_health = CancellationToken::new();
    let mut tasks = Tasks::default();
    tasks.spawn("health", health.serve(stop_health.clone()));
    let work = broker.work(handlers, settings, shutdown.drain.clone(), shutdown.abort.clone());
    tasks.spawn("worker", async move {
        work.await;
        // Health is served until the last job is done.
        stop_health.cancel();
        Ok(())
    });
    let outcome = tasks.finish(shutdown).await;
    broker.close().await;
    outcome
}
