//! The connection: what its calls say when the server is there, is away, stands still, or is set otherwise.

use std::time::{Duration, Instant};

use backing::Proxy;
use cache::{Redis, RedisError, Role};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::rewriting::Rewriting;
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
    let proxy = Proxy::start(&backing::redis_url("durable")).await;
    let redis = at(&proxy.url, Role::Cache);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(redis.clone().watch(stop.clone()));
    let differs = r#"appendonly is "yes", not "no", maxmemory-policy is "noeviction", not "allkeys-lfu""#;
    until_ready(&redis, &Err(differs.to_owned())).await;
    // Whatever else is heard of it meanwhile.
    proxy.cut(true);
    until("a call fails", async || get(&redis).await.is_err()).await;
    proxy.cut(false);
    until("a call is answered", async || get(&redis).await.is_ok()).await;
    assert_eq!(redis.readiness()(), Err(differs.to_owned()));
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_server_that_will_soon_refuse_to_keep_anything_says_so_where_nothing_may_be_forgotten() {
    // As it would be with next to no memory.
    let (limit, little) = ("maxmemory:201326592\r", "maxmemory:000000123\r");
    for (role, name) in [(Role::Durable, "durable"), (Role::Cache, "cache")] {
        let way = Rewriting::start(&backing::redis_url(name), limit, little).await;
        let redis = at(&way.url, role);
        let (stop, readiness) = (CancellationToken::new(), redis.readiness());
        let watching = tokio::spawn(redis.clone().watch(stop.clone()));
        until("it is measured", async || match role {
            Role::Durable => readiness().is_err_and(|how| how.ends_with(" of 0 MB are in use")),
            Role::Cache => readiness().is_ok(),
        })
        .await;
        stop.cancel();
        watching.await.unwrap();
        assert_eq!(readiness().is_ok(), role == Role::Cache, "a cache is full, and makes room");
    }
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

/// What becomes of the first connection to a server, while further ones are like any other.
#[derive(Clone, Copy)]
enum First {
    /// It goes on, until nothing comes any more, and nobody says so.
    Vanishes,
    /// It is not let in.
    Refused,
}

/// A way to the cache on which something becomes of the first connection, the sooner or later `vanish` has been cancelled.
async fn way_with(first: First, vanish: CancellationToken) -> String {
    let there = Url::parse(&backing::redis_url("cache")).unwrap();
    let to = format!("{}:{}", there.host_str().unwrap(), there.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut here = there;
    here.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((mut client, _)) = listener.accept().await {
            number += 1;
            let (mut server, vanish) = (TcpStream::connect(&to).await.unwrap(), vanish.clone());
            tokio::spawn(async move {
                match first {
                    First::Vanishes if number == 1 => {
                        vanish.run_until_cancelled(copy_bidirectional(&mut client, &mut server)).await;
                        std::future::pending::<()>().await;
                    }
                    First::Refused if number == 1 => {
                        let refusal = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n".repeat(8);
                        client.write_all(&refusal).await.unwrap();
                        std::future::pending::<()>().await;
                    }
                    _ => drop(copy_bidirectional(&mut client, &mut server).await),
                }
            });
        }
    });
    here.to_string()
}

#[tokio::test]
async fn a_connection_that_vanished_without_a_word_is_given_up_for_a_new_one() {
    let vanish = CancellationToken::new();
    let redis = at(&way_with(First::Vanishes, vanish.clone()).await, Role::Cache);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(redis.clone().watch(stop.clone()));
    until_ready(&redis, &Ok("connected".to_owned())).await;
    vanish.cancel();
    // Who watches counts calls of its own, and may have connected anew before anybody else finds the server away.
    until("it does not answer", async || get(&redis).await.is_err()).await;
    until("it answers", async || get(&redis).await.is_ok()).await;
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_server_that_let_nobody_in_is_asked_again() {
    let redis = at(&way_with(First::Refused, CancellationToken::new()).await, Role::Cache);
    until("it is away", async || get(&redis).await.is_err() && redis.is_away()).await;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(redis.clone().watch(stop.clone()));
    until_ready(&redis, &Ok("connected".to_owned())).await;
    until("it answers", async || get(&redis).await.is_ok()).await;
    stop.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_holds_nobody_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redis = at(&format!("redis://{}", listener.local_addr().unwrap()), Role::Cache);
    let asked = (0..100).map(|_| get(&redis)).collect::<Vec<_>>();
    for answer in futures_util::future::join_all(asked).await {
        answer.unwrap_err();
    }
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
