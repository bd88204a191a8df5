//! The store against a real PostgreSQL; every test has a database of its own.
//! `compose/up postgres` starts the server.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod accounts;
mod cache_invalidations;
mod cancel;
mod chain;
mod database;
mod idempotency;
mod job_convergence;
mod job_races;
mod jobs;
mod notices;
mod orders;
mod outbox;
mod products;
mod profiles;
mod retention;
mod sales;
mod schedules;
mod schema;
mod sent_mails;
mod tokens;

use store::{DatabaseSettings, MIGRATOR, PgPool};

/// A database with today's schema, and a pool of connections to it.
struct TestStore {
    pool: PgPool,
    database: backing::Database,
}

impl TestStore {
    async fn create() -> Self {
        let store = Self::empty().await;
        MIGRATOR.run(&store.pool).await.expect("migrate the test's database");
        store
    }

    /// Without the schema.
    async fn empty() -> Self {
        let database = backing::Database::create().await;
        let pool = store::connect(&settings(&database.url())).expect("a pool");
        Self { pool, database }
    }
}

fn settings(url: &str) -> DatabaseSettings {
    DatabaseSettings { url: url.into(), max_connections: 10 }
}
