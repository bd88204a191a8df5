//! The connection: what its calls say when the server is there, is away, stands still, or is set otherwise.

use std::time::{Duration, Instant};

use backing::Proxy;
use cache::{Redis, RedisError, Role};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{at, nowhere, own_keys, until};

async fn get(redis: &Redis) -> Result<Option<String>, RedisError> {
    redis.query("look", redis::cmd("GET").arg(redis.key(&["nothing"]))).await
}

/// Waits until `/readyz` would say so.
async fn until_ready(redis: &Redis, wanted: &Result<String, String>) {
    let readiness = redis.readiness();
    let end = Instant::now() + Duration::from_secs(30);
    while readiness() != *wanted {
        assert!(Instant::now() < end, "{:?}, not {wanted:?}", readiness());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn both_servers_are_set_as_they_must_be() {
    for role in [Role::Cache, Role::Durable] {
        let redis = own_keys(role);
        let stop = CancellationToken::new();
        let watching = tokio::spawn(redis.clone().watch(stop.clone()));
        until_ready(&redis, &Ok("connected".to_owned())).await;
        assert_eq!(get(&redis).await.unwrap(), None);
        stop.cancel();
        watching.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_set_otherwise_is_named_so() {
    let redis = at(&backing::redis_url("durable"), Role::Cache);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(redis.clone().watch(stop.clone()));
    let differs = r#"appendonly is "yes", not "no", maxmemory-policy is "noeviction", not "allkeys-lfu""#;
    until_ready(&redis, &Err(differs.to_owned())).await;
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_is_not_asked_for_long() {
    let redis = at(&nowhere().await, Role::Cache);
    for _ in 0..3 {
        assert!(matches!(get(&redis).await, Err(RedisError::Failed { .. } | RedisError::Deadline { .. })));
    }
    assert!(redis.is_away());
    for _ in 0..100 {
        assert!(matches!(get(&redis).await, Err(RedisError::Away { .. })));
    }
}

#[tokio::test]
async fn a_server_that_was_away_is_found_again() {
    let proxy = Proxy::start(&backing::redis_url("cache")).await;
    let redis = at(&proxy.url, Role::Cache);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(redis.clone().watch(stop.clone()));
    until_ready(&redis, &Ok("connected".to_owned())).await;
    let losses: [fn(&Proxy, bool); 2] = [Proxy::cut, Proxy::silence];
    for lose in losses {
        lose(&proxy, true);
        // Others ask meanwhile, or nobody would know until the next look.
        until("it is away", async || get(&redis).await.is_err() && redis.is_away()).await;
        until_ready(&redis, &Err("reconnecting".to_owned())).await;
        lose(&proxy, false);
        until_ready(&redis, &Ok("connected".to_owned())).await;
        assert_eq!(get(&redis).await.unwrap(), None);
    }
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redis = at(&format!("redis://{}", listener.local_addr().unwrap()), Role::Cache);
    let asked = (0..100).map(|_| get(&redis)).collect::<Vec<_>>();
    let begun = Instant::now();
    for answer in futures_util::future::join_all(asked).await {
        answer.unwrap_err();
    }
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(redis.is_away());
}

#[tokio::test]
async fn a_no_from_the_server_is_no_sign_that_it_is_away() {
    let redis = own_keys(Role::Cache);
    for _ in 0..5 {
        let refused = redis.query::<()>("forget everything", &redis::cmd("FLUSHALL")).await;
        assert!(matches!(refused, Err(RedisError::Failed { .. })));
    }
    assert!(!redis.is_away());
}
