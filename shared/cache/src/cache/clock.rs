//! What the clock of Redis shows, as far as this process knows: what it said last, and the time since on a clock that never
//! jumps. It decides how long a value is handed out without a question, and nothing else: leases are Redis's own business.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// So long what Redis said is believed. Its clock may have been set, or another server may have taken over.
const BELIEVED: Duration = Duration::from_secs(10);

/// The clock of one Redis server.
#[derive(Debug)]
pub(crate) struct Clock {
    begun: Instant,
    /// What Redis's clock showed at `begun`, in ms.
    offset: AtomicU64,
    /// How long after `begun` it is no longer believed, in ms.
    believed_until: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { begun: Instant::now(), offset: AtomicU64::new(0), believed_until: AtomicU64::new(0) }
    }
}

impl Clock {
    /// Redis has just said that it is `now`, in ms.
    pub(crate) fn hear(&self, now: u64) {
        let elapsed = self.elapsed();
        self.offset.store(now.saturating_sub(elapsed), Ordering::Relaxed);
        self.believed_until.store(elapsed + BELIEVED.as_millis() as u64, Ordering::Relaxed);
    }

    /// What it shows, in ms; nothing when it has not been heard lately.
    pub(crate) fn now(&self) -> Option<u64> {
        let elapsed = self.elapsed();
        let believed = elapsed < self.believed_until.load(Ordering::Relaxed);
        believed.then(|| self.offset.load(Ordering::Relaxed) + elapsed)
    }

    fn elapsed(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Clock;

    #[tokio::test(start_paused = true)]
    async fn the_clock_goes_on_by_itself_and_is_not_believed_for_ever() {
        let clock = Clock::default();
        assert_eq!(clock.now(), None);
        clock.hear(1_800_000_000_000);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(clock.now(), Some(1_800_000_009_000));
        clock.hear(1_700_000_000_000);
        assert_eq!(clock.now(), Some(1_700_000_000_000));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(clock.now(), None);
    }
}
