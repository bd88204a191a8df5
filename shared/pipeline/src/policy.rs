//! How often and when a kind is tried again: data, one policy per worker.

use std::time::Duration;

/// One length of waiting, with the name that its queue and its routing key end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    /// For example `30s`, in `email.delay.30s`.
    pub name: &'static str,
    /// The full length, at time scale 1.
    pub length: Duration,
}

/// 5 seconds.
pub const S5: Tier = Tier { name: "5s", length: Duration::from_secs(5) };
/// 30 seconds.
pub const S30: Tier = Tier { name: "30s", length: Duration::from_secs(30) };
/// 2 minutes.
pub const M2: Tier = Tier { name: "2m", length: Duration::from_secs(120) };
/// 10 minutes.
pub const M10: Tier = Tier { name: "10m", length: Duration::from_secs(600) };
/// 1 hour.
pub const H1: Tier = Tier { name: "1h", length: Duration::from_secs(3600) };

/// How long a job waits that could not be done through no fault of its own.
pub const PUT_BACK: Tier = S5;

/// The waits of a policy, in order; each with how often it is taken.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// The waits, from short to long.
    pub steps: &'static [(Tier, u32)],
}

/// Reports and orders either work within minutes or need a person.
pub const RENDERING: RetryPolicy = RetryPolicy { steps: &[(S5, 1), (S30, 1), (M2, 1), (M10, 1)] };
/// A mail server may be away for a day: 30 s + 2 min + 10 min + 24 h in all.
pub const MAILING: RetryPolicy = RetryPolicy { steps: &[(S30, 1), (M2, 1), (M10, 1), (H1, 24)] };

impl RetryPolicy {
    /// How often a job runs at most, the first run included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        1 + self.steps.iter().map(|(_, times)| times).sum::<u32>()
    }

    /// The wait after the failure of attempt `attempt` (from 1), or `None` when that was the last.
    #[must_use]
    pub fn wait_after(&self, attempt: u32) -> Option<Tier> {
        let mut left = attempt.max(1);
        for (tier, times) in self.steps {
            if left <= *times {
                return Some(*tier);
            }
            left -= times;
        }
        None
    }

    /// The shortest tier that waits at least as long as asked, else the longest.
    #[must_use]
    pub fn at_least(&self, wait: Duration) -> Option<Tier> {
        let tiers = self.tiers();
        tiers.iter().find(|tier| tier.length >= wait).or(tiers.last()).copied()
    }

    /// The tiers, each once, from short to long.
    #[must_use]
    pub fn tiers(&self) -> Vec<Tier> {
        self.steps.iter().map(|(tier, _)| *tier).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{H1, M2, M10, MAILING, RENDERING, S5, S30};

    #[test]
    fn a_render_is_tried_five_times_with_growing_waits() {
        let waits: Vec<_> = (1..=5).map(|attempt| RENDERING.wait_after(attempt)).collect();
        assert_eq!(waits, [Some(S5), Some(S30), Some(M2), Some(M10), None]);
        assert_eq!(RENDERING.attempts(), 5);
    }

    #[test]
    fn a_mail_is_tried_for_a_day() {
        assert_eq!(MAILING.wait_after(4), Some(H1));
        assert_eq!(MAILING.wait_after(27), Some(H1));
        assert_eq!(MAILING.wait_after(28), None);
        assert_eq!(MAILING.attempts(), 28);
    }

    #[test]
    fn a_wait_that_is_asked_for_is_rounded_up_to_a_tier() {
        assert_eq!(MAILING.at_least(Duration::from_secs(31)), Some(M2));
        assert_eq!(MAILING.at_least(Duration::from_secs(999_999)), Some(H1));
        assert_eq!(RENDERING.at_least(Duration::ZERO), Some(S5));
        assert_eq!(RENDERING.at_least(Duration::from_secs(599)), Some(M10));
    }
}
