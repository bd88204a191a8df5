use futures_util::{StreamExt, stream};
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use pipeline::topology::{Lane, RETURN};
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Behind, Web, database, november, problem, vhost, wait};

const LENGTH: u32 = 50;
const NINE_TENTHS: u32 = 45;

/// What a worker does at the end of a wait: a copy comes back to its queue.
async fn a_retry_returns(channel: &lapin::Channel) {
    let properties = BasicProperties::default().with_delivery_mode(2);
    #[expect(clippy::disallowed_methods, reason = "stands for the broker's own return from a delay queue")]
    let published = channel.basic_publish(
        RETURN.into(),
        "report.normal.5s".into(),
        BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
        b"{}",
        properties,
    );
    let confirmed = published.await.unwrap().await.unwrap();
    assert!(matches!(confirmed, lapin::Confirmation::Ack(None)), "{confirmed:?}");
}

#[tokio::test]
async fn new_work_is_refused_from_nine_tenths_on_while_retries_find_room_and_taken_again_when_there_is_some() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind { queue_length: LENGTH, ..Behind::broker(&vhost) }).await;
    for taken in 0..NINE_TENTHS {
        assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED, "{taken}");
    }
    wait("the queue is known to be nearly full", async || web.app().refuses(Lane::Normal)).await;
    problem(web.post_report(&november()).await, 503, "queue-full").await;
    // Under a key too, which is then anybody's still.
    problem(web.post_report_once("k", &november()).await, 503, "queue-full").await;
    let mut other = november();
    other["group_by"] = json!("week");
    problem(web.post_report_once("k", &other).await, 503, "queue-full").await;
    // Another lane is another queue.
    let mut urgent = november();
    urgent["lane"] = json!("urgent");
    assert_eq!(web.post_report(&urgent).await.status(), StatusCode::ACCEPTED);

    let channel = vhost.channel();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    for _ in NINE_TENTHS..LENGTH {
        a_retry_returns(channel).await;
    }
    vhost.wait_ready("report.normal", LENGTH).await;
    for _ in 0..10 {
        vhost.take("report.normal").await;
    }
    wait("it is known to have room", async || !web.app().refuses(Lane::Normal)).await;
    assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED);
    web.stop().await;
    vhost.finish(&[("report.normal", 41), ("report.urgent", 1), ("tracker.lifecycle", 47)]).await;
}

#[tokio::test]
async fn a_flood_against_a_full_queue_is_turned_away_without_piling_up() {
    const FLOOD: usize = 2000;
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind { queue_length: LENGTH, ..Behind::both(&vhost, &database) }).await;
    for _ in 0..NINE_TENTHS {
        assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED);
    }
    wait("the queue is known to be nearly full", async || web.app().refuses(Lane::Normal)).await;
    let most = stream::iter(0..FLOOD)
        .map(async |_| {
            let response = web.post_report(&november()).await;
            assert_eq!(response.headers()["retry-after"], "30");
            problem(response, 503, "queue-full").await;
            web.app().outstanding()
        })
        .buffer_unordered(200)
        .fold(0, async |most, outstanding| most.max(outstanding))
        .await;
    assert_eq!(most, 0, "what is refused never waits for the broker");
    web.stop().await;
    vhost.finish(&[("report.normal", NINE_TENTHS)]).await;
}

#[tokio::test]
async fn what_is_known_of_a_queue_is_forgotten_when_the_broker_is_lost() {
    let vhost = vhost().await;
    let proxy = backing::Proxy::start(&vhost.url("web")).await;
    let behind = Behind { broker_url: proxy.url.clone(), queue_length: LENGTH, ..Behind::broker(&vhost) };
    let web = Web::start_connected(behind).await;
    for _ in 0..NINE_TENTHS {
        assert_eq!(web.post_report(&november()).await.status(), StatusCode::ACCEPTED);
    }
    wait("the queue is known to be nearly full", async || web.app().refuses(Lane::Normal)).await;
    let told = Some(NINE_TENTHS);
    wait("the tracker is asked to write all down", async || vhost.ready("tracker.lifecycle").await == told).await;
    proxy.cut(true);
    wait("nothing is known", async || !web.app().refuses(Lane::Normal)).await;
    proxy.cut(false);
    wait("the queue is known again", async || web.app().refuses(Lane::Normal)).await;
    web.stop().await;
    vhost.finish(&[("report.normal", NINE_TENTHS), ("tracker.lifecycle", NINE_TENTHS)]).await;
}
