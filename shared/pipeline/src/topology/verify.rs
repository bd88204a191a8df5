//! Compares what stands on a broker with the table, and says of each difference what to do about it. Nothing is changed here.
//!
//! With the management API all of it is seen, before anything is declared; without it, the refusal of a declaration is put
//! into the same words.

mod inspector;
mod live;
mod refusal;

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::{
    Argument, Binding, CONSUMER_TIMEOUT, CONTROL, EVENTS, Exchange, Lane, Queue, Topology, UNROUTABLE, WORKERS,
    jobs_exchange,
};
use live::{Live, LiveBinding, LiveExchange, LiveQueue};

pub(crate) use inspector::{Inspection, Inspections, Inspector};
pub(crate) use live::Management;
pub(crate) use refusal::refusal;

/// Arguments that would change what a queue does where the table does not give them. The broker compares them all; of
/// others it takes no notice.
const TELLING: &[&str] = &[
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-expires",
    "x-max-length",
    "x-max-length-bytes",
    "x-message-ttl",
    "x-single-active-consumer",
];

/// One thing that is not as the table says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Difference {
    /// It was declared otherwise, and cannot be changed: declaring it is refused.
    Fixed { thing: Thing, property: String, wanted: Option<String>, found: Option<String> },
    /// A policy weakens what the arguments promise.
    Weakened { thing: Thing, policy: String, setting: String, effect: &'static str },
    /// Somebody listens where only work queues may.
    Foreign { exchange: String, key: String, bound: Thing },
    /// Declaring mends it.
    Unbound(Binding),
}

/// What a difference is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Thing {
    Exchange(String),
    Queue(String),
}

impl Difference {
    /// Whether it stays until a person mends it.
    pub(crate) fn stays(&self) -> bool {
        !matches!(self, Self::Unbound(_))
    }
}

/// Everything in which `live` is not as `own` says; `all` is the whole table, by which a binding is known to be ours.
pub(crate) fn compare(own: &Topology, all: &Topology, live: &Live) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (name, exchange) in &own.exchanges {
        if let Some(found) = live.exchanges.get(name) {
            compare_exchange(name, exchange, found, live, &mut differences);
        }
    }
    for (name, queue) in &own.queues {
        if let Some(found) = live.queues.get(name) {
            compare_queue(name, queue, found, &mut differences);
            weaken_queue(name, queue, found, &mut differences);
        }
    }
    compare_bindings(own, all, live, &mut differences);
    differences.sort();
    differences.dedup();
    differences
}

fn compare_exchange(name: &str, wanted: &Exchange, found: &LiveExchange, live: &Live, into: &mut Vec<Difference>) {
    let thing = || Thing::Exchange(name.to_owned());
    let mut fixed = |property: &str, wanted: Option<&str>, found: Option<&str>| {
        if wanted != found {
            into.push(fixed_in(thing(), property, wanted, found));
        }
    };
    fixed("type", Some(wanted.kind), Some(&found.kind));
    fixed("durable", Some("true"), Some(yes_or_no(found.durable)));
    fixed("auto_delete", Some("false"), Some(yes_or_no(found.auto_delete)));
    fixed("internal", Some("false"), Some(yes_or_no(found.internal)));
    let alternate = found.arguments.get("alternate-exchange").map(words);
    fixed("alternate-exchange", wanted.alternate, alternate.as_deref());
    // An argument wins over a policy, and where a copy need not arrive an alternate hides nothing.
    if wanted.alternate.is_none() && ![EVENTS, CONTROL, UNROUTABLE].contains(&name) {
        let policy = found.policy.as_deref().and_then(|policy| live.policies.get_key_value(policy));
        if let Some((policy, alternate)) =
            policy.and_then(|(name, policy)| Some((name, policy.get("alternate-exchange")?)))
        {
            into.push(Difference::Weakened {
                thing: thing(),
                policy: format!("policy \"{policy}\""),
                setting: format!("alternate-exchange={}", words(alternate)),
                effect: "what no queue takes counts as taken",
            });
        }
    }
}

fn compare_queue(name: &str, wanted: &Queue, found: &LiveQueue, into: &mut Vec<Difference>) {
    let thing = || Thing::Queue(name.to_owned());
    let before = into.len();
    let mut fixed = |property: &str, wanted: Option<&str>, found: Option<&str>| {
        if wanted != found {
            into.push(fixed_in(thing(), property, wanted, found));
        }
    };
    let kind = wanted.arguments.get("x-queue-type").map(argument_words);
    fixed("x-queue-type", kind.as_deref(), Some(&found.kind));
    fixed("durable", Some("true"), Some(yes_or_no(found.durable)));
    fixed("auto_delete", Some("false"), Some(yes_or_no(found.auto_delete)));
    fixed("exclusive", Some("false"), Some(yes_or_no(found.exclusive)));
    if into.len() > before {
        return; // Another sort of queue: its arguments say nothing more.
    }
    let names: BTreeSet<&str> = wanted.arguments.keys().copied().chain(TELLING.iter().copied()).collect();
    for argument in names.into_iter().filter(|name| *name != "x-queue-type") {
        let wanted = wanted.arguments.get(argument).map(argument_words);
        let found = found.arguments.get(argument).map(words);
        if wanted != found {
            into.push(fixed_in(thing(), argument, wanted.as_deref(), found.as_deref()));
        }
    }
}

/// What the policies that are in force on a queue take away from its arguments. For `overflow` the policy wins over the argument;
/// of two lengths, times or delivery limits the lower; elsewhere the argument, so that a policy counts only where there is none.
fn weaken_queue(name: &str, wanted: &Queue, found: &LiveQueue, into: &mut Vec<Difference>) {
    for (setting, value) in &found.effective_policy_definition {
        let argument = wanted.arguments.get(format!("x-{setting}").as_str());
        let lower = || match (argument, value.as_i64()) {
            (Some(Argument::Int(argument)), Some(value)) => (0..*argument).contains(&value),
            (_, Some(value)) => value >= 0,
            _ => false,
        };
        let effect = match setting.as_str() {
            "overflow" if argument.map(argument_words) != Some(words(value)) => match value.as_str() {
                Some("drop-head") => "a full queue drops what was confirmed",
                _ => "what the queue does when it is full is not what its publishers count on",
            },
            "max-length" | "max-length-bytes" if lower() => "it is full, and refuses, before it should be",
            "message-ttl" if lower() => "messages expire, or return, before they should",
            "expires" => "the queue is deleted with its messages when it is not used",
            "delivery-limit" if lower() => "messages are given up after fewer returns",
            "consumer-timeout" if value.as_i64().is_some_and(|value| value < held_for(argument)) => {
                "a job that is being done is taken away and given to another worker"
            }
            "dead-letter-exchange" | "dead-letter-routing-key" | "dead-letter-strategy" if argument.is_none() => {
                "messages go elsewhere than they should"
            }
            _ => continue,
        };
        into.push(Difference::Weakened {
            thing: Thing::Queue(name.to_owned()),
            policy: found.policies(),
            setting: format!("{setting}={}", words(value)),
            effect,
        });
    }
}

fn compare_bindings(own: &Topology, all: &Topology, live: &Live, into: &mut Vec<Difference>) {
    let stands =
        |binding: &&Binding| live.exchanges.contains_key(&binding.exchange) && live.queues.contains_key(&binding.queue);
    for binding in own.bindings.iter().filter(stands) {
        if !live.bindings.iter().any(|found| found.is(binding)) {
            into.push(Difference::Unbound(binding.clone()));
        }
    }
    let work: Vec<String> = WORKERS.iter().flat_map(|row| row.kinds).map(|kind| jobs_exchange(kind)).collect();
    for found in live.bindings.iter().filter(|found| work.contains(&found.source)) {
        // By a key that is no lane of ours comes nothing of ours.
        let takes = Lane::ALL.iter().any(|lane| lane.as_str() == found.routing_key);
        if takes && !all.bindings.iter().any(|our| found.is(our)) {
            into.push(Difference::Foreign {
                exchange: found.source.clone(),
                key: found.routing_key.clone(),
                bound: found.destination(),
            });
        }
    }
}

/// How long a delivery may be held, in milliseconds, where no policy says less.
fn held_for(argument: Option<&Argument>) -> i64 {
    match argument {
        Some(Argument::Int(millis)) => *millis,
        _ => i64::try_from(CONSUMER_TIMEOUT.as_millis()).unwrap_or(i64::MAX),
    }
}

fn fixed_in(thing: Thing, property: &str, wanted: Option<&str>, found: Option<&str>) -> Difference {
    Difference::Fixed {
        thing,
        property: property.to_owned(),
        wanted: wanted.map(ToOwned::to_owned),
        found: found.map(ToOwned::to_owned),
    }
}

fn yes_or_no(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

fn words(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn argument_words(argument: &Argument) -> String {
    match argument {
        Argument::Int(number) => number.to_string(),
        Argument::Text(text) => text.clone(),
    }
}

impl LiveBinding {
    fn is(&self, binding: &Binding) -> bool {
        self.destination_type == "queue"
            && self.source == binding.exchange
            && self.routing_key == binding.key
            && self.destination == binding.queue
    }

    fn destination(&self) -> Thing {
        match self.destination_type.as_str() {
            "exchange" => Thing::Exchange(self.destination.clone()),
            _ => Thing::Queue(self.destination.clone()),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(formatter, "exchange \"{name}\""),
            Self::Queue(name) => write!(formatter, "queue \"{name}\""),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed { thing, property, wanted, found } => {
                let (wanted, found) = (wanted.as_deref().unwrap_or("none"), found.as_deref().unwrap_or("none"));
                write!(formatter, "{thing} has {property} {found}, wanted is {wanted}: ")?;
                fmt_remedy(formatter, thing, property)
            }
            Self::Weakened { thing, policy, setting, effect } => write!(
                formatter,
                "{policy} sets {setting} on {thing}: {effect}; change the policy, or its pattern so that it leaves {thing} out"
            ),
            Self::Foreign { exchange, key, bound } => write!(
                formatter,
                "{bound} is bound to \"{exchange}\" with \"{key}\": a job that no worker's queue takes counts as taken, and \
                 its being full refuses jobs; unbind it, and bind it to \"{EVENTS}\" to listen"
            ),
            Self::Unbound(Binding { exchange, key, queue }) => {
                write!(formatter, "queue \"{queue}\" is not bound to \"{exchange}\" with \"{key}\": it is bound anew")
            }
        }
    }
}

/// What is fixed cannot be changed where it stands, only be made anew.
fn fmt_remedy(formatter: &mut fmt::Formatter<'_>, thing: &Thing, property: &str) -> fmt::Result {
    match property {
        "x-max-length" => formatter.write_str("if broker.queue_length was changed, set it back; else ")?,
        "x-message-ttl" | "x-consumer-timeout" => {
            formatter.write_str("if broker.time_scale was changed, set it back; else ")?
        }
        _ => {}
    }
    match thing {
        Thing::Queue(_) => formatter.write_str("let the queue run empty or move its messages, and delete it"),
        Thing::Exchange(_) => formatter.write_str("delete the exchange"),
    }?;
    formatter.write_str(
        ", then it is declared anew within seconds (a development system forgets everything by compose/down --volumes)",
    )
}

#[cfg(test)]
mod tests;
