//! Two-stage shutdown: the first signal drains, the second or the end of the grace period aborts.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long a service may take to finish.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownSettings {
    /// Seconds from the first signal until what still runs is given up. Keep it below the supervisor's own limit.
    pub grace_seconds: u64,
}

/// The two tokens that everything long-lived is given.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Cancelled by the first signal: take nothing new, finish what has begun.
    pub drain: CancellationToken,
    /// Cancelled by the second signal or at the end of the grace period: stop now.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// Listens for SIGTERM and SIGINT from now on.
    ///
    /// # Errors
    /// The signal handlers cannot be installed.
    pub fn on_signals(settings: &ShutdownSettings) -> anyhow::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let (tokens, grace) = (shutdown.clone(), Duration::from_secs(settings.grace_seconds));
        tokio::spawn(async move {
            let mut next = async || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            tokio::select! {
                () = next() => tracing::info!("signal received: draining"),
                // A task that died began the drain; the grace period holds for that too.
                () = tokens.drain.cancelled() => {}
            }
            tokens.drain.cancel();
            tokio::select! {
                () = next() => tracing::warn!("second signal: aborting"),
                () = tokio::time::sleep(grace) => tracing::warn!(grace_seconds = grace.as_secs(), "grace period over: aborting"),
            }
            tokens.abort.cancel();
        });
        Ok(shutdown)
    }
}

/// The long-lived tasks of a service. One that ends before it was asked to ends the service with a failure.
#[derive(Default)]
pub struct Tasks {
    set: JoinSet<(&'static str, anyhow::Result<()>)>,
}

impl Tasks {
    /// Starts a task that must run until the drain.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.set.spawn(async move { (name, task.await) });
    }

    /// Waits until every task has ended.
    ///
    /// # Errors
    /// A task failed, panicked or ended unasked (the others are then drained), or the abort came before the end.
    pub async fn finish(mut self, shutdown: &Shutdown) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        loop {
            let ended = tokio::select! {
                ended = self.set.join_next() => ended,
                () = shutdown.abort.cancelled() => bail!("aborted before all tasks had finished"),
            };
            let failure = match ended {
                // What ended only because of the abort did not finish.
                None if shutdown.abort.is_cancelled() => bail!("aborted before all tasks had finished"),
                None => return outcome,
                Some(Ok((_, Ok(())))) if shutdown.drain.is_cancelled() => None,
                Some(Ok((name, Ok(())))) => Some(anyhow!("task \"{name}\" ended unasked")),
                Some(Ok((name, Err(error)))) => Some(error.context(format!("run task \"{name}\""))),
                Some(Err(error)) => Some(anyhow::Error::new(error).context("run a task")),
            };
            if let Some(error) = failure {
                tracing::error!(error = format!("{error:#}"), "a task failed: draining the others");
                shutdown.drain.cancel();
                outcome = outcome.and(Err(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Shutdown, Tasks};

    #[tokio::test]
    async fn a_task_that_ends_unasked_drains_the_others_and_fails_the_service() {
        let shutdown = Shutdown::default();
        let mut tasks = Tasks::default();
        let drain = shutdown.drain.clone();
        tasks.spawn("short", async { Ok(()) });
        tasks.spawn("long", async move {
            drain.cancelled().await;
            Ok(())
        });
        let error = tasks.finish(&shutdown).await.unwrap_err().to_string();
        assert_eq!(error, "task \"short\" ended unasked");
    }

    #[tokio::test]
    async fn a_drained_service_ends_well() {
        let shutdown = Shutdown::default();
        let mut tasks = Tasks::default();
        let drain = shutdown.drain.clone();
        tasks.spawn("long", async move {
            drain.cancelled().await;
            Ok(())
        });
        shutdown.drain.cancel();
        tasks.finish(&shutdown).await.unwrap();
    }

    #[tokio::test]
    async fn an_abort_does_not_wait_for_a_task_that_hangs() {
        let shutdown = Shutdown::default();
        let mut tasks = Tasks::default();
        tasks.spawn("stuck", std::future::pending());
        shutdown.abort.cancel();
        assert!(tasks.finish(&shutdown).await.is_err());
    }
}
