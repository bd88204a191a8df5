//! A listener, and a Redis that goes away without a word.

use std::time::Duration;

use backing::Proxy;
use cache::{Heard, Redis, RedisSettings, Role};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Far longer than a listener takes to notice anything.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_listener_notices_a_redis_that_falls_silent_or_breaks_off_and_hears_it_again() {
    let direct = backing::redis_url("cache");
    let proxy = Proxy::start(&direct).await;
    let redis = |url: &str| {
        let settings = RedisSettings { url: url.into(), prefix: "test".to_owned() };
        Redis::new(&settings, Role::Cache).unwrap()
    };
    let (listener, publisher) = (redis(&proxy.url), redis(&direct));
    let channel = format!("test-{}", Uuid::new_v4().simple());
    let (live, drain) = (watch::channel(false).0, CancellationToken::new());
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let listening = tokio::spawn({
        let (channel, live, drain) = (channel.clone(), live.clone(), drain.clone());
        async move { listener.listen(&channel, &live, &drain, |what| drop(heard.send(format!("{what:?}")))).await }
    });
    let mut next = async || timeout(DEADLINE, hearing.recv()).await.unwrap().unwrap();
    let (begun, interrupted) = (format!("{:?}", Heard::Begun), format!("{:?}", Heard::Interrupted));
    let publish = async |text: &str| {
        let told: i64 = publisher.query("tell", redis::cmd("PUBLISH").arg(&channel).arg(text)).await.unwrap();
        assert!(told > 0, "somebody listens");
    };
    assert_eq!(next().await, begun);
    publish("one").await;
    assert_eq!(next().await, format!("{:?}", Heard::Notice("one")));

    proxy.silence(true);
    assert_eq!(next().await, interrupted);
    assert!(!*live.borrow());
    proxy.silence(false);
    assert_eq!(next().await, begun);

    proxy.cut(true);
    assert_eq!(next().await, interrupted);
    proxy.cut(false);
    assert_eq!(next().await, begun);
    assert!(*live.borrow());
    publish("two").await;
    assert_eq!(next().await, format!("{:?}", Heard::Notice("two")));
    drain.cancel();
    timeout(DEADLINE, listening).await.unwrap().unwrap();
}
