//! 10,000 requests in four processes, at the moment when a value is missing or past its time.

#![expect(clippy::print_stdout, reason = "figures to look at, of which no test asserts one that is a time")]

use std::time::Duration;

use backing::OwnRedis;
use cache::{Cache, Redis, RedisSettings, Role};
use futures_util::future::{join_all, select_all};
use serde_json::json;
use sqlx::Connection;
use tokio::time::timeout;

use crate::processes::{ALONE, Ground, Process, Times};
use crate::{PATIENCE, nowhere, until};

const PROCESSES: usize = 4;
const REQUESTS: usize = 2_500;
/// Longer than any load takes, also on a loaded machine.
const LEASE_MS: u64 = 30_000;
/// Far longer than a herd of which one was killed takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// What all ask for.
const ITEM: &str = "item:1:0";

/// A herd of which each is to be given `version`.
#[derive(Clone, Copy)]
struct Herd {
    lease_ms: u64,
    version: i64,
    /// Whether its processes have had the value before.
    warm: bool,
}

const COLD: Herd = Herd { lease_ms: LEASE_MS, version: 1, warm: false };

async fn start(ground: &Ground, redis: &str, herd: Herd) -> Vec<Process> {
    let times = Times { fresh_ms: 60_000, grace_ms: 60_000, leases_ms: &[herd.lease_ms; PROCESSES] };
    let task = json!({ "Herd": { "requests": REQUESTS, "version": herd.version, "warm": herd.warm } });
    ground.start(redis, "Leased", &times, task).await
}

async fn begin(processes: &mut [Process]) {
    join_all(processes.iter_mut().map(Process::begin)).await;
}

/// Waits for the answers; each request must have the one it is to have.
async fn answers(what: &str, processes: &mut [Process]) {
    let (mut slowest, mut load) = (0, 0);
    let requests = processes.len() * REQUESTS;
    for result in join_all(processes.iter_mut().map(Process::result)).await {
        assert_eq!(result["answered"], REQUESTS);
        slowest = slowest.max(result["slowest_ms"].as_u64().unwrap());
        load = load.max(result["load_ms"].as_u64().unwrap());
    }
    let beside = slowest.saturating_sub(load);
    println!("{what}: {requests} requests, the slowest waited {slowest} ms: a load of {load} ms and {beside} ms");
}

/// The same to the end; how many loads there were.
async fn finish(what: &str, ground: &Ground, mut processes: Vec<Process>) -> i64 {
    answers(what, &mut processes).await;
    join_all(processes.into_iter().map(Process::end)).await;
    ground.loads().await
}

/// Puts the first version of the item there, fresh until a moment (ms).
async fn put(ground: &Ground, expiry: u64) {
    put_at(&backing::redis_url("cache"), ground, expiry).await;
}

async fn put_at(url: &str, ground: &Ground, expiry: u64) {
    let redis = cache_at(url, ground);
    let put = redis::cmd("SET").arg(redis.key(&["value", ITEM])).arg(format!("{expiry} 200 \x111")).to_owned();
    redis.query::<()>("put a value there", &put).await.unwrap();
}

fn cache(ground: &Ground) -> Redis {
    cache_at(&backing::redis_url("cache"), ground)
}

fn cache_at(url: &str, ground: &Ground) -> Redis {
    let settings = RedisSettings { url: url.into(), prefix: ground.prefix.clone() };
    Redis::new(&settings, Role::Cache).unwrap().with_deadline(PATIENCE)
}

#[tokio::test]
async fn a_missing_value_is_loaded_once_for_ten_thousand_requests_of_four_processes() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let mut processes = start(&ground, &backing::redis_url("cache"), COLD).await;
    begin(&mut processes).await;
    assert_eq!(finish("cold", &ground, processes).await, 1);
}

#[tokio::test]
async fn a_value_that_was_just_invalidated_is_loaded_once_for_ten_thousand_requests_of_four_processes() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    put(&ground, u64::MAX / 2).await;
    let herd = Herd { version: 2, warm: true, ..COLD };
    let mut processes = start(&ground, &backing::redis_url("cache"), herd).await;
    ground.write(0).await;
    Cache::new(cache(&ground), 1).invalidate_entry(ITEM).await.unwrap();
    begin(&mut processes).await;
    assert_eq!(finish("just invalidated", &ground, processes).await, 1);
}

#[tokio::test]
async fn past_its_time_a_value_is_given_to_ten_thousand_requests_of_four_processes_while_one_loads() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    put(&ground, 1).await;
    ground.write(0).await;
    // No load ends before all are served.
    let mut holding = ground.connect().await;
    sqlx::query("SELECT pg_advisory_lock(1)").execute(&mut holding).await.unwrap();
    let mut processes = start(&ground, &backing::redis_url("cache"), COLD).await;
    begin(&mut processes).await;
    answers("past its time", &mut processes).await;
    until("one loads", async || ground.loads().await > 0).await;
    join_all(processes.into_iter().map(Process::end)).await;
    assert_eq!(ground.loads().await, 1);
    holding.close().await.unwrap();
}

#[tokio::test]
async fn a_value_is_loaded_twice_when_the_process_that_loads_it_is_killed() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    // Nobody lives to see its end.
    let herd = Herd { lease_ms: 3_600_000, ..COLD };
    let mut processes = start(&ground, &backing::redis_url("cache"), herd).await;
    let redis = cache(&ground);
    let holders = redis::cmd("PUBSUB").arg("CHANNELS").arg(redis.key(&["holder", "*"])).to_owned();
    until("all are seen", async || {
        redis.query::<Vec<String>>("ask who is there", &holders).await.unwrap().len() == PROCESSES
    })
    .await;
    begin(&mut processes).await;
    let (line, holder) = {
        let (line, holder, _) = select_all(processes.iter_mut().map(|process| Box::pin(process.line()))).await;
        (line, holder)
    };
    assert_eq!(line, "loading");
    processes.swap_remove(holder).kill().await;
    let finished = timeout(DEADLINE, finish("the holder killed", &ground, processes));
    assert_eq!(finished.await.expect("nobody waits for its lease"), 2);
}

/// At most two a process: one for the first who came, one for all who came while it was loading.
fn assert_bounded(loads: i64) {
    assert!((1..=2 * PROCESSES as i64).contains(&loads), "{loads} loads");
}

#[tokio::test]
async fn without_a_redis_each_process_loads_twice_at_most() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let mut processes = start(&ground, &nowhere().await, COLD).await;
    begin(&mut processes).await;
    assert_bounded(finish("refused", &ground, processes).await);
}

#[tokio::test]
async fn with_a_frozen_redis_each_process_loads_twice_at_most() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let redis = OwnRedis::start();
    let mut processes = start(&ground, &redis.url(), COLD).await;
    redis.freeze();
    begin(&mut processes).await;
    assert_bounded(finish("frozen", &ground, processes).await);
}

/// The value is there and fresh, and nobody can read it any more.
#[tokio::test]
async fn of_a_redis_that_freezes_while_it_is_read_each_process_loads_twice_at_most() {
    let _alone = ALONE.lock().await;
    let ground = Ground::prepare(1).await;
    let redis = OwnRedis::start();
    put_at(&redis.url(), &ground, u64::MAX / 2).await;
    ground.write(0).await;
    let herd = Herd { version: 2, warm: true, ..COLD };
    let mut processes = start(&ground, &redis.url(), herd).await;
    redis.freeze();
    begin(&mut processes).await;
    assert_bounded(finish("frozen, warm", &ground, processes).await);
}
