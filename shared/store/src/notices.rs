//! Hears what is told by PostgreSQL's `NOTIFY`, through every loss of the database.

use std::convert::Infallible;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::database::{DatabaseError, within};

/// Connecting and `LISTEN` together, or one sign of life.
const DEADLINE: Duration = Duration::from_secs(5);
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// After so long a silence the server is asked for a sign of life: a connection can die without a word.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// What a listener hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// It listens from now on. What was told before was told to nobody.
    Begun,
    /// A notice, with its payload.
    Notice(&'a str),
    /// It hears nothing until it has begun again.
    Interrupted,
}

/// Listens on a channel until `drain`. Whether it hears anything stands in `live`.
pub async fn listen(
    pool: &PgPool,
    channel: &'static str,
    live: &watch::Sender<bool>,
    drain: &CancellationToken,
    mut heard: impl FnMut(Heard<'_>),
) {
    while let Some(Err(error)) = drain.run_until_cancelled(listen_once(pool, channel, live, &mut heard)).await {
        tracing::warn!(channel, error = &error as &(dyn std::error::Error + 'static), "listening was interrupted");
        live.send_replace(false);
        heard(Heard::Interrupted);
        drain.run_until_cancelled(tokio::time::sleep(RECONNECT_PAUSE)).await;
    }
}

async fn listen_once(
    pool: &PgPool,
    channel: &'static str,
    live: &watch::Sender<bool>,
    heard: &mut impl FnMut(Heard<'_>),
) -> Result<Infallible, DatabaseError> {
    let begin = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(channel).await?;
        Ok(listener)
    };
    let mut listener = within("listen for notices", DEADLINE, begin).await?;
    tracing::info!(channel, "listening");
    live.send_replace(true);
    heard(Heard::Begun);
    loop {
        match timeout(LONGEST_SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notice))) => heard(Heard::Notice(notice.payload())),
            Ok(Ok(None)) => return Err(DatabaseError::failed("receive a notice")(sqlx::Error::WorkerCrashed)),
            Ok(Err(error)) => return Err(DatabaseError::failed("receive a notice")(error)),
            Err(_) => {
                let ask = sqlx::query("SELECT 1").execute(&mut listener);
                within("ask whether the database is there", DEADLINE, ask).await?;
            }
        }
    }
}
