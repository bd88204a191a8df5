//! What is cached: the versions of a few items in PostgreSQL.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// The items of one test.
#[derive(Clone)]
pub(crate) struct Items {
    pool: PgPool,
}

impl Items {
    pub(crate) async fn connect(url: &str) -> anyhow::Result<Self> {
        // A crash of the server is no part of these tests, and the disk is slow.
        let options = url.parse::<PgConnectOptions>()?.options([("synchronous_commit", "off")]);
        let pool = PgPoolOptions::new().min_connections(2).max_connections(4).acquire_timeout(Duration::from_secs(60));
        Ok(Self { pool: pool.connect_with(options).await? })
    }

    pub(crate) async fn read(&self, item: i32) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query_scalar("SELECT version FROM items WHERE id = $1").bind(item).fetch_optional(&self.pool).await
    }

    /// Counts a load, also one that comes to no end.
    pub(crate) async fn count(&self) -> Result<i64, sqlx::Error> {
        sqlx::query_scalar("SELECT nextval('loads')").fetch_one(&self.pool).await
    }

    /// The same in so long a time, or as long as somebody holds the items' lock.
    pub(crate) async fn read_slowly(&self, item: i32, time: Duration) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query("SELECT pg_sleep($1), pg_advisory_xact_lock_shared(1)")
            .bind(time.as_secs_f64())
            .execute(&self.pool)
            .await?;
        self.read(item).await
    }

    /// The new version, committed.
    pub(crate) async fn write(&self, item: i32) -> Result<i64, sqlx::Error> {
        let write = "UPDATE items SET version = version + 1 WHERE id = $1 RETURNING version";
        sqlx::query_scalar(write).bind(item).fetch_one(&self.pool).await
    }
}
