//! When to look for what is due: told by PostgreSQL's `NOTIFY`, at the next due time, and every few seconds in any case.

use std::time::Duration;

use service::health::PartState;
use store::PgPool;
use store::notices::{self, Heard};
use store::outbox::DUE_CHANNEL;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// However long nothing is due and nobody tells: a notice may be lost when a connection dies silently. Below the minute within
/// which what is put must be told of.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// What is due, but held by another dispatcher, is not to be asked for without end.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// The notices of a channel, heard by one connection for the whole process. Clones share them.
#[derive(Clone, Debug)]
pub struct Due {
    channel: &'static str,
    told: watch::Sender<()>,
    live: watch::Sender<bool>,
}

/// One who waits for the next time to look.
#[derive(Debug)]
pub struct Watch {
    told: watch::Receiver<()>,
}

/// Those of the outbox.
impl Default for Due {
    fn default() -> Self {
        Self::on(DUE_CHANNEL)
    }
}

impl Due {
    /// Those of another channel.
    #[must_use]
    pub fn on(channel: &'static str) -> Self {
        Self { channel, told: watch::channel(()).0, live: watch::channel(false).0 }
    }

    /// Begins to hear. What is told from now on is not missed, also while its hearer does something else.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch { told: self.told.subscribe() }
    }

    /// For `/readyz`: the database, seen by whether notices come from it.
    pub fn readiness(&self) -> impl Fn() -> PartState + Send + Sync + 'static {
        let live = self.live.subscribe();
        move || if *live.borrow() { Ok("listening".to_owned()) } else { Err("reconnecting".to_owned()) }
    }

    /// Listens until `drain`, through every loss of the database.
    ///
    /// # Errors
    /// None; it is a task like others.
    pub async fn listen(self, pool: PgPool, drain: CancellationToken) -> anyhow::Result<()> {
        notices::listen(&pool, self.channel, &self.live, &drain, |heard| match heard {
            // Also at the beginning: whatever was told before was told to nobody.
            Heard::Begun | Heard::Notice(_) => self.told.send_replace(()),
            Heard::Interrupted => {}
        })
        .await;
        Ok(())
    }
}

impl Watch {
    /// Ends when something may be due: after `next`, if that is known, when told, or after a while.
    pub async fn wait(&mut self, next: Option<Duration>) {
        let wait = next.unwrap_or(LONGEST_WAIT).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        tokio::select! {
            told = self.told.changed() => {
                if told.is_err() {
                    // Nobody is left to tell.
                    tokio::time::sleep(wait).await;
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Due, LONGEST_WAIT, SHORTEST_WAIT};

    #[tokio::test(start_paused = true)]
    async fn one_looks_at_the_next_due_time_and_not_without_end() {
        let due = Due::default();
        let mut watch = due.watch();
        for (next, waited) in [
            (None, LONGEST_WAIT),
            (Some(Duration::from_secs(3600)), LONGEST_WAIT),
            (Some(Duration::from_secs(3)), Duration::from_secs(3)),
            (Some(Duration::ZERO), SHORTEST_WAIT),
        ] {
            let start = Instant::now();
            watch.wait(next).await;
            assert_eq!(start.elapsed(), waited, "{next:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_while_one_is_busy_is_not_missed() {
        let due = Due::default();
        let mut watch = due.watch();
        due.told.send_replace(());
        let start = Instant::now();
        watch.wait(None).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        watch.wait(None).await;
        assert_eq!(start.elapsed(), LONGEST_WAIT);
    }
}
