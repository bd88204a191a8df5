//! The programs' work on a real PostgreSQL; every test has a database of its own.
//! `compose/up postgres` starts the server.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod migration;
mod sample_callers;
mod sample_data;

use std::time::Duration;

use backing::Database;
use store::{DatabaseSettings, PgPool};
use store_setup::migration::migrate;

const PATIENCE: Duration = Duration::from_secs(20);

fn pool(url: &str) -> PgPool {
    store::connect(&DatabaseSettings { url: url.into(), max_connections: 5 }).expect("a pool")
}

async fn migrated() -> (Database, PgPool) {
    let database = Database::create().await;
    let pool = pool(&database.url());
    migrate(&pool, PATIENCE).await.expect("migrate the test's database");
    (database, pool)
}
