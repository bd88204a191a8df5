use std::time::Duration;

use super::{
    Argument, CONSUMER_TIMEOUT, Lane, SERVICES, Scale, Topology, WORKERS, WorkerRow, definitions, jobs_exchange,
    service, worker, worker_of,
};

/// A change of the table is reviewed like a migration: arguments of a live queue cannot be changed.
#[test]
fn the_whole_expanded_topology_is_as_reviewed() {
    insta::assert_json_snapshot!("topology", Topology::all(Scale::FULL));
}

#[test]
fn the_brokers_definitions_are_those_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose/rabbitmq/definitions.json");
    let wanted = format!("{:#}\n", definitions());
    let found = std::fs::read_to_string(path).unwrap_or_default();
    if found != wanted {
        std::fs::write(path, &wanted).unwrap();
        panic!("compose/rabbitmq/definitions.json was not what the table says; it is now: look at it and commit it");
    }
}

#[test]
fn a_kinds_exchange_is_bound_by_lane_to_the_queues_of_its_worker_and_to_nothing_else() {
    let topology = Topology::all(Scale::FULL);
    for row in WORKERS {
        for kind in row.kinds {
            let exchange = jobs_exchange(kind);
            assert_eq!(topology.exchanges[&exchange].kind, "direct");
            let bound = topology.bindings.iter().filter(|binding| binding.exchange == exchange);
            let mut bound: Vec<_> = bound.map(|binding| (binding.key.clone(), binding.queue.clone())).collect();
            bound.sort();
            let mut lanes = Lane::ALL.map(|lane| (lane.as_str().to_owned(), row.queue(lane)));
            lanes.sort();
            assert_eq!(bound, lanes);
        }
    }
}

#[test]
fn every_queue_that_dead_letters_does_so_at_least_once() {
    for (name, queue) in Topology::all(Scale::FULL).queues {
        let text = |argument| queue.arguments.get(argument).cloned();
        assert_eq!(text("x-queue-type"), Some(Argument::Text("quorum".to_owned())), "{name}");
        assert!(matches!(text("x-delivery-limit"), Some(Argument::Int(1..))), "{name}");
        if queue.arguments.contains_key("x-dead-letter-exchange") {
            assert_eq!(text("x-dead-letter-strategy"), Some(Argument::Text("at-least-once".to_owned())), "{name}");
            assert_eq!(text("x-overflow"), Some(Argument::Text("reject-publish".to_owned())), "{name}");
        }
    }
}

#[test]
fn a_kind_belongs_to_one_worker() {
    for row in WORKERS {
        for kind in row.kinds {
            assert_eq!(worker_of(kind).unwrap().name, row.name);
        }
    }
    let mut kinds: Vec<_> = WORKERS.iter().flat_map(|row| row.kinds).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds.len(), WORKERS.iter().map(|row| row.kinds.len()).sum::<usize>());
}

#[test]
fn every_service_names_workers_and_kinds_that_exist() {
    for row in SERVICES {
        assert!(row.works.iter().all(|name| super::worker(name).is_some()), "{row:?}");
        assert!(row.publishes.iter().all(|kind| worker_of(kind).is_some()), "{row:?}");
    }
}

#[test]
fn a_service_declares_what_it_needs_and_no_more() {
    let topology = Topology::of(service("email-worker").unwrap(), Scale::FULL);
    assert!(topology.queues.contains_key("email.normal") && topology.queues.contains_key("email.delay.30s-early"));
    assert!(!topology.queues.keys().any(|name| name.starts_with("report.")));
    let jobs: Vec<_> = topology.exchanges.keys().filter(|name| name.starts_with("postroom.jobs.")).collect();
    assert_eq!(jobs, ["postroom.jobs.email.send"]);
}

#[test]
fn the_time_scale_shortens_every_wait() {
    let topology = Topology::all(Scale { time: 0.01, ..Scale::FULL });
    assert_eq!(topology.queues["email.delay.30s"].arguments["x-message-ttl"], Argument::Int(300));
    assert_eq!(topology.queues["email.delay.30s-early"].arguments["x-message-ttl"], Argument::Int(225));
}

#[test]
fn the_longest_hold_is_that_of_the_last_in_hand_while_every_lane_takes_turns() {
    let row = WorkerRow { timeout: Duration::from_secs(1), ..*worker("noop").unwrap() };
    // Held in each lane, run at once, seconds: the turns of four lanes on all shared places, or of three on all but one.
    let cases =
        [(1, 1, 4), (2, 1, 9), (1, 2, 4), (4, 2, 17), (1, 3, 3), (6, 3, 13), (2, 4, 4), (100, 50, 8), (48, 50, 4)];
    for (held, concurrency, seconds) in cases {
        let hold = row.hold(held, concurrency);
        assert_eq!(hold, Duration::from_secs(seconds), "{held} held, {concurrency} at once");
    }
}

#[test]
fn no_worker_holds_a_delivery_for_longer_than_the_broker_bears() {
    for row in WORKERS {
        for concurrency in 1..=1000 {
            let hold = row.longest_hold(concurrency, 1.0);
            assert!(hold <= row.consumer_timeout(1.0), "{}, {concurrency} at once: {hold:?}", row.name);
        }
    }
    let prefetch = |name, concurrency: &[u16]| -> Vec<u16> {
        concurrency.iter().map(|concurrency| worker(name).unwrap().prefetch(*concurrency)).collect()
    };
    assert_eq!(prefetch("email", &[1, 2, 3, 100]), [2, 4, 6, 200]);
    assert_eq!(prefetch("report", &[1, 2, 3, 100]), [2, 3, 6, 200]);
    assert_eq!(prefetch("noop", &[1, 2, 3, 50, 1000]), [14, 14, 29, 256, 2000]);
    // As many as there are places for, at least: they may all run.
    assert_eq!(prefetch("video", &[1, 2, 3, 5, 10]), [1, 1, 2, 4, 10]);
}

#[test]
fn the_time_scale_lengthens_a_hold_but_not_what_a_broker_bears_unless_the_queue_says_it() {
    let (report, video) = (worker("report").unwrap(), worker("video").unwrap());
    assert!(report.longest_hold(8, 2.0) > CONSUMER_TIMEOUT);
    assert_eq!(report.consumer_timeout(2.0), CONSUMER_TIMEOUT);
    assert!(video.longest_hold(8, 2.0) <= video.consumer_timeout(2.0));
}
