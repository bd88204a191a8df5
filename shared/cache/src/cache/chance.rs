//! What is left to chance: when a value is refreshed early, how long it is fresh, how long a waiter sleeps.

use std::time::Duration;

/// By how much of itself a time is longer or shorter.
const JITTER: f64 = 0.1;
const POLL: Duration = Duration::from_millis(15);
const POLL_JITTER: f64 = 0.5;

/// How many load costs before its expiry a value counts as expired, for one reader. The more readers, the earlier one of them
/// draws a high number: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015, with
/// beta = 1.
pub(crate) fn early() -> f64 {
    -(1.0 - rand::random::<f64>()).ln()
}

/// Whether a value is fresh for the reader who drew `early`. `look.lua` has the same rule. Times in ms.
pub(crate) fn is_fresh(now: u64, expiry: u64, cost: u64, early: f64) -> bool {
    now as f64 + cost as f64 * early < expiry as f64
}

/// How long what is stored now is fresh.
pub(crate) fn lifetime(time: Duration) -> Duration {
    around(time, JITTER)
}

/// How long a waiter sleeps before it looks again.
pub(crate) fn poll() -> Duration {
    around(POLL, POLL_JITTER)
}

fn around(time: Duration, jitter: f64) -> Duration {
    time.mul_f64(rand::random_range(1.0 - jitter..=1.0 + jitter))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{early, is_fresh, lifetime, poll};

    #[test]
    fn a_value_is_refreshed_early_as_often_as_the_formula_says() {
        // Half a load cost before the expiry: P(early >= 0.5) = e^-0.5.
        let draws = 100_000;
        let refreshed = (0..draws).filter(|_| !is_fresh(1_000, 1_100, 200, early())).count();
        let share = refreshed as f64 / f64::from(draws);
        assert!((share - (-0.5f64).exp()).abs() < 0.02, "{share}");
    }

    #[test]
    fn a_value_is_fresh_long_before_its_expiry_and_never_after_it() {
        assert!((0..10_000).all(|_| is_fresh(0, 60_000, 200, early())));
        assert!((0..10_000).all(|_| !is_fresh(60_000, 60_000, 200, early())));
    }

    #[test]
    fn times_are_spread_within_their_bounds() {
        let lifetimes = (0..1_000).map(|_| lifetime(Duration::from_secs(100)).as_millis()).collect::<Vec<_>>();
        assert!(lifetimes.iter().all(|time| (90_000..=110_000).contains(time)));
        assert!(lifetimes.iter().any(|time| *time < 92_000) && lifetimes.iter().any(|time| *time > 108_000));
        assert!((0..1_000).all(|_| (7_500..=22_500).contains(&poll().as_micros())));
    }
}
