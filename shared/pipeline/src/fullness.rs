//! Which queues are nearly full: looked at once a second, so that new work can be refused while there is still room for what
//! must return to its queue. Knowing nothing refuses nothing; the queue's own limit stands behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::connection::{Link, LinkState, up};
use crate::consumer::says_not_found;
use crate::topology::{Lane, ServiceRow, worker_of};

/// How often the queues are looked at. At 10,000 jobs a second, the tenth of a queue of 200,000 is two seconds' work.
const LOOK: Duration = Duration::from_secs(1);
/// One call to the broker.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// What was seen longer ago than this says nothing any more.
const STALE: Duration = Duration::from_secs(5);

/// What is known of the queues that a service publishes to. Clones share it.
#[derive(Clone, Debug)]
pub struct Fullness {
    /// Not the publishing connection's: blocked, that one answers nothing.
    link: watch::Receiver<LinkState>,
    /// By kind and lane.
    queues: Arc<BTreeMap<(&'static str, Lane), String>>,
    limit: u32,
    seen: Arc<watch::Sender<Option<Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    nearly_full: BTreeSet<String>,
}

#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("no answer from the broker in {} s", CALL_DEADLINE.as_secs())]
    Late(#[from] tokio::time::error::Elapsed),
}

impl Fullness {
    pub(crate) fn new(service: &ServiceRow, link: watch::Receiver<LinkState>, queue_length: u32) -> Self {
        let workers = service.publishes.iter().filter_map(|kind| Some((*kind, worker_of(kind)?)));
        let queues =
            workers.flat_map(|(kind, worker)| Lane::ALL.map(|lane| ((kind, lane), worker.queue(lane)))).collect();
        // Nine tenths; the last tenth is for retries.
        let limit = queue_length - queue_length / 10;
        Self { link, queues: Arc::new(queues), limit, seen: Arc::new(watch::channel(None).0) }
    }

    /// Whether new jobs of the kind should be refused in that lane. `false` where nothing is known.
    #[must_use]
    pub fn is_nearly_full(&self, kind: &str, lane: Lane) -> bool {
        let seen = self.seen.borrow();
        let fresh = seen.as_ref().filter(|seen| seen.at.elapsed() < STALE);
        let queue = self.queues.iter().find(|((known, in_lane), _)| *known == kind && *in_lane == lane);
        fresh.zip(queue).is_some_and(|(seen, (_, queue))| seen.nearly_full.contains(queue))
    }

    /// Looks at the queues once a second until `drain`, through every loss of the broker.
    pub async fn watch(mut self, drain: CancellationToken) {
        while let Some(Some(link)) = drain.run_until_cancelled(up(&mut self.link)).await {
            if let Err(error) = self.session(&link, &drain).await {
                tracing::warn!(%error, "look at the queues");
            }
            self.seen.send_replace(None);
            drain.run_until_cancelled(tokio::time::sleep(LOOK)).await;
        }
    }

    /// Looks over one channel at a time; the last is closed at the end whatever happened.
    async fn session(&self, link: &Link, drain: &CancellationToken) -> Result<(), LookError> {
        let mut channel = open(link).await?;
        let outcome = self.keep_looking(link, &mut channel, drain).await;
        if channel.status().connected() {
            timeout(CALL_DEADLINE, channel.close(200, "done".into())).await??;
        }
        outcome
    }

    async fn keep_looking(
        &self,
        link: &Link,
        channel: &mut Channel,
        drain: &CancellationToken,
    ) -> Result<(), LookError> {
        let mut every = tokio::time::interval(LOOK);
        let mut missing = BTreeSet::new();
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = link.lost.cancelled() => return Ok(()),
                () = drain.cancelled() => return Ok(()),
            }
            let mut nearly_full = BTreeSet::new();
            for queue in self.queues.values() {
                let Some(depth) = drain.run_until_cancelled(depth(channel, queue)).await else { return Ok(()) };
                match depth {
                    Ok(depth) => {
                        missing.remove(queue);
                        if depth >= self.limit {
                            nearly_full.insert(queue.clone());
                        }
                    }
                    Err(LookError::Broker(error)) if says_not_found(&error) => {
                        if missing.insert(queue) {
                            tracing::warn!(queue, "a queue is missing: how full it is is not known");
                        }
                        // The broker has closed the channel over it.
                        *channel = open(link).await?;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.note(nearly_full);
        }
    }

    fn note(&self, nearly_full: BTreeSet<String>) {
        let before = self.seen.send_replace(Some(Seen { at: Instant::now(), nearly_full: nearly_full.clone() }));
        let before = before.map(|seen| seen.nearly_full).unwrap_or_default();
        for queue in nearly_full.difference(&before) {
            tracing::warn!(queue, "the queue is nearly full: new work for it is refused");
        }
        for queue in before.difference(&nearly_full) {
            tracing::info!(queue, "the queue has room again");
        }
    }
}

async fn open(link: &Link) -> Result<Channel, LookError> {
    Ok(timeout(CALL_DEADLINE, link.connection.create_channel()).await??)
}

/// How many messages are ready, which is what the limit of a quorum queue counts.
async fn depth(channel: &Channel, queue: &str) -> Result<u32, LookError> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default());
    Ok(timeout(CALL_DEADLINE, declared).await??.message_count())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tokio::sync::watch;

    use super::{Fullness, STALE};
    use crate::connection::LinkState;
    use crate::topology::{self, Lane};

    fn of_web(queue_length: u32) -> Fullness {
        let down = LinkState::Down { reason: "not asked".to_owned() };
        Fullness::new(topology::service("web").unwrap(), watch::channel(down).1, queue_length)
    }

    #[test]
    fn a_tenth_of_the_length_is_left_for_retries() {
        for (length, limit) in [(10, 9), (15, 14), (100, 90), (200_000, 180_000)] {
            assert_eq!(of_web(length).limit, limit);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_is_nearly_full_is_known_until_that_is_old() {
        let fullness = of_web(100);
        assert!(!fullness.is_nearly_full("report.render", Lane::Bulk));
        fullness.note(BTreeSet::from(["report.bulk".to_owned()]));
        assert!(fullness.is_nearly_full("report.render", Lane::Bulk));
        assert!(!fullness.is_nearly_full("report.render", Lane::Normal));
        assert!(!fullness.is_nearly_full("email.send", Lane::Bulk));
        tokio::time::advance(STALE - Duration::from_millis(1)).await;
        assert!(fullness.is_nearly_full("report.render", Lane::Bulk));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!fullness.is_nearly_full("report.render", Lane::Bulk));
    }
}
