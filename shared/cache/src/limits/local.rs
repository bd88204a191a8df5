//! The same meters in the memory of one process, for while Redis is away.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Charge, Reading};

/// Subjects that are told apart, of all limits together. Further ones share one meter per limit: that is strict, and bounded.
const MOST: usize = 50_000;
/// Between two searches for meters that are whole again, while there is no room.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// Whoever is not told apart. No subject is empty.
const OTHERS: &str = "";

/// Meters by limit and subject.
#[derive(Debug, Default)]
pub(super) struct Local(Mutex<Meters>);

#[derive(Debug, Default)]
struct Meters {
    /// When each quota is whole again.
    whole_at: HashMap<(&'static str, String), Instant>,
    swept_at: Option<Instant>,
}

impl Local {
    /// Takes from all meters or from none, as the script does.
    pub(super) fn take(&self, charges: &[Charge<'_>], now: Instant) -> Vec<Reading> {
        // No panic leaves the meters half written; at worst one action has not been counted.
        let mut meters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = charges.iter().map(|charge| meters.key(charge, now)).collect::<Vec<_>>();
        let readings = charges.iter().zip(&keys).map(|(charge, key)| {
            let level = meters.whole_at.get(key).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            let level = u64::try_from(level.as_micros()).unwrap_or(u64::MAX).min(charge.limit.full());
            (level, (level + charge.price()).saturating_sub(charge.limit.full()))
        });
        let mut readings = readings.collect::<Vec<Reading>>();
        if readings.iter().all(|(_, wait)| *wait == 0) {
            for ((charge, key), (level, _)) in charges.iter().zip(keys).zip(&mut readings) {
                *level += charge.price();
                meters.whole_at.insert(key, now + Duration::from_micros(*level));
            }
        }
        readings
    }
}

impl Meters {
    fn key(&mut self, charge: &Charge<'_>, now: Instant) -> (&'static str, String) {
        let key = (charge.limit.name, charge.subject.to_owned());
        if self.whole_at.len() < MOST || self.whole_at.contains_key(&key) {
            return key;
        }
        if self.swept_at.is_none_or(|at| now - at >= SWEEP_PAUSE) {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            self.swept_at = Some(now);
        }
        if self.whole_at.len() < MOST { key } else { (charge.limit.name, OTHERS.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::{Charge, Limit, Verdict, verdict};
    use super::{Local, MOST};

    const TEN: Limit = Limit::new("ten", 10, Duration::from_secs(10));
    const FIVE: Limit = Limit::new("five", 5, Duration::from_secs(10));

    fn of(limit: Limit, subject: &str, cost: u32) -> Charge<'_> {
        Charge { limit, subject, cost }
    }

    fn ask(local: &Local, charges: &[Charge<'_>], now: Instant) -> Verdict {
        verdict(charges, &local.take(charges, now))
    }

    fn refused_for(verdict: &Verdict) -> Option<Duration> {
        match verdict {
            Verdict::Allowed(_) => None,
            Verdict::Refused { retry_after, .. } => Some(*retry_after),
        }
    }

    #[test]
    fn a_quota_is_given_at_once_and_comes_back_evenly() {
        let (local, start) = (Local::default(), Instant::now());
        for taken in 1..=10 {
            let Verdict::Allowed(standings) = ask(&local, &[of(TEN, "a", 1)], start) else { panic!("{taken}") };
            assert_eq!(
                (standings[0].remaining, standings[0].whole_in),
                (10 - taken, Duration::from_secs(taken.into()))
            );
        }
        let second = Duration::from_secs(1);
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "a", 1)], start)), Some(second));
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "a", 3)], start)), Some(3 * second));
        let almost = start + second - Duration::from_micros(1);
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "a", 1)], almost)), Some(Duration::from_micros(1)));
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "a", 1)], start + second)), None);
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "b", 10)], start)), None, "another's quota is its own");
    }

    #[test]
    fn what_costs_more_than_the_quota_takes_all_of_it() {
        let (local, start) = (Local::default(), Instant::now());
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "a", 11)], start)), None);
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "a", 11)], start)), Some(TEN.window));
    }

    #[test]
    fn a_refusal_takes_nothing_from_any_limit() {
        let (local, start) = (Local::default(), Instant::now());
        let both = [of(TEN, "a", 1), of(FIVE, "a", 5)];
        assert_eq!(refused_for(&ask(&local, &both, start)), None);
        for _ in 0..20 {
            assert_eq!(refused_for(&ask(&local, &both, start)), Some(FIVE.window));
        }
        let Verdict::Allowed(standings) = ask(&local, &[of(TEN, "a", 0)], start) else { panic!() };
        assert_eq!(standings[0].remaining, 9);
    }

    #[test]
    fn subjects_without_end_are_bounded_and_still_limited() {
        let (local, start) = (Local::default(), Instant::now());
        for number in 0..MOST {
            assert_eq!(refused_for(&ask(&local, &[of(TEN, &number.to_string(), 1)], start)), None);
        }
        let allowed = (0..100).filter(|number| {
            let subject = format!("late-{number}");
            refused_for(&ask(&local, &[of(TEN, &subject, 1)], start)).is_none()
        });
        assert_eq!(allowed.count(), 10, "they share one quota");
        assert_eq!(local.0.lock().unwrap().whole_at.len(), MOST + 1);
        // Who was told apart still is, and room is made once quotas are whole again.
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "0", 9)], start)), None);
        let later = start + Duration::from_secs(2);
        assert_eq!(refused_for(&ask(&local, &[of(TEN, "latest", 10)], later)), None);
        assert!(local.0.lock().unwrap().whole_at.len() < 10);
    }
}
