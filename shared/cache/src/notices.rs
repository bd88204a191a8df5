//! Hears what is published on a channel of a Redis server, through every loss of it.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{Redis, RedisError};

/// Connecting and subscribing together, or one sign of life.
const DEADLINE: Duration = Duration::from_secs(2);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// After so long a silence the server is asked for a sign of life: a connection can die without a word.
const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// What a listener hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// It listens from now on. What was published before was published to nobody.
    Begun,
    /// What was published, if it is text.
    Notice(&'a str),
    /// It hears nothing until it has begun again.
    Interrupted,
}

impl Redis {
    /// Listens on a channel, by a connection of its own, until `drain`. Whether it hears anything stands in `live`.
    pub async fn listen(
        &self,
        channel: &str,
        live: &watch::Sender<bool>,
        drain: &CancellationToken,
        mut heard: impl FnMut(Heard<'_>),
    ) {
        while let Some(Err(error)) = drain.run_until_cancelled(self.listen_once(channel, live, &mut heard)).await {
            if live.send_replace(false) {
                tracing::warn!(channel, error = &error as &dyn std::error::Error, "listening was interrupted");
                heard(Heard::Interrupted);
            }
            drain.run_until_cancelled(sleep(RECONNECT_PAUSE)).await;
        }
    }

    async fn listen_once(
        &self,
        channel: &str,
        live: &watch::Sender<bool>,
        heard: &mut impl FnMut(Heard<'_>),
    ) -> Result<Infallible, RedisError> {
        let begin = async {
            let (mut sink, notices) = self.client().get_async_pubsub().await?.split();
            sink.subscribe(channel).await?;
            Ok((sink, notices))
        };
        let (mut sink, mut notices) = within("listen on a channel", begin).await?;
        tracing::info!(channel, "listening");
        live.send_replace(true);
        heard(Heard::Begun);
        loop {
            match timeout(LONGEST_SILENCE, notices.next()).await {
                Ok(Some(notice)) => match std::str::from_utf8(notice.get_payload_bytes()) {
                    Ok(text) => heard(Heard::Notice(text)),
                    Err(_) => tracing::warn!(channel, "a notice that is no text"),
                },
                Ok(None) => return Err(RedisError::Away { action: "receive a notice" }),
                Err(_) => within("ask whether redis is there", sink.ping::<redis::Value>()).await.map(drop)?,
            }
        }
    }
}

async fn within<T>(
    action: &'static str,
    call: impl Future<Output = Result<T, redis::RedisError>>,
) -> Result<T, RedisError> {
    let outcome = timeout(DEADLINE, call).await.map_err(|_| RedisError::Deadline { action, deadline: DEADLINE })?;
    outcome.map_err(|source| RedisError::Failed { action, source })
}
