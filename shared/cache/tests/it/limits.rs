//! Limits: never more than they say, by Redis's own clock; and what they say of when to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backing::Proxy;
use cache::{Charge, Limit, Limiter, Redis, RedisSettings, Role, Standing, Verdict};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::own_keys;

/// A hundred a second.
const FAST: Limit = Limit::new("fast", 20, Duration::from_millis(200));
const SLOW: Limit = Limit::new("slow", 10, Duration::from_secs(600));
const OTHER: Limit = Limit::new("other", 3, Duration::from_secs(600));

/// Counters of one test, which runs on one thread.
fn counters() -> (PrometheusRecorder, PrometheusHandle) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    (recorder, handle)
}

/// How often a process decided alone.
fn degraded(handle: &PrometheusHandle) -> u64 {
    let text = handle.render();
    let count = text.lines().find_map(|line| line.strip_prefix("ratelimit_degraded_total "));
    count.map_or(0, |count| count.parse().unwrap())
}

/// The clock of Redis, in microseconds.
async fn time(redis: &Redis) -> u64 {
    let (seconds, micros): (u64, u64) = redis.query("read the clock", &redis::cmd("TIME")).await.unwrap();
    seconds * 1_000_000 + micros
}

async fn take(limiter: &Limiter, limit: Limit, cost: u32) -> Verdict {
    limiter.take(&[Charge { limit, subject: "a", cost }]).await
}

fn given(verdict: &Verdict) -> &[Standing] {
    match verdict {
        Verdict::Allowed(standings) => standings,
        Verdict::Refused { .. } => panic!("{verdict:?}"),
    }
}

fn refused_for(verdict: &Verdict) -> u64 {
    match verdict {
        Verdict::Refused { retry_after, .. } => micros(*retry_after),
        Verdict::Allowed(_) => panic!("{verdict:?}"),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// A way of its own to the same keys, as another process has.
fn another(prefix: &str) -> Redis {
    let settings = RedisSettings { url: backing::redis_url("durable").into(), prefix: prefix.to_owned() };
    Redis::new(&settings, Role::Durable).unwrap().with_deadline(crate::PATIENCE)
}

#[tokio::test]
async fn however_many_processes_ask_no_more_is_given_than_the_limit_says() {
    let (recorder, handle) = counters();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let prefix = format!("test-{}", Uuid::new_v4().simple());
    let clock = another(&prefix);
    let allowed = Arc::new(AtomicU64::new(0));
    let begin = time(&clock).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (process, redis) = (Limiter::new(another(&prefix)), another(&prefix));
        for cost in [1, 1, 2, 5] {
            let (process, redis, allowed) = (process.clone(), redis.clone(), Arc::clone(&allowed));
            tasks.spawn(async move {
                // Five windows, and each of their edges.
                while time(&redis).await < begin + 1_000_000 {
                    if let Verdict::Allowed(_) = take(&process, FAST, cost).await {
                        allowed.fetch_add(cost.into(), Ordering::Relaxed);
                    }
                }
            });
        }
    }
    tasks.join_all().await;
    let elapsed = time(&clock).await - begin;
    let allowed = allowed.load(Ordering::Relaxed);
    // A call without an answer in time was decided by its process, and gave five units at most.
    let most = 20 + elapsed / 10_000 + 5 * degraded(&handle);
    assert!((20..=most).contains(&allowed), "{allowed} given in {elapsed} us, not 20 to {most}");
}

#[tokio::test]
async fn who_waits_as_long_as_was_said_is_served_and_nobody_before() {
    let limit = Limit::new("exact", 4, Duration::from_millis(800));
    let redis = own_keys(Role::Durable);
    let limiter = Limiter::new(redis.clone());
    for cost in [1, 2, 4] {
        let (before, wait, after) = loop {
            // As much as there is, so that the next of this cost is refused, unless some has come back already.
            while let Verdict::Allowed(_) = take(&limiter, limit, 1).await {}
            let before = time(&redis).await;
            let verdict = take(&limiter, limit, cost).await;
            if let Verdict::Refused { retry_after, .. } = verdict {
                break (before, micros(retry_after), time(&redis).await);
            }
        };
        assert!(wait <= u64::from(cost) * 200_000, "{cost}: {wait}");
        loop {
            let begun = time(&redis).await;
            let verdict = take(&limiter, limit, cost).await;
            let ended = time(&redis).await;
            match verdict {
                Verdict::Refused { .. } => assert!(begun < after + wait, "{cost}: refused later than was said"),
                Verdict::Allowed(_) => {
                    assert!(ended >= before + wait, "{cost}: served earlier than was said");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn the_standing_says_what_is_left_and_when_all_is_back() {
    let limiter = Limiter::new(own_keys(Role::Durable));
    for (cost, left) in [(1, 9), (6, 3), (0, 3), (3, 0)] {
        let verdict = take(&limiter, SLOW, cost).await;
        let standing = given(&verdict)[0];
        assert_eq!((standing.limit, standing.remaining), (SLOW, left));
        // A unit comes back in a minute; the test has not lasted so long.
        let minutes = u64::from(10 - left);
        let expected = Duration::from_secs(60 * (minutes - 1))..=Duration::from_secs(60 * minutes);
        assert!(expected.contains(&standing.whole_in), "{standing:?}");
    }
    let refused = take(&limiter, SLOW, 1).await;
    assert!(refused_for(&refused) <= 60_000_000);
    let Verdict::Refused { standings, .. } = refused else { panic!() };
    assert_eq!(standings[0].remaining, 0);
}

#[tokio::test]
async fn a_refusal_by_one_limit_takes_nothing_from_the_others() {
    let limiter = Limiter::new(own_keys(Role::Durable));
    let both = [Charge { limit: SLOW, subject: "a", cost: 1 }, Charge { limit: OTHER, subject: "b", cost: 1 }];
    for _ in 0..3 {
        given(&limiter.take(&both).await);
    }
    for _ in 0..20 {
        assert!(refused_for(&limiter.take(&both).await) > 60_000_000);
    }
    assert_eq!(given(&take(&limiter, SLOW, 0).await)[0].remaining, 7);
    // In the other order too: what comes first is not taken before the second is asked.
    let refused = limiter.take(&[both[1], both[0]]).await;
    assert!(refused_for(&refused) > 60_000_000);
    assert_eq!(given(&take(&limiter, SLOW, 0).await)[0].remaining, 7);
}

#[tokio::test]
async fn each_limit_and_each_subject_has_a_key_and_none_outlives_its_use() {
    let redis = own_keys(Role::Durable);
    let limiter = Limiter::new(redis.clone());
    for limit in [SLOW, OTHER, FAST] {
        for subject in ["a", "b"] {
            for cost in [1, 1, 0, 1, 1] {
                limiter.take(&[Charge { limit, subject, cost }]).await;
            }
        }
    }
    for (limit, taken) in [(SLOW, 4), (OTHER, 3)] {
        for subject in ["a", "b"] {
            let key = redis.key(&["limit", limit.name(), subject]);
            let lives: i64 = redis.query("read a lifetime", redis::cmd("PTTL").arg(&key)).await.unwrap();
            let full = i64::try_from(limit.window().as_millis()).unwrap() * taken / i64::from(limit.quota());
            assert!((1..=full + 1).contains(&lives), "{key} lives {lives} ms, not {full}");
        }
    }
    // One that only looks makes no key.
    limiter.take(&[Charge { limit: SLOW, subject: "c", cost: 0 }]).await;
    let key = redis.key(&["limit", SLOW.name(), "c"]);
    assert!(!redis.query::<bool>("look for a key", redis::cmd("EXISTS").arg(&key)).await.unwrap());
}

#[tokio::test]
async fn a_clock_that_was_set_back_and_a_value_that_is_none_shut_nobody_out() {
    let redis = own_keys(Role::Durable);
    let limiter = Limiter::new(redis.clone());
    let key = redis.key(&["limit", SLOW.name(), "a"]);
    let far = time(&redis).await + 1_000_000_000_000;
    let () = redis.query("write a value", redis::cmd("SET").arg(&key).arg(far)).await.unwrap();
    assert_eq!(refused_for(&take(&limiter, SLOW, 1).await), 60_000_000);
    let () = redis.query("write a value", redis::cmd("SET").arg(&key).arg("rubbish")).await.unwrap();
    assert_eq!(given(&take(&limiter, SLOW, 1).await)[0].remaining, 9);
    let lives: i64 = redis.query("read a lifetime", redis::cmd("PTTL").arg(&key)).await.unwrap();
    assert!(lives > 0, "{lives}");
}

#[tokio::test]
async fn without_redis_each_process_keeps_the_whole_limit_by_itself() {
    let (recorder, handle) = counters();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    drop(listener);
    let away = Redis::new(&RedisSettings { url: url.into(), prefix: "test".to_owned() }, Role::Durable).unwrap();
    for limiter in [Limiter::new(away.clone()), Limiter::new(away)] {
        for left in (0..SLOW.quota()).rev() {
            assert_eq!(given(&take(&limiter, SLOW, 1).await)[0].remaining, left);
        }
        for _ in 0..20 {
            assert!(refused_for(&take(&limiter, SLOW, 1).await) <= 60_000_000);
        }
    }
    assert_eq!(degraded(&handle), 60);
    assert!(handle.render().contains(r#"ratelimit_refused_total{limit="slow"} 40"#), "{}", handle.render());
}

#[tokio::test]
async fn while_redis_is_gone_or_silent_limits_go_on_and_once_it_is_back_they_are_shared_again() {
    for how in [Proxy::cut, Proxy::silence] {
        let (recorder, handle) = counters();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let proxy = Proxy::start(&backing::redis_url("durable")).await;
        let prefix = format!("test-{}", Uuid::new_v4().simple());
        let settings = RedisSettings { url: proxy.url.clone().into(), prefix: prefix.clone() };
        let redis = Redis::new(&settings, Role::Durable).unwrap();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(redis.clone().watch(stop.clone()));
        let readiness = redis.readiness();
        until("redis answers", async || readiness().is_ok()).await;
        let limiter = Limiter::new(redis.clone());
        let count = async || given(&take(&limiter, SLOW, 0).await)[0].remaining;
        given(&take(&limiter, SLOW, 4).await);
        assert_eq!(degraded(&handle), 0);

        how(&proxy, true);
        // Looking takes nothing. What is asked for before this may still come through, and counts twice.
        until("redis is known to be away", async || count().await == 10 && redis.is_away()).await;
        given(&take(&limiter, SLOW, 9).await);
        refused_for(&take(&limiter, SLOW, 2).await);
        assert!(degraded(&handle) > 0);

        how(&proxy, false);
        // What was taken before counts, and so does what others took.
        given(&take(&Limiter::new(another(&prefix)), SLOW, 3).await);
        until("the limit is shared again", async || count().await == 3).await;
        stop.cancel();
        watching.await.unwrap();
    }
}

/// Asks until the answer is yes.
async fn until(what: &str, question: impl AsyncFn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !question().await {
        assert!(Instant::now() < end, "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_redis_that_says_no_leaves_the_limit_with_the_process() {
    let (recorder, handle) = counters();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let redis = own_keys(Role::Durable);
    let limiter = Limiter::new(redis.clone());
    let key = redis.key(&["limit", SLOW.name(), "a"]);
    let () = redis.query("write a list", redis::cmd("RPUSH").arg(&key).arg("x")).await.unwrap();
    given(&take(&limiter, SLOW, 10).await);
    refused_for(&take(&limiter, SLOW, 1).await);
    assert_eq!(degraded(&handle), 2);
    assert!(!redis.is_away());
    let () = redis.query("delete a key", redis::cmd("DEL").arg(&key)).await.unwrap();
}

#[tokio::test]
async fn a_meter_is_exact_to_the_microsecond() {
    let redis = own_keys(Role::Durable);
    let limiter = Limiter::new(redis.clone());
    let limit = Limit::new("fine", 600_000_000, Duration::from_secs(600));
    let key = redis.key(&["limit", limit.name(), "a"]);
    let whole_at = time(&redis).await + 300_000_000;
    let () = redis.query("write a value", redis::cmd("SET").arg(&key).arg(whole_at)).await.unwrap();
    for _ in 0..5 {
        given(&take(&limiter, limit, 7).await);
    }
    let kept: u64 = redis.query("read a value", redis::cmd("GET").arg(&key)).await.unwrap();
    assert_eq!(kept, whole_at + 35);
}
