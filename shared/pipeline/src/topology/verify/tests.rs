use serde_json::{Value, json};

use super::live::Live;
use super::{Difference, Thing, compare};
use crate::topology::{CONTROL, DEAD, DELAY, EVENTS, RETURN, Scale, Topology, service};

const JOBS: &str = "postroom.jobs.noop.run";

fn own() -> Topology {
    Topology::of(service("noop-worker").unwrap(), Scale::FULL)
}

/// What the management API would answer where everything is as declared.
fn answers(topology: &Topology) -> Value {
    let exchanges: Vec<Value> = topology
        .exchanges
        .iter()
        .map(|(name, exchange)| {
            let alternate = exchange.alternate.map(|alternate| json!({"alternate-exchange": alternate}));
            json!({"name": name, "type": exchange.kind, "durable": true, "auto_delete": false, "internal": false,
                "arguments": alternate.unwrap_or_else(|| json!({}))})
        })
        .collect();
    let queues: Vec<Value> = topology
        .queues
        .iter()
        .map(|(name, queue)| {
            json!({"name": name, "type": queue.arguments["x-queue-type"], "durable": true, "auto_delete": false,
                "exclusive": false, "arguments": queue.arguments, "effective_policy_definition": []})
        })
        .collect();
    let bindings: Vec<Value> =
        topology.bindings.iter().map(|binding| bound(&binding.exchange, &binding.key, &binding.queue)).collect();
    json!({"exchanges": exchanges, "queues": queues, "bindings": bindings, "policies": []})
}

fn bound(exchange: &str, key: &str, queue: &str) -> Value {
    json!({"source": exchange, "destination": queue, "destination_type": "queue", "routing_key": key})
}

/// What is told of a broker that is as declared but for one change.
fn after(change: impl FnOnce(&mut Value)) -> Vec<Difference> {
    let all = Topology::all(Scale::FULL);
    let mut answers = answers(&all);
    change(&mut answers);
    compare(&own(), &all, &Live::recorded(&answers))
}

fn named<'a>(answers: &'a mut Value, list: &str, name: &str) -> &'a mut Value {
    answers[list].as_array_mut().unwrap().iter_mut().find(|thing| thing["name"] == name).unwrap()
}

/// The same as `thing: property found, wanted`.
fn fixed(difference: &Difference) -> String {
    let Difference::Fixed { thing, property, wanted, found } = difference else { panic!("{difference:?}") };
    format!("{thing}: {property} {}, {}", found.as_deref().unwrap_or("none"), wanted.as_deref().unwrap_or("none"))
}

#[test]
fn a_broker_that_is_as_declared_differs_in_nothing() {
    assert_eq!(after(|_| {}), []);
}

#[test]
fn a_broker_on_which_nothing_stands_yet_differs_in_nothing() {
    let nothing = json!({"exchanges": [], "queues": [], "bindings": [], "policies": []});
    assert_eq!(compare(&own(), &Topology::all(Scale::FULL), &Live::recorded(&nothing)), []);
}

#[test]
fn what_was_declared_otherwise_is_named_by_thing_and_argument() {
    let table = [
        (
            "queues",
            "noop.normal",
            "/arguments/x-max-length",
            json!(10),
            "queue \"noop.normal\": x-max-length 10, 200000",
        ),
        (
            "queues",
            "noop.normal",
            "/arguments/x-max-length",
            json!("10"),
            "queue \"noop.normal\": x-max-length 10, 200000",
        ),
        (
            "queues",
            "noop.bulk",
            "/arguments/x-overflow",
            json!("drop-head"),
            "queue \"noop.bulk\": x-overflow drop-head, reject-publish",
        ),
        (
            "queues",
            "noop.urgent",
            "/arguments/x-delivery-limit",
            json!(3),
            "queue \"noop.urgent\": x-delivery-limit 3, 20",
        ),
        (
            "queues",
            "noop.delay.5s",
            "/arguments/x-message-ttl",
            json!(250),
            "queue \"noop.delay.5s\": x-message-ttl 250, 5000",
        ),
        (
            "queues",
            "noop.normal",
            "/arguments/x-dead-letter-strategy",
            json!("at-most-once"),
            "queue \"noop.normal\": x-dead-letter-strategy at-most-once, at-least-once",
        ),
        ("queues", "noop.normal", "/type", json!("classic"), "queue \"noop.normal\": x-queue-type classic, quorum"),
        ("queues", "noop.normal", "/durable", json!(false), "queue \"noop.normal\": durable false, true"),
        ("exchanges", JOBS, "/type", json!("fanout"), "exchange \"postroom.jobs.noop.run\": type fanout, direct"),
        ("exchanges", JOBS, "/durable", json!(false), "exchange \"postroom.jobs.noop.run\": durable false, true"),
        (
            "exchanges",
            RETURN,
            "/arguments/alternate-exchange",
            json!("elsewhere"),
            "exchange \"postroom.return\": alternate-exchange elsewhere, postroom.unroutable",
        ),
    ];
    for (list, name, pointer, value, told) in table {
        let found = after(|answers| *named(answers, list, name).pointer_mut(pointer).unwrap() = value);
        assert_eq!(found.iter().map(fixed).collect::<Vec<_>>(), [told]);
    }
}

#[test]
fn an_argument_too_many_or_too_few_counts_where_it_means_something() {
    let with = |name: &str, argument: &str, value: Value| {
        after(|answers| named(answers, "queues", name)["arguments"][argument] = value)
    };
    assert_eq!(
        with("noop.dead", "x-expires", json!(60000)).iter().map(fixed).collect::<Vec<_>>(),
        ["queue \"noop.dead\": x-expires 60000, none"]
    );
    assert_eq!(with("noop.dead", "x-consumer-timeout", json!(60000)), []);
    let without = after(|answers| {
        named(answers, "queues", "noop.normal")["arguments"]
            .as_object_mut()
            .unwrap()
            .remove("x-dead-letter-routing-key");
    });
    assert_eq!(
        without.iter().map(fixed).collect::<Vec<_>>(),
        ["queue \"noop.normal\": x-dead-letter-routing-key none, noop.dead"]
    );
}

#[test]
fn what_a_policy_takes_away_is_told_and_what_an_argument_withstands_is_not() {
    let weakened = |queue: &str, definition: Value| {
        let found = after(|answers| {
            let queue = named(answers, "queues", queue);
            queue["policy"] = json!("some");
            queue["effective_policy_definition"] = definition;
        });
        let settings = found.iter().map(|difference| match difference {
            Difference::Weakened { thing: Thing::Queue(name), policy, setting, .. } if name == queue => {
                assert_eq!(policy, "policy \"some\"");
                setting.clone()
            }
            other => panic!("{other:?}"),
        });
        settings.collect::<Vec<_>>()
    };
    let table = [
        ("noop.normal", json!({"overflow": "drop-head"}), vec!["overflow=drop-head"]),
        ("noop.normal", json!({"overflow": "reject-publish"}), vec![]),
        ("tracker.progress", json!({"overflow": "drop-head"}), vec![]),
        ("tracker.progress", json!({"overflow": "reject-publish"}), vec!["overflow=reject-publish"]),
        ("noop.normal", json!({"max-length": 199_999}), vec!["max-length=199999"]),
        ("noop.normal", json!({"max-length": 200_000}), vec![]),
        ("noop.dead", json!({"max-length": 1_000_000}), vec!["max-length=1000000"]),
        ("noop.dead", json!({"max-length-bytes": 1_000_000}), vec!["max-length-bytes=1000000"]),
        ("noop.delay.5s", json!({"message-ttl": 4999}), vec!["message-ttl=4999"]),
        ("noop.delay.5s", json!({"message-ttl": 5000}), vec![]),
        ("noop.normal", json!({"message-ttl": 5000}), vec!["message-ttl=5000"]),
        ("noop.normal", json!({"expires": 5000}), vec!["expires=5000"]),
        ("noop.normal", json!({"delivery-limit": 5}), vec!["delivery-limit=5"]),
        ("noop.normal", json!({"delivery-limit": 20}), vec![]),
        // No limit: where a policy may say so (4.x) the argument is the lower one.
        ("noop.normal", json!({"delivery-limit": -1}), vec![]),
        // Where there is an argument it wins.
        (
            "noop.normal",
            json!({"dead-letter-exchange": "a", "dead-letter-routing-key": "b", "dead-letter-strategy": "at-most-once"}),
            vec![],
        ),
        ("noop.delay.5s", json!({"dead-letter-routing-key": "b"}), vec!["dead-letter-routing-key=b"]),
        ("noop.dead", json!({"dead-letter-exchange": "a"}), vec!["dead-letter-exchange=a"]),
        ("noop.normal", json!({"queue-leader-locator": "balanced", "consumer-timeout": 7_200_000}), vec![]),
        ("noop.normal", json!({"consumer-timeout": 60_000}), vec!["consumer-timeout=60000"]),
    ];
    for (queue, definition, wanted) in table {
        assert_eq!(weakened(queue, definition.clone()), wanted, "{queue} {definition}");
    }
}

#[test]
fn an_alternate_by_policy_counts_where_a_message_must_arrive() {
    let told = |exchange: &str| {
        let found = after(|answers| {
            answers["policies"] = json!([{"name": "hiding", "definition": {"alternate-exchange": "amq.fanout"}}]);
            named(answers, "exchanges", exchange)["policy"] = json!("hiding");
        });
        found.len()
    };
    assert_eq!([JOBS, DELAY, DEAD].map(told), [1, 1, 1]);
    assert_eq!([RETURN, EVENTS, CONTROL].map(told), [0, 0, 0]);
}

#[test]
fn only_work_queues_may_take_what_is_published_as_work() {
    let with = |binding: Value| after(|answers| answers["bindings"].as_array_mut().unwrap().push(binding));
    for foreign in [
        bound(JOBS, "normal", "spy"),
        bound(JOBS, "normal", "noop.bulk"),
        bound("postroom.jobs.report.render", "normal", "noop.normal"),
        json!({"source": JOBS, "destination": "amq.fanout", "destination_type": "exchange", "routing_key": "bulk"}),
    ] {
        let found = with(foreign.clone());
        assert!(matches!(found.as_slice(), [Difference::Foreign { .. }]), "{foreign}: {found:?}");
    }
    for fine in [
        bound(JOBS, "night", "spy"),
        bound("postroom.jobs.image.resize", "normal", "image.normal"),
        bound(EVENTS, "job.dead", "spy"),
        bound("", "spy", "spy"),
    ] {
        assert_eq!(with(fine), []);
    }
}

#[test]
fn a_binding_that_is_missing_is_told_where_its_queue_stands() {
    let without = |queue_too: bool| {
        after(|answers| {
            answers["bindings"]
                .as_array_mut()
                .unwrap()
                .retain(|binding| binding["source"] != JOBS || binding["routing_key"] != "bulk");
            if queue_too {
                answers["queues"].as_array_mut().unwrap().retain(|queue| queue["name"] != "noop.bulk");
            }
        })
    };
    let found = without(false);
    let [Difference::Unbound(binding)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((binding.exchange.as_str(), binding.key.as_str(), binding.queue.as_str()), (JOBS, "bulk", "noop.bulk"));
    assert!(!found[0].stays(), "declaring mends it");
    // A queue that is not there yet has no bindings either.
    assert!(
        !without(true)
            .iter()
            .any(|found| matches!(found, Difference::Unbound(binding) if binding.queue == "noop.bulk"))
    );
}

/// Both were prepared in the same way: a queue's policy together with an operator's, an exchange's policy, a listener to
/// everything, a binding taken away.
#[test]
fn what_two_releases_of_the_broker_answered_is_read_alike() {
    let told = |recorded: &str| {
        let live = Live::recorded(&serde_json::from_str(recorded).unwrap());
        compare(&own(), &Topology::all(Scale::FULL), &live).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let old = told(include_str!("recorded/3.10.8.json"));
    assert_eq!(old, told(include_str!("recorded/4.0.5.json")));
    insta::assert_snapshot!("recorded", old.join("\n"));
}
