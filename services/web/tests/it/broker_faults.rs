use std::time::{Duration, Instant};

use pipeline::topology;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Behind, Web, november, problem, vhost, wait};

/// The deadline of a publish, and what a loaded machine may need beside it.
const SOON: Duration = Duration::from_secs(3);

#[tokio::test]
async fn without_a_broker_work_is_refused_at_once_and_the_rest_is_served() {
    let web = Web::start(Behind::nothing()).await;
    let begun = Instant::now();
    problem(web.post_report(&november()).await, 503, "broker-unavailable").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(web.get("/openapi.json").await.status(), StatusCode::OK);
    web.stop().await;
}

#[tokio::test]
async fn a_job_that_no_queue_takes_is_never_answered_with_202() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let unbound = vhost.channel().queue_unbind(
        "report.normal".into(),
        topology::JOBS.into(),
        "report.render.normal".into(),
        Default::default(),
    );
    unbound.await.unwrap();
    let begun = Instant::now();
    problem(web.post_report(&november()).await, 503, "no-queue").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_full_queue_is_answered_with_503_and_when_to_come_again() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let policy = json!({"pattern": "^report\\.normal$", "definition": {"max-length": 1}, "apply-to": "queues"});
    vhost.manage(Method::PUT, "policies", "/small", Some(policy)).await;
    // A quorum queue may overshoot its limit a little before it refuses.
    let mut taken = 0;
    let refused = loop {
        let response = web.post_report(&november()).await;
        if response.status() != StatusCode::ACCEPTED {
            break response;
        }
        taken += 1;
        assert!(taken < 100, "the queue takes more than its limit");
    };
    problem(refused, 503, "queue-full").await;
    web.stop().await;
    vhost.finish(&[("report.normal", taken), ("tracker.lifecycle", taken)]).await;
}

#[tokio::test]
async fn an_answer_that_the_broker_owes_is_waited_for_no_longer_than_the_deadline() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.url("web")).await;
    let web = Web::start_connected(Behind { broker_url: proxy.url.clone(), ..Behind::nothing() }).await;
    proxy.open.send_replace(false);
    let begun = Instant::now();
    let problem = problem(web.post_report(&november()).await, 503, "outcome-unknown").await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert!(problem["job"].as_str().unwrap().starts_with("/v1/jobs/"), "{problem}");
    proxy.open.send_replace(true);
    web.stop().await;
    // It was on its way and arrives now, as an unknown outcome may.
    vhost.wait_ready("report.normal", 1).await;
    vhost.finish(&[("report.normal", 1)]).await;
}

#[tokio::test]
async fn a_lost_connection_is_a_503_until_it_is_back_by_itself() {
    let vhost = vhost().await;
    let proxy = Proxy::start(&vhost.url("web")).await;
    let web = Web::start_connected(Behind { broker_url: proxy.url.clone(), ..Behind::nothing() }).await;
    assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED);
    proxy.cut.send_replace(true);
    wait("the loss is noticed", async || web.post_report(&november()).await.status() != StatusCode::ACCEPTED).await;
    let kind = web.post_report(&november()).await.json::<Value>().await.unwrap();
    assert_eq!(kind["type"], "/problems/broker-unavailable");
    proxy.cut.send_replace(false);
    wait("work is taken again", async || web.post_report(&november()).await.status() == StatusCode::ACCEPTED).await;
    web.stop().await;
    let (jobs, events) = (vhost.ready("report.normal").await.unwrap(), vhost.ready("tracker.lifecycle").await.unwrap());
    assert!(jobs >= 2, "{jobs}");
    vhost.finish(&[("report.normal", jobs), ("tracker.lifecycle", events)]).await;
}

/// A way to the broker that can fall silent (`open` false) or break off (`cut` true).
struct Proxy {
    url: String,
    open: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

impl Proxy {
    async fn start(target: &str) -> Self {
        let (_, address) = target.split_once('@').unwrap();
        let address = address.split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = target.replace(&address, &listener.local_addr().unwrap().to_string());
        let (open, cut) = (watch::channel(true).0, watch::channel(false).0);
        let proxy = Self { url, open: open.clone(), cut: cut.clone() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.unwrap();
                tokio::spawn(carry(near, far, open.subscribe(), cut.subscribe()));
            }
        });
        proxy
    }
}

async fn carry(
    mut near: TcpStream,
    mut far: TcpStream,
    mut open: watch::Receiver<bool>,
    mut cut: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            _ = cut.wait_for(|cut| *cut) => return,
            _ = open.wait_for(|open| !open) => {}
            _ = copy_bidirectional(&mut near, &mut far) => return,
        }
        // Silent, but not gone: what either side sends now waits in its socket.
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
    }
}
