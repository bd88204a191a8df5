//! Where the time of a strike goes.

use std::fmt;
use std::time::{Duration, Instant};

/// The parts of a strike, one after the other, each with how long it took.
#[derive(Debug)]
pub(crate) struct Phases {
    since: Instant,
    ended: Vec<(&'static str, Duration)>,
}

impl Phases {
    pub(crate) fn start() -> Self {
        Self { since: Instant::now(), ended: Vec::new() }
    }

    /// What lasted until now, and since the last that ended.
    pub(crate) fn end(&mut self, phase: &'static str) {
        let now = Instant::now();
        self.ended.push((phase, now - self.since));
        self.since = now;
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phases = self.ended.iter().map(|(phase, took)| format!("{phase} {:.1}", took.as_secs_f64()));
        formatter.write_str(&phases.collect::<Vec<_>>().join(", "))
    }
}
