use pipeline::topology::Lane;
use pipeline::{Broker, BrokerState, OutgoingJob, SealedJob};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{TIME_SCALE, empty_vhost};

#[tokio::test]
async fn a_missing_queue_hides_no_other_that_is_nearly_full() {
    let vhost = empty_vhost().await;
    let settings = json!({"url": vhost.url("web"), "time_scale": TIME_SCALE, "queue_length": 10});
    let broker = Broker::start(&serde_json::from_value(settings).unwrap(), "web").unwrap();
    let state = broker.publishing_state();
    vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
    // Looked at before those of reports.
    vhost.channel().queue_delete("order.normal".into(), Default::default()).await.unwrap();
    for _ in 0..9 {
        let job = OutgoingJob { lane: Lane::Bulk, ..OutgoingJob::new(Uuid::now_v7(), json!({})) };
        broker.publisher().publish_sealed(&SealedJob { kind: "report.render".to_owned(), job }).await.unwrap();
    }
    let (fullness, drain) = (broker.fullness(), CancellationToken::new());
    let watching = tokio::spawn(fullness.clone().watch(drain.clone()));
    vhost.wait("it is known", || async { fullness.is_nearly_full("report.render", Lane::Bulk) }).await;
    vhost.purge("report.bulk").await;
    vhost.wait("it has room", || async { !fullness.is_nearly_full("report.render", Lane::Bulk) }).await;
    drain.cancel();
    watching.await.unwrap();
    broker.close().await;
    vhost.finish(&[]).await;
}
