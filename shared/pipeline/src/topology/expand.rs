//! From the table's rows to every exchange, queue and binding, with all arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::{
    CONTROL, DEAD, DELAY, EVENTS, Lane, RETURN, SERVICES, ServiceRow, TRACKER_DEAD_LETTERS, TRACKER_LIFECYCLE,
    TRACKER_PROGRESS, UNRECORDED, UNROUTABLE, WORKERS, WorkerRow, early, jobs_exchange, worker, worker_of,
};

/// The broker's own limit of deliveries, the last resort for a message that kills its worker. Stated, because the default
/// differs by version: none before 4.0, 20 since.
const DELIVERY_LIMIT: i64 = 20;
/// Queues that people take from by hand (dead letters) must never lose a message to the limit. It cannot be switched off the
/// same way on every version (a negative limit means 0 on 3.x), so it is out of reach instead.
const DELIVERY_LIMIT_OUT_OF_REACH: i64 = 1_000_000_000;
/// In the suspects' queue one message at a time is delivered: what is returned there was killing its worker alone.
const SUSPECT_DELIVERY_LIMIT: i64 = 3;
/// Progress is news of the moment: the oldest is dropped.
const PROGRESS_QUEUE_LENGTH: i64 = 10_000;

/// What a deployment may choose of the topology. It becomes part of the queues: queues that stand keep what they have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Every wait is multiplied by it.
    pub time: f64,
    /// Messages ready in a work queue; further ones are refused, and the publisher is told.
    pub queue_length: u32,
}

impl Scale {
    /// That of the product.
    pub const FULL: Self = Self { time: 1.0, queue_length: 200_000 };
}

/// Everything that one service, or all together, declare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// By name.
    pub exchanges: BTreeMap<String, Exchange>,
    /// By name.
    pub queues: BTreeMap<String, Queue>,
    /// In order, each once.
    pub bindings: BTreeSet<Binding>,
}

/// A durable exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// `topic`, `direct` or `fanout`.
    pub kind: &'static str,
    /// Where what no binding matches goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternate: Option<&'static str>,
}

/// A durable queue with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Queue {
    /// By name. They are part of the queue's identity: changing one means a new queue.
    pub arguments: BTreeMap<&'static str, Argument>,
}

/// The value of a queue argument.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Argument {
    /// A number: a limit, or milliseconds.
    Int(i64),
    /// A name.
    Text(String),
}

/// A queue bound to an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Binding {
    /// From where.
    pub exchange: String,
    /// The routing key, or for a topic exchange its pattern.
    pub key: String,
    /// To which queue.
    pub queue: String,
}

impl Topology {
    /// Everything.
    #[must_use]
    pub fn all(scale: Scale) -> Self {
        let mut topology = Self::default();
        for row in SERVICES {
            topology.add_service(row, scale);
        }
        topology
    }

    /// What one service declares: the exchanges, the queues of the kinds that it does or publishes, and the tracker's, so that no
    /// final event is lost while nothing that tracks has ever run.
    #[must_use]
    pub fn of(service: &ServiceRow, scale: Scale) -> Self {
        let mut topology = Self::default();
        topology.add_service(service, scale);
        topology
    }

    fn add_service(&mut self, row: &ServiceRow, scale: Scale) {
        self.add_exchanges();
        self.add_tracker();
        let own = row.works.iter().filter_map(|name| worker(name));
        let published = row.publishes.iter().filter_map(|kind| worker_of(kind));
        for row in own.chain(published) {
            self.add_worker(row, scale);
        }
    }

    fn add_exchanges(&mut self) {
        let plain =
            [(EVENTS, "direct"), (DELAY, "topic"), (DEAD, "direct"), (UNROUTABLE, "fanout"), (CONTROL, "fanout")];
        for (name, kind) in plain {
            self.add_exchange(name, kind);
        }
        self.exchanges.insert(RETURN.to_owned(), Exchange { kind: "topic", alternate: Some(UNROUTABLE) });
        self.add_queue(UNROUTABLE, quorum(DELIVERY_LIMIT_OUT_OF_REACH));
        self.bind(UNROUTABLE, "", UNROUTABLE);
    }

    fn add_tracker(&mut self) {
        // Returned by every restart while the store is away; what can never be kept is rejected by name.
        let mut lifecycle = quorum(DELIVERY_LIMIT_OUT_OF_REACH);
        dead_letter(&mut lifecycle, "tracker.dead");
        self.add_queue(TRACKER_LIFECYCLE, lifecycle);
        // Without `job.queued`, which whoever accepts a job writes down itself.
        self.bind(EVENTS, &format!("job.queued.{UNRECORDED}"), TRACKER_LIFECYCLE);
        for event in ["started", "retrying", "succeeded", "refused", "cancelled", "dead"] {
            self.bind(EVENTS, &format!("job.{event}"), TRACKER_LIFECYCLE);
        }

        let mut progress = quorum(DELIVERY_LIMIT);
        progress.insert("x-overflow", Argument::Text("drop-head".to_owned()));
        progress.insert("x-max-length", Argument::Int(PROGRESS_QUEUE_LENGTH));
        self.add_queue(TRACKER_PROGRESS, progress);
        self.bind(EVENTS, "job.progressed", TRACKER_PROGRESS);

        let mut letters = quorum(DELIVERY_LIMIT_OUT_OF_REACH);
        dead_letter(&mut letters, "tracker.dead");
        self.add_queue(TRACKER_DEAD_LETTERS, letters);
        for row in WORKERS {
            self.bind(DEAD, &row.dead_queue(), TRACKER_DEAD_LETTERS);
        }
        self.add_dead_queue("tracker.dead");
    }

    fn add_worker(&mut self, row: &WorkerRow, scale: Scale) {
        for kind in row.kinds {
            self.add_exchange(&jobs_exchange(kind), "direct");
        }
        for lane in Lane::ALL {
            let queue = row.queue(lane);
            let mut arguments = quorum(DELIVERY_LIMIT);
            dead_letter(&mut arguments, &row.dead_queue());
            arguments.insert("x-max-length", Argument::Int(scale.queue_length.into()));
            hold_long(&mut arguments, row, scale);
            self.add_queue(&queue, arguments);
            for kind in row.kinds {
                self.bind(&jobs_exchange(kind), lane.as_str(), &queue);
            }
            self.bind(RETURN, &format!("{queue}.*"), &queue);
        }
        // Without a length: a worker that moves a message there must not be refused.
        let suspect = row.suspect_queue();
        let mut arguments = quorum(SUSPECT_DELIVERY_LIMIT);
        dead_letter(&mut arguments, &row.dead_queue());
        hold_long(&mut arguments, row, scale);
        self.add_queue(&suspect, arguments);
        self.bind(RETURN, &format!("{suspect}.*"), &suspect);
        for tier in row.tiers() {
            self.add_delay(row, tier.name, tier.length, scale);
            self.add_delay(row, &early(tier), tier.length.mul_f64(0.75), scale);
        }
        self.add_dead_queue(&row.dead_queue());
    }

    fn add_delay(&mut self, row: &WorkerRow, tier: &str, wait: Duration, scale: Scale) {
        let queue = row.delay_queue(tier);
        let mut arguments = quorum(DELIVERY_LIMIT_OUT_OF_REACH);
        // No routing key: an expired message keeps its own, `<origin queue>.<tier>`, and finds back by it.
        arguments.insert("x-dead-letter-exchange", Argument::Text(RETURN.to_owned()));
        arguments.insert("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned()));
        arguments.insert("x-message-ttl", millis(wait, scale));
        self.add_queue(&queue, arguments);
        self.bind(DELAY, &format!("{}.*.{tier}", row.name), &queue);
    }

    fn add_dead_queue(&mut self, name: &str) {
        self.add_queue(name, quorum(DELIVERY_LIMIT_OUT_OF_REACH));
        self.bind(DEAD, name, name);
    }

    fn add_exchange(&mut self, name: &str, kind: &'static str) {
        self.exchanges.insert(name.to_owned(), Exchange { kind, alternate: None });
    }

    fn add_queue(&mut self, name: &str, arguments: BTreeMap<&'static str, Argument>) {
        self.queues.insert(name.to_owned(), Queue { arguments });
    }

    fn bind(&mut self, exchange: &str, key: &str, queue: &str) {
        let (exchange, key, queue) = (exchange.to_owned(), key.to_owned(), queue.to_owned());
        self.bindings.insert(Binding { exchange, key, queue });
    }
}

/// What every queue has. `reject-publish` is what at-least-once dead lettering needs, with a length limit or without.
fn quorum(delivery_limit: i64) -> BTreeMap<&'static str, Argument> {
    BTreeMap::from([
        ("x-queue-type", Argument::Text("quorum".to_owned())),
        ("x-delivery-limit", Argument::Int(delivery_limit)),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ])
}

/// A job that lasts for hours is held for as long. RabbitMQ counts this from 3.12 on; before, the argument is only kept, and the
/// broker's own `consumer_timeout` has to be raised.
fn hold_long(arguments: &mut BTreeMap<&'static str, Argument>, row: &WorkerRow, scale: Scale) {
    if row.is_long() {
        arguments.insert("x-consumer-timeout", millis(row.consumer_timeout(1.0), scale));
    }
}

fn millis(time: Duration, scale: Scale) -> Argument {
    Argument::Int(i64::try_from(time.mul_f64(scale.time).as_millis()).unwrap_or(i64::MAX).max(1))
}

fn dead_letter(arguments: &mut BTreeMap<&'static str, Argument>, key: &str) {
    arguments.insert("x-dead-letter-exchange", Argument::Text(DEAD.to_owned()));
    arguments.insert("x-dead-letter-routing-key", Argument::Text(key.to_owned()));
    arguments.insert("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned()));
}
