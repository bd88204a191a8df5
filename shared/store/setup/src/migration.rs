//! Brings a database to today's schema, once it is there to be brought.

use std::time::Duration;

use anyhow::Context;
use sqlx::migrate::MigrateError;
use store::{DatabaseError, MIGRATOR, PgPool};
use tokio::time::{Instant, sleep, timeout};

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that the migrations themselves may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// Applies the migrations that are missing. Waits up to `patience` for a server that is still starting; what will not
/// pass by itself, such as a wrong password, fails at once.
///
/// # Errors
/// The database is not there in time, refuses, or a migration fails.
pub async fn migrate(pool: &PgPool, patience: Duration) -> anyhow::Result<()> {
    let give_up = Instant::now() + patience;
    loop {
        let error = match timeout(DEADLINE, try_once(pool)).await.context("the migrations take too long")? {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let passes = error
            .downcast_ref::<DatabaseError>()
            .is_some_and(|error| error.is_transient() && !error.is_refused_login());
        if !passes || Instant::now() + PAUSE > give_up {
            return Err(error);
        }
        tracing::info!(error = format!("{error:#}"), "the database is not ready yet");
        sleep(PAUSE).await;
    }
}

async fn try_once(pool: &PgPool) -> anyhow::Result<()> {
    let failed = |source| DatabaseError::Failed { action: "connect to the database", source };
    let mut connection = pool.acquire().await.map_err(failed)?;
    // Building an index, or waiting for another that migrates, takes longer than a call may.
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut *connection).await.map_err(failed)?;
    let outcome = MIGRATOR.run(&mut *connection).await;
    // Not given back: the next user of the connection has a right to its time limit.
    connection.close_on_drop();
    outcome.map_err(|error| match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
            DatabaseError::Failed { action: "apply the migrations", source }.into()
        }
        other => anyhow::Error::new(other).context("apply the migrations"),
    })
}
