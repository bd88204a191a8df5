use std::collections::BTreeMap;

use backing::{Vhost, logs};
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use pipeline::topology::Lane;
use pipeline::{Broker, BrokerSettings, BrokerState, OutgoingJob};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{empty_vhost, job, settings, vhost};

fn seeing(vhost: &Vhost, management_url: &str) -> BrokerSettings {
    BrokerSettings { management_url: Some(management_url.to_owned()), ..settings(&vhost.url("noop-worker")) }
}

fn start(vhost: &Vhost) -> Broker {
    Broker::start(&seeing(vhost, &vhost.management_url()), "noop-worker").unwrap()
}

/// Waits until the topology is as declared, or until it differs in just the way that the text says.
async fn wait_topology(vhost: &Vhost, broker: &Broker, wanted: Result<(), &str>) {
    let readiness = broker.topology_readiness();
    let met = || match (readiness(), wanted) {
        (Ok(state), Ok(())) => state == "as declared",
        (Err(state), Err(wanted)) => state.contains(wanted),
        _ => false,
    };
    vhost.wait(&format!("topology {wanted:?}"), || async { met() }).await;
}

async fn wait_connected(vhost: &Vhost, broker: &Broker) {
    let state = broker.publishing_state();
    vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
}

/// A queue of the topology as somebody else might have declared it.
async fn declare_otherwise(vhost: &Vhost, name: &str, arguments: &[(&'static str, AMQPValue)]) {
    let arguments: BTreeMap<_, _> = arguments.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    vhost.channel().queue_declare(name.into(), options, FieldTable::from(arguments)).await.unwrap();
}

async fn short_queue(vhost: &Vhost) {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let arguments = [
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", AMQPValue::LongLongInt(20)),
        ("x-overflow", text("reject-publish")),
        ("x-dead-letter-exchange", text("postroom.dead")),
        ("x-dead-letter-routing-key", text("noop.dead")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-max-length", AMQPValue::LongLongInt(10)),
    ];
    declare_otherwise(vhost, "noop.normal", &arguments).await;
}

async fn delete(vhost: &Vhost, queue: &str) {
    vhost.channel().queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
}

/// Takes a work queue's binding for its kind away.
async fn unbind(vhost: &Vhost, queue: &str) {
    let key = queue.replace("noop.", "");
    let (exchange, arguments) = ("postroom.jobs.noop.run".into(), FieldTable::default());
    vhost.channel().queue_unbind(queue.into(), exchange, key.into(), arguments).await.unwrap();
}

const SHORT: &str = "queue \"noop.normal\" has x-max-length 10, wanted is 200000: if broker.queue_length was changed";
const CLASSIC: &str = "queue \"noop.dead\" has x-queue-type classic, wanted is quorum: let the queue run empty";

#[tokio::test]
async fn every_queue_that_stands_otherwise_is_named_with_its_remedy_and_service_resumes_once_they_are_gone() {
    logs::keep();
    let vhost = empty_vhost().await;
    short_queue(&vhost).await;
    declare_otherwise(&vhost, "noop.dead", &[("x-queue-type", AMQPValue::LongString("classic".into()))]).await;
    let broker = start(&vhost);
    wait_topology(&vhost, &broker, Err(SHORT)).await;
    wait_topology(&vhost, &broker, Err(CLASSIC)).await;
    let readiness = broker.publishing_readiness();
    let told = || readiness().is_err_and(|state| state.contains(SHORT) && state.contains(CLASSIC));
    vhost.wait("both are told as the reason", || async { told() }).await;
    let logged = logs::with("queue \\\"noop.dead\\\" has x-queue-type classic");
    assert!(logged.iter().any(|line| line["level"] == "ERROR"), "{logged:?}");

    delete(&vhost, "noop.normal").await;
    delete(&vhost, "noop.dead").await;
    wait_connected(&vhost, &broker).await;
    wait_topology(&vhost, &broker, Ok(())).await;
    broker.close().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn without_the_management_api_the_brokers_refusal_says_what_to_do() {
    let vhost = empty_vhost().await;
    short_queue(&vhost).await;
    let broker = Broker::start(&settings(&vhost.url("noop-worker")), "noop-worker").unwrap();
    let readiness = broker.publishing_readiness();
    vhost.wait("it is told", || async { readiness().is_err_and(|state| state.contains(SHORT)) }).await;
    assert_eq!(broker.topology_readiness()(), Ok("not compared: broker.management_url is not set".to_owned()));

    delete(&vhost, "noop.normal").await;
    wait_connected(&vhost, &broker).await;
    broker.close().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_policy_that_drops_what_was_confirmed_is_told_while_work_goes_on() {
    logs::keep();
    let vhost = vhost().await;
    let broker = start(&vhost);
    wait_connected(&vhost, &broker).await;
    wait_topology(&vhost, &broker, Ok(())).await;
    let policy = json!({"pattern": r"^noop\.normal$", "apply-to": "queues", "definition": {"overflow": "drop-head"}});
    vhost.manage(Method::PUT, "policies", "/careless", Some(policy)).await;
    let told =
        "policy \"careless\" sets overflow=drop-head on queue \"noop.normal\": a full queue drops what was confirmed";
    wait_topology(&vhost, &broker, Err(told)).await;
    broker.publisher().publish_job(&job("all the same")).await.unwrap();
    let readiness = broker.topology_readiness();
    vhost.manage(Method::DELETE, "policies", "/careless", None).await;
    vhost.wait("the policy is gone", || async { readiness().is_ok() }).await;
    // Looked at every few seconds, told once.
    assert_eq!(logs::with("policy \\\"careless\\\"").len(), 1);
    broker.close().await;
    vhost.finish(&[("noop.normal", 1)]).await;
}

#[tokio::test]
async fn an_exchange_whose_policy_hides_what_nobody_took_is_told() {
    let vhost = vhost().await;
    let policy = json!({"pattern": r"^postroom\.jobs\.noop\.run$", "apply-to": "exchanges", "definition": {"alternate-exchange": "amq.fanout"}});
    vhost.manage(Method::PUT, "policies", "/hiding", Some(policy)).await;
    let broker = start(&vhost);
    let told = "policy \"hiding\" sets alternate-exchange=amq.fanout on exchange \"postroom.jobs.noop.run\"";
    wait_topology(&vhost, &broker, Err(told)).await;
    wait_connected(&vhost, &broker).await;
    broker.close().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_binding_that_is_missing_is_told_and_made_anew() {
    logs::keep();
    let vhost = vhost().await;
    unbind(&vhost, "noop.bulk").await;
    let broker = start(&vhost);
    wait_connected(&vhost, &broker).await;
    let told = "queue \\\"noop.bulk\\\" is not bound to \\\"postroom.jobs.noop.run\\\" with \\\"bulk\\\"";
    assert!(logs::with(told).iter().any(|line| line["level"] == "WARN"));
    let bulk = OutgoingJob { lane: Lane::Bulk, ..job("bound again") };
    // Of two connections that bind at once, one may hear that it stands before it works.
    let publisher = broker.publisher();
    vhost.wait("it is bound", || async { publisher.publish_job(&bulk).await.is_ok() }).await;
    wait_topology(&vhost, &broker, Ok(())).await;
    broker.close().await;
    vhost.finish(&[("noop.bulk", 1)]).await;
}

#[tokio::test]
async fn a_binding_that_is_taken_away_while_a_service_runs_is_made_anew() {
    let vhost = vhost().await;
    let broker = start(&vhost);
    wait_connected(&vhost, &broker).await;
    unbind(&vhost, "noop.urgent").await;
    let publisher = broker.publisher();
    let urgent = OutgoingJob { lane: Lane::Urgent, ..job("bound again") };
    vhost.wait("the binding is back", || async { publisher.publish_job(&urgent).await.is_ok() }).await;
    broker.close().await;
    vhost.finish(&[("noop.urgent", 1)]).await;
}

#[tokio::test]
async fn a_queue_that_listens_to_jobs_is_told_while_work_goes_on() {
    let vhost = vhost().await;
    declare_otherwise(&vhost, "spy", &[]).await;
    let (options, key) = (QueueBindOptions::default(), "normal");
    vhost
        .channel()
        .queue_bind("spy".into(), "postroom.jobs.noop.run".into(), key.into(), options, FieldTable::default())
        .await
        .unwrap();
    let broker = start(&vhost);
    wait_topology(&vhost, &broker, Err("queue \"spy\" is bound to \"postroom.jobs.noop.run\" with \"normal\"")).await;
    wait_connected(&vhost, &broker).await;
    broker.publisher().publish_job(&job("overheard")).await.unwrap();
    delete(&vhost, "spy").await;
    wait_topology(&vhost, &broker, Ok(())).await;
    broker.close().await;
    vhost.finish(&[("noop.normal", 1)]).await;
}

#[tokio::test]
async fn a_management_api_that_is_away_or_silent_keeps_nobody_from_working() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let vhost = empty_vhost().await;
    for (address, reason) in [(closed, "ask the management API"), (address, "no answer from the management API in 4 s")]
    {
        let broker = Broker::start(&seeing(&vhost, &format!("http://{address}")), "noop-worker").unwrap();
        wait_connected(&vhost, &broker).await;
        let state = broker.topology_readiness()().unwrap();
        assert!(state.starts_with("not compared: ") && state.contains(reason), "{state}");
        broker.close().await;
    }
    drop(silent);
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn of_several_management_apis_one_that_answers_is_enough() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let vhost = empty_vhost().await;
    let urls = format!("http://{closed}, http://{}, {}", silent.local_addr().unwrap(), vhost.management_url());
    let broker = Broker::start(&seeing(&vhost, &urls), "noop-worker").unwrap();
    wait_connected(&vhost, &broker).await;
    wait_topology(&vhost, &broker, Ok(())).await;
    broker.close().await;
    drop(silent);
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_management_url_that_holds_a_password_or_wants_tls_is_refused_at_start() {
    let vhost = empty_vhost().await;
    for (url, reason) in [
        ("http://a:b@rabbitmq:15672", "leave them out here"),
        ("https://rabbitmq:15671", "not of the form"),
        ("http://rabbitmq:15672/?a=b", "not of the form"),
        ("http://rabbitmq:15672,", "not of the form"),
        ("http://rabbitmq:15672,http://a:b@rabbitmq-2:15672", "leave them out here"),
    ] {
        let refused = Broker::start(&seeing(&vhost, url), "noop-worker").unwrap_err().to_string();
        assert!(refused.starts_with("broker.management_url: ") && refused.contains(reason), "{refused}");
    }
    vhost.finish(&[]).await;
}
