//! A broker of several nodes, of which any will do: here several ways to the one that there is.

use std::net::SocketAddr;
use std::time::Duration;

use backing::{Proxy, Vhost};
use futures_util::future::join_all;
use pipeline::{Broker, BrokerState, Done, Handlers};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::{With, job, settings, vhost};

/// The order is chosen at random: of so many services with two connections each, one meets the bad node first.
const SERVICES: u32 = 8;

/// Services that know a node at which nobody answers, and one that is well.
fn services_beside(vhost: &Vhost, bad: SocketAddr) -> Vec<Broker> {
    let well = vhost.url("noop-worker");
    let port = bad.port().to_string();
    let bad = well.replace(backing::composed("POSTROOM_AMQP_PORT"), &port);
    let start = |_| Broker::start(&settings(&format!("{bad}, {well}")), "noop-worker").unwrap();
    (0..SERVICES).map(start).collect()
}

/// Waits until both connections of each are up.
async fn connected(services: &[Broker]) {
    for service in services {
        let (publishing, consuming) = (service.publishing_state(), service.consuming_state());
        while [publishing(), consuming()] != [BrokerState::Connected, BrokerState::Connected] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn where_one_node_refuses_the_other_is_used() {
    let vhost = vhost().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let services = services_beside(&vhost, closed);
    timeout(Duration::from_secs(60), connected(&services)).await.expect("all are connected within a minute");
    for service in &services {
        service.publisher().publish_job(&job("")).await.unwrap();
    }
    join_all(services.into_iter().map(Broker::close)).await;
    vhost.finish(&[("noop.normal", SERVICES)]).await;
}

#[tokio::test]
async fn where_one_node_says_nothing_the_other_is_used_before_a_single_one_would_be_given_up() {
    let vhost = vhost().await;
    // Connections are made, and nobody takes them up.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = services_beside(&vhost, silent.local_addr().unwrap());
    timeout(Duration::from_secs(9), connected(&services)).await.expect("all are connected within 9 s");
    join_all(services.into_iter().map(Broker::close)).await;
    drop(silent);
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_worker_goes_on_by_the_other_node_when_one_breaks_off_or_falls_silent() {
    let vhost = vhost().await;
    let mut events = vhost.listen("postroom.events", "job.succeeded").await;
    let (one, other) = (Proxy::start(&vhost.url("noop-worker")).await, Proxy::start(&vhost.url("noop-worker")).await);
    // The shortest heartbeat that there is.
    let urls = format!("{}?heartbeat=1,{}?heartbeat=1", one.url, other.url);
    let broker = Broker::start(&settings(&urls), "noop-worker").unwrap();
    let (handlers, drain) =
        (Handlers::new().register(With(|_, _| async { Ok(Done::empty()) })), CancellationToken::new());
    let worker_settings = serde_json::from_value(json!({"concurrency": 2})).unwrap();
    let work = tokio::spawn(broker.work(handlers, &worker_settings, drain.clone(), CancellationToken::new()));
    let (consuming, publisher) = (broker.consuming_state(), broker.publisher());
    vhost.wait("consuming", || async { consuming() == BrokerState::Consuming }).await;

    // Publishing and consuming may have begun with different nodes: each node has its turn to fail.
    one.cut(true);
    let mut done = Vec::new();
    for step in ["by the other", "by the one", "by the other again"] {
        match step {
            "by the other" => {}
            "by the one" => {
                one.cut(false);
                other.cut(true);
            }
            _ => {
                other.cut(false);
                one.silence(true);
            }
        }
        let job = job(step);
        // A publish that is caught in the break may count as failed and have reached its queue: the same id is the same job.
        vhost.wait(step, || async { publisher.publish_job(&job).await.is_ok() }).await;
        while !done.contains(&json!(job.id)) {
            done.push(events.next_json().await.1["job"]["id"].clone());
        }
    }
    drain.cancel();
    work.await.unwrap();
    broker.close().await;
    let told = vhost.ready("tracker.lifecycle").await.unwrap();
    vhost.finish(&[("tracker.lifecycle", told)]).await;
}
