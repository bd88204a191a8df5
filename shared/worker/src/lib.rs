//! What a worker that uses PostgreSQL tells the runtime of it: how the database is asked for a sign of life, and what is known
//! there of a job before it runs. It joins `pipeline` and `store`, which do not know each other.

use pipeline::{Handlers, JobMark};
use store::PgPool;
use store::jobs;

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
