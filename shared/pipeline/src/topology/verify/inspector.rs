//! Looks at the broker when a connection is set up and from time to time, and says what has changed, once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::live::Management;
use super::{Difference, compare};
use crate::connection::reason;
use crate::topology::Topology;

/// Between two looks at a broker to which the connections stand: policies change without a word.
const EVERY: Duration = Duration::from_secs(60);
/// How long a connection's set-up waits for a look; longer than the API's own deadline.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between a queue's declaration and its bindings, by whoever is just declaring it.
const DECLARING: Duration = Duration::from_millis(500);
/// Differences that are told in one line; the log has them all.
const SHOWN: usize = 5;

/// What a look found.
#[derive(Clone, Debug, Default)]
pub(crate) enum Inspection {
    /// Nobody has looked yet.
    #[default]
    Pending,
    /// The broker cannot be looked at.
    Unseen(String),
    /// What differs.
    Seen(Vec<Difference>),
}

impl Inspection {
    fn differences(&self) -> &[Difference] {
        match self {
            Self::Seen(differences) => differences,
            Self::Pending | Self::Unseen(_) => &[],
        }
    }

    fn is_mendable(&self) -> bool {
        self.differences().iter().any(|difference| !difference.stays())
    }

    /// Why a declaration is refused, where this tells it.
    pub(crate) fn refused(&self) -> Option<String> {
        let fixed = self.differences().iter().filter(|difference| matches!(difference, Difference::Fixed { .. }));
        told(fixed)
    }

    /// For `/readyz`: what differs and stays so.
    pub(crate) fn readiness(&self) -> Result<String, String> {
        match self {
            Self::Pending => Ok("not compared yet".to_owned()),
            Self::Unseen(reason) => Ok(format!("not compared: {reason}")),
            Self::Seen(differences) => told(differences.iter().filter(|difference| difference.stays()))
                .map_or_else(|| Ok("as declared".to_owned()), Err),
        }
    }
}

fn told<'a>(differences: impl Iterator<Item = &'a Difference>) -> Option<String> {
    let all: Vec<String> = differences.map(ToString::to_string).collect();
    let more = all.len().saturating_sub(SHOWN);
    let text = all.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(" | ");
    match (text.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(text),
        (false, more) => Some(format!("{text} | and {more} more")),
    }
}

/// The task that looks.
#[derive(Debug)]
pub(crate) struct Inspector {
    inspections: Inspections,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What it found; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Inspections {
    latest: watch::Receiver<Inspection>,
    ask: Arc<Notify>,
}

impl Inspector {
    /// Starts and returns at once; it looks when it is first asked to.
    pub(crate) fn start(mut management: Management, own: Topology, all: Topology, time_scale: f64) -> Self {
        let (sender, latest) = watch::channel(Inspection::default());
        let (ask, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let every = EVERY.mul_f64(time_scale).max(Duration::from_secs(1));
        let asked = Arc::clone(&ask);
        let looking = async move {
            asked.notified().await;
            loop {
                let mut look = async || match management.look().await {
                    Ok(live) => Inspection::Seen(compare(&own, &all, &live)),
                    Err(error) => Inspection::Unseen(reason(&error)),
                };
                let mut found = look().await;
                if found.is_mendable() {
                    tokio::time::sleep(DECLARING).await;
                    found = look().await;
                }
                log(&sender.borrow(), &found);
                sender.send_replace(found);
                // Asked or not, whichever comes first.
                drop(timeout(every, asked.notified()).await);
            }
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(looking).await;
        });
        Self { inspections: Inspections { latest, ask }, stop, task }
    }

    pub(crate) fn inspections(&self) -> Inspections {
        self.inspections.clone()
    }

    pub(crate) async fn close(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the comparison of the topology failed");
        }
    }
}

impl Inspections {
    /// Has the broker looked at now. What was known before where no answer comes in time.
    pub(crate) async fn fresh(&mut self) -> Inspection {
        self.latest.mark_unchanged();
        self.ask.notify_one();
        drop(timeout(PATIENCE, self.latest.changed()).await);
        self.latest()
    }

    /// Ends when a look that was not heard of yet finds what declaring would mend.
    pub(crate) async fn mendable(&mut self) {
        while self.latest.changed().await.is_ok() {
            if self.latest.borrow_and_update().is_mendable() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    pub(crate) fn latest(&self) -> Inspection {
        self.latest.borrow().clone()
    }
}

/// Says what is new, and that it is over when it is.
fn log(before: &Inspection, now: &Inspection) {
    let (known, found) = (before.differences(), now.differences());
    for difference in found.iter().filter(|difference| !known.contains(difference)) {
        if difference.stays() {
            tracing::error!(%difference, "the broker is not as the topology says");
        } else {
            tracing::warn!(%difference, "the broker is not as the topology says");
        }
    }
    match (before, now) {
        (Inspection::Pending | Inspection::Seen(_), Inspection::Unseen(reason)) => {
            tracing::warn!(reason, "the broker cannot be compared with the topology; the service works without that");
        }
        (Inspection::Unseen(_) | Inspection::Pending, Inspection::Seen(found)) if found.is_empty() => {
            tracing::info!("the broker is as the topology says");
        }
        (Inspection::Seen(before), Inspection::Seen(found)) if found.is_empty() && !before.is_empty() => {
            tracing::info!("the broker is as the topology says again");
        }
        _ => {}
    }
}
