//! Whether the broker is worth asking: after some failures in a row it is not, until it has answered a probe.

use std::sync::Arc;
use std::time::Duration;

use pipeline::Publisher;
use pipeline::jobs::{Job, RenderReport};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// So many publishes without an answer, one after the other, and no request waits for the broker any more.
const FAILURES: u32 = 3;
/// Between two probes.
const PROBE_PAUSE: Duration = Duration::from_millis(500);

/// Counts the failures in a row. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    failures: Arc<watch::Sender<u32>>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: Arc::new(watch::channel(0).0) }
    }
}

impl Breaker {
    /// Whether requests are to go without the broker.
    pub(crate) fn is_open(&self) -> bool {
        *self.failures.borrow() >= FAILURES
    }

    /// The broker has answered a publish, whatever it said.
    pub(crate) fn answered(&self) {
        self.set(|_| 0);
    }

    /// A publish got no answer, or could not be sent.
    pub(crate) fn failed(&self) {
        self.set(|failures| (failures + 1).min(FAILURES));
    }

    /// The broker has answered a probe, which is less than a job: the next failure opens the breaker again.
    fn probed(&self) {
        self.set(|failures| failures.min(FAILURES - 1));
    }

    fn set(&self, change: impl FnOnce(u32) -> u32) {
        let before = self.is_open();
        self.failures.send_if_modified(|failures| {
            let next = change(*failures);
            let changed = next != *failures;
            *failures = next;
            changed
        });
        match (before, self.is_open()) {
            (false, true) => tracing::warn!("the broker does not answer: work goes to the outbox"),
            (true, false) => tracing::info!("the broker answers again"),
            _ => {}
        }
    }

    /// Probes the broker, one probe at a time, while the breaker is open; until `drain`.
    pub(crate) async fn keep_probing(&self, publisher: &Publisher, drain: &CancellationToken) {
        while drain.run_until_cancelled(self.opened()).await.is_some() {
            if drain.run_until_cancelled(tokio::time::sleep(PROBE_PAUSE)).await.is_none() {
                return;
            }
            if publisher.probe(RenderReport::KIND).await.is_ok() {
                self.probed();
            }
        }
    }

    /// Ends when the breaker is open.
    async fn opened(&self) {
        let mut failures = self.failures.subscribe();
        let opened = failures.wait_for(|failures| *failures >= FAILURES).await;
        debug_assert!(opened.is_ok(), "the sender lives as long as this");
    }
}

#[cfg(test)]
mod tests {
    use super::{Breaker, FAILURES};

    fn failing(times: u32) -> Breaker {
        let breaker = Breaker::default();
        (0..times).for_each(|_| breaker.failed());
        breaker
    }

    #[test]
    fn it_opens_after_three_failures_in_a_row() {
        assert!(!failing(FAILURES - 1).is_open());
        assert!(failing(FAILURES).is_open());
        let interrupted = failing(FAILURES - 1);
        interrupted.answered();
        interrupted.failed();
        assert!(!interrupted.is_open());
    }

    #[test]
    fn a_job_that_is_answered_closes_it_and_a_probe_lets_jobs_try() {
        let breaker = failing(FAILURES + 5);
        breaker.probed();
        assert!(!breaker.is_open());
        breaker.failed();
        assert!(breaker.is_open(), "a probe alone is no proof");
        breaker.answered();
        breaker.failed();
        assert!(!breaker.is_open());
    }

    #[test]
    fn a_probe_spoils_nothing() {
        let breaker = Breaker::default();
        breaker.probed();
        breaker.failed();
        breaker.failed();
        assert!(!breaker.is_open());
    }
}
