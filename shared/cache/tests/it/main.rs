//! Against the real Redis: start it by `compose/up redis-cache redis-durable postgres`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod fetch;
mod herd;
mod interleavings;
mod limits;
mod notices;
mod processes;
mod race;
mod redis_server;
mod rewriting;
mod scripts;

use std::time::{Duration, Instant};

use cache::{Redis, RedisSettings, Role};
use tokio::net::TcpListener;
use uuid::Uuid;

/// For calls of tests that are about something else: a loaded machine has its pauses.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server's keys for one test.
fn own_keys(role: Role) -> Redis {
    let url = match role {
        Role::Cache => backing::redis_url("cache"),
        Role::Durable => backing::redis_url("durable"),
    };
    at(&url, role).with_deadline(PATIENCE)
}

fn at(url: &str, role: Role) -> Redis {
    let prefix = format!("test-{}", Uuid::new_v4().simple());
    Redis::new(&RedisSettings { url: url.into(), prefix }, role).unwrap()
}

/// An address where nobody is.
async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("redis://{}", listener.local_addr().unwrap())
}

/// A server that is known to be away.
async fn away() -> Redis {
    let redis = at(&nowhere().await, Role::Cache);
    while !redis.is_away() {
        redis.query::<()>("look", &redis::cmd("PING")).await.unwrap_err();
    }
    redis
}

/// Waits until it is so.
async fn until(what: &str, question: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !question().await {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The script that fills an entry, without the one test by which all stands.
fn without_token_check() -> String {
    let (fill, check) = (include_str!("../../src/cache/fill.lua"), "if redis.call('GET', KEYS[2]) ~= ARGV[1] then");
    assert!(fill.contains(check), "the script has changed");
    fill.replace(check, "if false then")
}
