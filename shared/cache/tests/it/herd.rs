//! 10,000 requests in four processes, at the moment when a value is missing.

#![expect(clippy::print_stdout, reason = "figures to look at, of which no test asserts one that is a time")]

use backing::OwnRedis;
use futures_util::future::{join_all, select_all};
use serde_json::json;

use crate::nowhere;
use crate::processes::{ALONE, Ground, Process, Times};

const PROCESSES: usize = 4;
const REQUESTS: usize = 2_500;
/// Longer than any load takes, also on a loaded machine.
const LEASE_MS: u64 = 30_000;

async fn start(ground: &Ground, redis: &str, lease_ms: u64) -> Vec<Process> {
    let times = Times { fresh_ms: 60_000, leases_ms: &[lease_ms; PROCESSES] };
    ground.start(redis, "Leased", &times, json!({ "Herd": { "requests": REQUESTS } })).await
}

async fn begin(processes: &mut [Process]) {
    join_all(processes.iter_mut().map(Process::begin)).await;
}

/// Waits for the answers; each request must have one.
async fn finish(what: &str, ground: &Ground, processes: Vec<Process>) -> i64 {
    let (mut slowest, count) = (0, processes.len());
    for result in join_all(processes.into_iter().map(Process::result)).await {
        assert_eq!(result["answered"], REQUESTS);
        slowest = slowest.max(result["slowest_ms"].as_u64().unwrap());
    }
    let loads = ground.loads().await;
    println!("{what}: {} requests, {loads} loads of 200 ms, the slowest answer after {slowest} ms", count * REQUESTS);
    loads
}

#[tokio::test]
async fn a_missing_value_is_loaded_once_for_ten_thousand_requests_of_four_processes() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let mut processes = start(&ground, &backing::redis_url("cache"), LEASE_MS).await;
    begin(&mut processes).await;
    assert_eq!(finish("cold", &ground, processes).await, 1);
}

#[tokio::test]
async fn a_value_is_loaded_twice_when_the_process_that_loads_it_is_killed() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let mut processes = start(&ground, &backing::redis_url("cache"), 4_000).await;
    begin(&mut processes).await;
    let (line, holder) = {
        let (line, holder, _) = select_all(processes.iter_mut().map(|process| Box::pin(process.line()))).await;
        (line, holder)
    };
    assert_eq!(line, "loading");
    processes.swap_remove(holder).kill().await;
    assert_eq!(finish("the holder killed, its lease 4,000 ms", &ground, processes).await, 2);
}

/// At most two a process: one for the first who came, one for all who came while it was loading.
fn assert_bounded(loads: i64) {
    assert!((1..=2 * PROCESSES as i64).contains(&loads), "{loads} loads");
}

#[tokio::test]
async fn without_a_redis_each_process_loads_twice_at_most() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let mut processes = start(&ground, &nowhere().await, LEASE_MS).await;
    begin(&mut processes).await;
    assert_bounded(finish("refused", &ground, processes).await);
}

#[tokio::test]
async fn with_a_frozen_redis_each_process_loads_twice_at_most() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let redis = OwnRedis::start();
    let mut processes = start(&ground, &redis.url(), LEASE_MS).await;
    redis.freeze();
    begin(&mut processes).await;
    assert_bounded(finish("frozen", &ground, processes).await);
}
