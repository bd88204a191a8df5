//! A database of its own for one test.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// An empty database, dropped with its last connection when this is dropped.
#[derive(Debug)]
pub struct Database {
    name: String,
}

impl Database {
    /// Makes one.
    ///
    /// # Panics
    /// When PostgreSQL does not answer.
    pub async fn create() -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        execute(format!("CREATE DATABASE {name}")).await;
        Self { name }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        database_url(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = &self.name;
        // Ours only: `WITH (FORCE)` fails where the server's own vacuum is at work in it, and without it that one makes way.
        let end = format!(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}' AND usename = current_user"
        );
        crate::run_to_end(async move {
            execute(end).await;
            execute(format!("DROP DATABASE {name}")).await;
        });
    }
}

async fn execute(statement: String) {
    let mut connection = PgConnection::connect(&database_url("postroom"))
        .await
        .expect("PostgreSQL does not answer: start it with `compose/up rabbitmq postgres mail`");
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.expect("create or drop a database");
    connection.close().await.expect("close the connection");
}

/// Where a database is. The composed system's is `postroom`.
#[must_use]
pub fn database_url(database: &str) -> String {
    let (password, port) = (crate::composed("POSTROOM_DATABASE_PASSWORD"), crate::composed("POSTROOM_POSTGRES_PORT"));
    format!("postgres://postroom:{password}@127.0.0.1:{port}/{database}")
}
