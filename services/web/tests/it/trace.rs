use backing::logs;
use lapin::message::Delivery;
use reqwest::Response;

use crate::harness::{ALICE, Behind, Web, november, vhost};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn header(delivery: &Delivery, name: &str) -> Option<String> {
    let headers = delivery.properties.headers().as_ref()?;
    headers.inner().get(name)?.as_long_string().map(ToString::to_string)
}

async fn ask(web: &Web, headers: &[(&str, &str)]) -> Response {
    let request = web.client.post(web.url("/v1/reports")).bearer_auth(ALICE).json(&november());
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 202);
    response
}

#[tokio::test]
async fn the_trace_of_a_request_goes_on_in_its_job_and_in_the_log() {
    logs::keep();
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let headers = [
        ("traceparent", parent.as_str()),
        ("tracestate", "a=1"),
        ("tracestate", "b=2"),
        ("baggage", "shop=1"),
        ("baggage", "user=2"),
    ];
    let answer = ask(&web, &headers).await;
    assert!(!answer.headers().keys().any(|name| name.as_str().starts_with("trace")), "{:?}", answer.headers());
    let job = vhost.take("report.normal").await;
    let event = vhost.take("tracker.lifecycle").await;
    for message in [&job, &event] {
        let carried = header(message, "traceparent").unwrap();
        assert!(carried.starts_with(&format!("00-{TRACE}-")) && carried.ends_with("-01"), "{carried}");
        assert!(!carried.contains(SPAN), "the request is a span of its own: {carried}");
        assert_eq!(header(message, "tracestate").as_deref(), Some("a=1,b=2"));
        assert_eq!(header(message, "baggage").as_deref(), Some("shop=1,user=2"));
    }
    web.stop().await;
    let lines = logs::with(TRACE);
    for message in ["accepted", "request"] {
        let told = |line: &serde_json::Value| line["message"] == message && line["span"]["trace.id"] == TRACE;
        assert!(lines.iter().any(told), "{message}: {lines:#?}");
    }
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_request_without_a_trace_or_with_a_wrong_one_begins_its_own() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let mut traces = Vec::new();
    for headers in [
        vec![],
        vec![("traceparent", "00-0-0-0"), ("tracestate", "a=1")],
        vec![("traceparent", parent.as_str()), ("traceparent", parent.as_str())],
        vec![("traceparent", parent.as_str()), ("traceparent", "\u{e4}")],
    ] {
        ask(&web, &headers).await;
        let job = vhost.take("report.normal").await;
        let carried = header(&job, "traceparent").unwrap();
        assert!(pipeline::TraceContext::parse(&carried, None).is_some(), "{carried}");
        assert_eq!(header(&job, "tracestate"), None);
        traces.push(carried[3..35].to_owned());
    }
    traces.push(TRACE.to_owned());
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 5, "{traces:?}");
    web.stop().await;
    vhost.purge("tracker.lifecycle").await;
    vhost.finish(&[]).await;
}
