//! Readers and writers of a few items in several processes: does a read that began after an invalidation see what was before it?
//! The usual recipes, and this cache without its one test, are found out by the same race.

#![expect(clippy::print_stdout, reason = "figures to look at, of which no test asserts one that is a time")]

use std::time::Duration;

use backing::OwnRedis;
use cache::{Redis, RedisSettings, Role};
use futures_util::future::{OptionFuture, Ready, join_all};
use serde_json::{Value, json};

use crate::processes::{ALONE, Ground, Process, Times};
use crate::rewriting::Rewriting;
use crate::without_token_check;

const ITEMS: i32 = 6;
/// Two less than nearly every load takes, two more. Values are fresh for less long than many loads take, and kept until the last look.
const TIMES: Times<'static> = Times { fresh_ms: 30, grace_ms: 600_000, leases_ms: &[5, 5, 50, 500] };

/// What all processes saw; and in the end the items that are stored, and those of them whose version is not that of the database.
struct Outcome {
    seen: Value,
    stored: Vec<i32>,
    stale: Vec<i32>,
}

impl Outcome {
    fn bad(&self) -> u64 {
        self.seen["bad"].as_u64().unwrap()
    }
}

/// Lets them race; `meanwhile` is what else happens. Without it the race is over when each process has seen a bad read.
async fn race(kind: &str, redis: &str, seconds: u64, meanwhile: Option<impl Future<Output = ()>>) -> Outcome {
    let ground = Ground::prepare(ITEMS).await;
    let task = json!({ "Race": { "seconds": seconds, "readers": 8, "writers": 2, "items": ITEMS, "ends_when_bad": meanwhile.is_none() } });
    let mut processes = ground.start(redis, kind, &TIMES, task).await;
    join_all(processes.iter_mut().map(Process::begin)).await;
    let results = join_all(processes.iter_mut().map(Process::result));
    let (results, _) = tokio::join!(results, OptionFuture::from(meanwhile));
    join_all(processes.into_iter().map(Process::end)).await;
    let mut seen = json!({});
    for name in ["reads", "loads", "writes", "bad", "errors"] {
        seen[name] = json!(results.iter().map(|result| result[name].as_u64().unwrap()).sum::<u64>());
    }
    let (stored, stale) = last_look(&ground, redis).await;
    println!("{kind}: {seen}, stored in the end: {stored:?}, stale: {stale:?}");
    Outcome { seen, stored, stale }
}

/// Whether a bad read is seen within a while; mostly within a second.
async fn is_found_out(kind: &str, redis: &str) -> bool {
    race(kind, redis, 20, None::<Ready<()>>).await.bad() > 0
}

async fn last_look(ground: &Ground, redis: &str) -> (Vec<i32>, Vec<i32>) {
    let redis = Redis::new(&RedisSettings { url: redis.into(), prefix: ground.prefix.clone() }, Role::Cache).unwrap();
    let (mut found, mut stale) = (Vec::new(), Vec::new());
    for (item, version) in ground.versions().await {
        let key = redis.key(&["value", &format!("item:1:{item}")]);
        let stored: Option<String> = redis.query("look", redis::cmd("GET").arg(&key)).await.unwrap();
        let Some(stored) = stored else { continue };
        found.push(item);
        // The recipes keep the bare version.
        if stored.rsplit('\x11').next() != Some(version.to_string().as_str()) {
            stale.push(item);
        }
    }
    (found, stale)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_that_began_after_an_invalidation_sees_what_was_before_it_also_when_redis_is_killed() {
    let _alone = ALONE.lock().await;
    let redis = OwnRedis::start();
    let kills = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(2_000)).await;
            tokio::task::block_in_place(|| {
                redis.kill();
                redis.start_again();
            });
        }
    };
    let outcome = race("Leased", &redis.url(), 10, Some(kills)).await;
    let count = |name: &str| outcome.seen[name].as_u64().unwrap();
    assert!(count("reads") > 300 && count("writes") > 50, "nothing was tried: {}", outcome.seen);
    assert_eq!((outcome.bad(), outcome.stale), (0, vec![]));
    assert!(!outcome.stored.is_empty(), "the last look has found nothing to look at");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_race_finds_out_a_cache_that_looks_loads_and_sets() {
    let _alone = ALONE.lock().await;
    assert!(is_found_out("Naive", &backing::redis_url("cache")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_race_finds_out_a_cache_that_loads_under_a_lock() {
    let _alone = ALONE.lock().await;
    assert!(is_found_out("Locked", &backing::redis_url("cache")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_race_finds_out_this_cache_without_the_check_of_its_tokens() {
    let _alone = ALONE.lock().await;
    let [fill, unchecked] = [include_str!("../../src/cache/fill.lua"), &without_token_check()].map(redis::Script::new);
    let url = backing::redis_url("cache");
    let redis = redis::Client::open(url.as_str()).unwrap();
    unchecked.load_async(&mut redis.get_multiplexed_async_connection().await.unwrap()).await.unwrap();
    let rewriting = Rewriting::start(&url, fill.get_hash(), unchecked.get_hash()).await;
    assert!(is_found_out("Leased", &rewriting.url).await);
}
