use std::collections::BTreeMap;
use std::time::Duration;

use backing::{broker_url, composed, connect};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use reqwest::Client;
use serde_json::Value;

use crate::harness::{DEADLINE, mail_arrived, sales, url};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// The request, the report and the mail are one trace: what each service tells says so.
#[tokio::test]
async fn one_trace_goes_from_the_request_through_the_report_to_the_mail() {
    let (connection, channel) = connect(&broker_url("postroom", "operator")).await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("classic".into()));
    let queue = channel.queue_declare("".into(), options, arguments).await.unwrap().name().clone();
    for key in ["job.queued", "job.succeeded", "report.ready"] {
        let (exchange, options) = ("postroom.events".into(), QueueBindOptions::default());
        channel.queue_bind(queue.clone(), exchange, key.into(), options, FieldTable::default()).await.unwrap();
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut events = channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.unwrap();

    let request = Client::new().post(url("/v1/reports")).bearer_auth(composed("POSTROOM_TOKEN_ALICE"));
    let request = request.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let answer =
        request.json(&sales("2025-05-05", "2025-05-11")).timeout(Duration::from_secs(30)).send().await.unwrap();
    let accepted: Value = answer.json().await.unwrap();
    let id = accepted["id"].as_str().unwrap();

    let mut told = BTreeMap::new();
    while told.len() < 4 {
        let event = tokio::time::timeout(DEADLINE, events.next()).await.expect("an event in time").unwrap().unwrap();
        let body: Value = serde_json::from_slice(&event.data).unwrap();
        let headers = event.properties.headers().as_ref().map(|headers| headers.inner().clone()).unwrap_or_default();
        let trace = headers.get("traceparent").and_then(|trace| trace.as_long_string()).map(ToString::to_string);
        // Other tests' jobs have traces of their own.
        if let Some(trace) = trace.filter(|trace| trace.contains(TRACE)) {
            told.insert((body["job"]["kind"].as_str().unwrap().to_owned(), event.routing_key.to_string()), trace);
        } else {
            assert_ne!(body["job"]["id"], id, "without its trace: {body:#}");
        }
    }
    let told: Vec<_> = told.keys().map(|(kind, event)| (kind.as_str(), event.as_str())).collect();
    let report = ["job.queued", "job.succeeded", "report.ready"].map(|event| ("report.render", event));
    assert_eq!(told, [&[("email.send", "job.succeeded")], report.as_slice()].concat());
    mail_arrived(id).await;
    connection.close(200, "done".into()).await.unwrap();
}
