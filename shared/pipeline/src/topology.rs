//! Exchanges, queues and bindings as data: one const table of workers and services, expanded into everything that stands
//! on the broker. A row says only what differs; the rest derives from the name.

mod declare;
mod expand;
mod permissions;
mod verify;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::consumer::shared_places;
use crate::jobs::{Job, Noop, PlaceOrder, RenderReport, SendEmail, TranscodeVideo};
use crate::policy::{self, RetryPolicy, Tier};

pub(crate) use declare::{DeclareError, declare};
pub use expand::{Argument, Binding, Exchange, Queue, Scale, Topology};
pub use permissions::definitions;
pub(crate) use verify::{Inspection, Inspections, Inspector, Management};

/// What happened: direct exchange, routing key = the event's type.
pub const EVENTS: &str = "postroom.events";
/// Wait, then return: topic exchange, routing key `<origin queue>.<tier>`.
pub const DELAY: &str = "postroom.delay";
/// Back to the origin queue: topic exchange, same routing key.
pub const RETURN: &str = "postroom.return";
/// Given up: direct exchange, routing key `<worker>.dead`.
pub const DEAD: &str = "postroom.dead";
/// Returns whose origin queue is gone: fanout exchange and queue of that name. Anything in it needs a person.
pub const UNROUTABLE: &str = "postroom.unroutable";

/// What every process of a service is told: fanout exchange, one exclusive queue for each that listens.
pub const CONTROL: &str = "postroom.control";

/// Lifecycle events, for the tracker.
pub const TRACKER_LIFECYCLE: &str = "tracker.lifecycle";
/// Progress events, for the tracker; full, it drops its oldest.
pub const TRACKER_PROGRESS: &str = "tracker.progress";
/// A copy of each dead letter, for the tracker: what the broker itself gave up has no event.
pub const TRACKER_DEAD_LETTERS: &str = "tracker.dead_letters";

/// Work to do: each kind has a direct exchange of its own, `postroom.jobs.<kind>`, with the lane as the routing key. Who may write
/// to it may publish that kind.
#[must_use]
pub fn jobs_exchange(kind: &str) -> String {
    format!("postroom.jobs.{kind}")
}

/// What the routing key of an event ends with that the tracker is to write down because its publisher could not.
pub(crate) const UNRECORDED: &str = "unrecorded";

/// What the tracker consumes.
pub(crate) const TRACKER_QUEUES: [&str; 3] = [TRACKER_LIFECYCLE, TRACKER_PROGRESS, TRACKER_DEAD_LETTERS];

/// How soon a job is due, beside others of its kind. Each lane is a queue of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Somebody waits for it.
    Urgent,
    /// As it comes.
    #[default]
    Normal,
    /// By the thousand, and none of them in a hurry.
    Bulk,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Bulk];

    /// The name in routing keys and queue names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Urgent => "urgent",
            Self::Normal => "normal",
            Self::Bulk => "bulk",
        }
    }
}

/// How long RabbitMQ lets a consumer hold a delivery without settling it, by default, on every version. Then it closes the channel,
/// and gives what was held on it to somebody else.
pub const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// One worker: the kinds that it does from its own queues, and how.
#[derive(Debug)]
pub struct WorkerRow {
    /// First part of its queues' names.
    pub name: &'static str,
    /// The kinds that it does.
    pub kinds: &'static [&'static str],
    /// How its jobs are tried again.
    pub retry: RetryPolicy,
    /// How long one run may take.
    pub timeout: Duration,
    /// How many deliveries a process holds, in each lane, at most: see [`WorkerRow::prefetch()`].
    pub prefetch: Prefetch,
}

/// How many deliveries of a lane a process holds, running and at hand, where none would be held for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefetch {
    /// Twice what runs at once: the next job is at hand when one ends, and no more wait here that another process could do.
    Twice,
    /// No more than what runs at once: a job that lasts is not to wait here while another process is idle.
    Running,
    /// For jobs that take next to no time: enough that no worker waits for the broker, 256 at most.
    Many,
}

impl Prefetch {
    /// The number, where so many jobs run at once.
    #[must_use]
    pub fn with(self, concurrency: u16) -> u16 {
        match self {
            Self::Twice => concurrency.saturating_mul(2),
            Self::Running => concurrency,
            Self::Many => concurrency.saturating_mul(16).min(concurrency.saturating_mul(2).max(256)),
        }
    }
}

/// One service: its broker user has this name, and may do just what the row needs.
#[derive(Debug)]
pub struct ServiceRow {
    /// Its name.
    pub name: &'static str,
    /// The workers whose queues it consumes.
    pub works: &'static [&'static str],
    /// The kinds that it publishes.
    pub publishes: &'static [&'static str],
    /// Whether it consumes the tracker's queues.
    pub tracks: bool,
    /// Whether it tells the workers what to do with single jobs.
    pub controls: bool,
}

/// Every worker there is. A new worker is one row here.
pub const WORKERS: &[WorkerRow] = &[
    WorkerRow {
        name: "email",
        kinds: &[SendEmail::KIND],
        retry: policy::MAILING,
        timeout: Duration::from_secs(60),
        prefetch: Prefetch::Twice,
    },
    WorkerRow {
        name: "noop",
        kinds: &[Noop::KIND],
        retry: policy::RENDERING,
        timeout: Duration::from_secs(30),
        prefetch: Prefetch::Many,
    },
    WorkerRow {
        name: "order",
        kinds: &[PlaceOrder::KIND],
        retry: policy::RENDERING,
        timeout: Duration::from_secs(60),
        prefetch: Prefetch::Twice,
    },
    WorkerRow {
        name: "report",
        kinds: &[RenderReport::KIND],
        retry: policy::RENDERING,
        timeout: Duration::from_secs(120),
        prefetch: Prefetch::Twice,
    },
    WorkerRow {
        name: "video",
        kinds: &[TranscodeVideo::KIND],
        retry: policy::RENDERING,
        timeout: Duration::from_secs(4 * 3600),
        prefetch: Prefetch::Running,
    },
];

/// Every service that speaks to the broker.
pub const SERVICES: &[ServiceRow] = &[
    ServiceRow {
        name: "dispatcher",
        works: &[],
        publishes: &[PlaceOrder::KIND, RenderReport::KIND, SendEmail::KIND, TranscodeVideo::KIND],
        tracks: false,
        controls: false,
    },
    ServiceRow { name: "email-worker", works: &["email"], publishes: &[], tracks: false, controls: false },
    ServiceRow { name: "noop-worker", works: &["noop"], publishes: &[Noop::KIND], tracks: false, controls: false },
    ServiceRow { name: "order-worker", works: &["order"], publishes: &[], tracks: false, controls: false },
    ServiceRow {
        name: "pdf-report",
        works: &["report"],
        publishes: &[SendEmail::KIND],
        tracks: false,
        controls: false,
    },
    ServiceRow {
        name: "video-worker",
        works: &["video"],
        publishes: &[SendEmail::KIND],
        tracks: false,
        controls: false,
    },
    ServiceRow {
        name: "web",
        works: &[],
        publishes: &[PlaceOrder::KIND, RenderReport::KIND, TranscodeVideo::KIND],
        tracks: true,
        controls: true,
    },
];

impl ServiceRow {
    /// How many queues it consumes.
    pub(crate) fn queues(&self) -> usize {
        let tracked = if self.tracks { TRACKER_QUEUES.len() } else { 0 };
        self.works.len() * (Lane::ALL.len() + 1) + tracked
    }
}

/// The row of a worker.
#[must_use]
pub fn worker(name: &str) -> Option<&'static WorkerRow> {
    WORKERS.iter().find(|row| row.name == name)
}

/// The row of the worker that does a kind.
#[must_use]
pub fn worker_of(kind: &str) -> Option<&'static WorkerRow> {
    WORKERS.iter().find(|row| row.kinds.contains(&kind))
}

/// The row of a service.
#[must_use]
pub fn service(name: &str) -> Option<&'static ServiceRow> {
    SERVICES.iter().find(|row| row.name == name)
}

impl WorkerRow {
    /// The queue of a lane: `email.normal`.
    #[must_use]
    pub fn queue(&self, lane: Lane) -> String {
        format!("{}.{}", self.name, lane.as_str())
    }

    /// The queue of jobs that may kill their worker, run one at a time: `email.suspect`.
    #[must_use]
    pub fn suspect_queue(&self) -> String {
        format!("{}.suspect", self.name)
    }

    /// Whether one run may last longer than the broker lets a delivery be held. The queues of such a worker say themselves how long
    /// that is.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.timeout >= CONSUMER_TIMEOUT
    }

    /// How long the broker lets a delivery of this worker's queues be held. Of a long one: as long as one job of each lane
    /// and of `suspect` take one after the other, and a quarter more.
    #[must_use]
    pub fn consumer_timeout(&self, time_scale: f64) -> Duration {
        if self.is_long() { (self.timeout * 5).mul_f64(time_scale) } else { CONSUMER_TIMEOUT }
    }

    /// How many deliveries of a lane a process holds that runs `concurrency` jobs at once: as many as the row says, or so many fewer
    /// that none is held for too long.
    #[must_use]
    pub fn prefetch(&self, concurrency: u16) -> u16 {
        let holds = |held: &u16| self.hold(*held, concurrency) <= self.consumer_timeout(1.0);
        (1..=self.prefetch.with(concurrency)).rev().find(holds).unwrap_or(1)
    }

    /// The longest that a delivery may be held by a process that runs `concurrency` jobs at once, all of them to their timeout.
    /// How long the broker lets a settlement wait is not counted.
    #[must_use]
    pub fn longest_hold(&self, concurrency: u16, time_scale: f64) -> Duration {
        self.hold(self.prefetch(concurrency), concurrency).mul_f64(time_scale)
    }

    /// How long the last of `held` deliveries of a lane is held. While it waits all shared places are taken, and each of them comes
    /// free within a timeout. The lanes take turns: before each of its own lane one of each other lane may begin. Of `suspect` no
    /// more than one runs at a time: either it has a turn like the others, or a place for itself.
    fn hold(&self, held: u16, concurrency: u16) -> Duration {
        let (held, places) = (u32::from(held), u32::from(shared_places(concurrency)));
        let lanes = Lane::ALL.len() as u32;
        // Where each lane holds one, that of a job that runs has no other at hand.
        let turns = if held == 1 { lanes } else { held * (lanes + 1) };
        let mut rounds = turns.div_ceil(places);
        if places > 1 {
            rounds = rounds.min((held * lanes).div_ceil(places - 1));
        }
        self.timeout * (rounds + 1)
    }

    /// The waits for which it has a queue: those of its policy, and the shortest of all for what had to be put back.
    #[must_use]
    pub fn tiers(&self) -> Vec<Tier> {
        let mut tiers = self.retry.tiers();
        if !tiers.contains(&policy::PUT_BACK) {
            tiers.insert(0, policy::PUT_BACK);
        }
        tiers
    }

    /// The queue of a tier: `email.delay.30s`.
    #[must_use]
    pub fn delay_queue(&self, tier: &str) -> String {
        format!("{}.delay.{tier}", self.name)
    }

    /// The queue of its dead letters, which is their routing key too: `email.dead`.
    #[must_use]
    pub fn dead_queue(&self) -> String {
        format!("{}.dead", self.name)
    }
}

/// The name of a tier's early twin, which waits three quarters as long: which of the two a job takes is chance, so that jobs
/// that failed together do not come back together.
#[must_use]
pub fn early(tier: Tier) -> String {
    format!("{}-early", tier.name)
}

#[cfg(test)]
mod tests;
