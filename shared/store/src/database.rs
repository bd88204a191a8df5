//! The way to PostgreSQL: settings, the lazy pool, one error type, and the deadline that every call has.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};

/// The schema; the `migrate` program applies it, services never do.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// How long a call may wait for a connection, also while the server is away.
const ACQUIRE_DEADLINE: Duration = Duration::from_secs(5);
/// How long one call may take once it has a connection.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// The server gives up a little before the caller does, so that its own, better error arrives.
const STATEMENT_TIMEOUT: &str = "9s";
/// A transaction whose holder sleeps keeps locks and old row versions alive.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "60s";
/// A connection that rested longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long that question may take.
const PING_DEADLINE: Duration = Duration::from_millis(500);
/// How long a connection may take to answer that it is ready for the next call.
const RETURN_DEADLINE: Duration = Duration::from_secs(2);

/// Where the database is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// `postgres://user:password@host:port/database`
    pub url: SecretString,
    /// The most connections that one process opens.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
}

fn default_max_connections() -> u32 {
    10
}

/// Why a call to the database failed. `is_transient` says whether the same call may succeed later.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The address in the settings cannot be read. It is not repeated here: it holds the password.
    #[error("database.url is not an address of the form postgres://user:password@host:port/database")]
    Address,
    /// No answer in time; whether the call had an effect is unknown.
    #[error("{action}: no answer from the database within {} s", .deadline.as_secs())]
    Deadline {
        /// What was tried, as "verb the noun".
        action: &'static str,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The call failed.
    #[error("{action}")]
    Failed {
        /// What was tried, as "verb the noun".
        action: &'static str,
        /// What the driver or the server said.
        #[source]
        source: sqlx::Error,
    },
}

impl DatabaseError {
    /// Whether the cause passes by itself: connection, timeout, overload, conflict with another transaction, or a
    /// schema that is still to be migrated. Everything else fails again however often it is tried.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Address => false,
            Self::Deadline { .. } => true,
            Self::Failed { source, .. } => is_transient(source),
        }
    }

    /// Whether the server refuses this user, password or database. It passes for whoever runs on while a password is being
    /// changed, and is a mistake for whoever has just been started.
    #[must_use]
    pub fn is_refused_login(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        source.as_database_error().and_then(|error| error.code()).is_some_and(|code| is_login_code(&code))
    }

    pub(crate) fn failed(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Failed { action, source }
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| is_transient_code(&code)),
        _ => false,
    }
}

/// Codes are SQLSTATE, <https://www.postgresql.org/docs/17/errcodes-appendix.html>.
fn is_transient_code(code: &str) -> bool {
    match code {
        // Cancelled (the statement timeout); a lock not available in time.
        "57014" | "55P03" => true,
        // Shut down by the administrator; crashed; still starting.
        "57P01" | "57P02" | "57P03" => true,
        // A database that is still to be made; a password that is just being changed.
        _ if is_login_code(code) => true,
        // A table or column that the migration to come will add.
        "42P01" | "42703" => true,
        // Read-only: a server that was just demoted.
        "25006" => true,
        // Connection; transaction rollback (serialization, deadlock); resources (disk, memory, connections); system.
        _ => ["08", "40", "53", "58"].iter().any(|class| code.starts_with(class)),
    }
}

fn is_login_code(code: &str) -> bool {
    ["3D000", "28000", "28P01"].contains(&code)
}

/// The pool for `settings`. Returns at once and connects when first used, so that a service starts without its
/// database and recovers with it.
///
/// # Errors
/// [`DatabaseError::Address`] when the URL cannot be parsed.
pub fn connect(settings: &DatabaseSettings) -> Result<PgPool, DatabaseError> {
    let options: PgConnectOptions = settings.url.expose_secret().parse().map_err(|_| DatabaseError::Address)?;
    let options = options.application_name("postroom").options([
        ("statement_timeout", STATEMENT_TIMEOUT),
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(ACQUIRE_DEADLINE)
        // The default asks before every use, a round trip each; a connection that was just in use need not be asked.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for < TRUSTED_IDLE {
                    return Ok(true);
                }
                match tokio::time::timeout(PING_DEADLINE, connection.ping()).await {
                    Ok(answer) => Ok(answer.is_ok()),
                    Err(_) => Ok(false),
                }
            })
        })
        .connect_lazy_with(options);
    Ok(pool)
}

/// Asks the database for a sign of life, for a readiness check.
///
/// # Errors
/// The database cannot be reached, or does not answer in time.
pub async fn ping(pool: &PgPool) -> Result<(), DatabaseError> {
    call(pool, "ping the database", async |connection| connection.ping().await).await
}

/// Runs `work` on a connection of the pool: at most 5 s until there is one, at most 10 s from then on.
pub(crate) async fn call<T>(
    pool: &PgPool,
    action: &'static str,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, DatabaseError> {
    // Apart, so that the driver's many kilobytes are no part of each future around it, most of which never come to call.
    Box::pin(async move {
        let connection = pool.acquire().await.map_err(DatabaseError::failed(action))?;
        let mut lent = Lent { connection, answered: false };
        let outcome = within(action, CALL_DEADLINE, work(&mut lent.connection)).await;
        lent.answered = !matches!(outcome, Err(DatabaseError::Deadline { .. }));
        outcome
    })
    .await
}

/// A connection that is kept over several calls, for a transaction or a lock that outlives one. Unless it is given back, it is
/// closed when dropped, whereupon the server rolls back and unlocks.
#[derive(Debug)]
pub(crate) struct Held(Lent);

impl Held {
    pub(crate) async fn acquire(pool: &PgPool, action: &'static str) -> Result<Self, DatabaseError> {
        let connection = pool.acquire().await.map_err(DatabaseError::failed(action))?;
        Ok(Self(Lent { connection, answered: false }))
    }

    /// Runs `work` on the connection, at most 10 s. After an error the connection is fit for nothing but to be dropped.
    pub(crate) async fn call<T>(
        &mut self,
        action: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        within(action, CALL_DEADLINE, work(&mut self.0.connection)).await
    }

    /// Gives the connection back to the pool. Whoever opened a transaction or took a lock has ended it before.
    pub(crate) fn give_back(mut self) {
        self.0.answered = true;
    }
}

/// Gives `work` on a connection that the caller holds a deadline.
pub(crate) async fn within<T>(
    action: &'static str,
    deadline: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(outcome) => outcome.map_err(DatabaseError::failed(action)),
        Err(_) => Err(DatabaseError::Deadline { action, deadline }),
    }
}

/// A lent connection. Left alone, the pool asks a returned connection for a sign of life and waits for it without limit,
/// also when its call was cut off in the middle: a server that goes silent would take the pool's places one by one.
#[derive(Debug)]
struct Lent {
    connection: PoolConnection<Postgres>,
    answered: bool,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.answered {
            // What the pool does itself on drop, but with a deadline, after which the place is free again.
            tokio::spawn(tokio::time::timeout(RETURN_DEADLINE, self.connection.return_to_pool()));
        } else {
            self.connection.close_on_drop();
        }
    }
}
