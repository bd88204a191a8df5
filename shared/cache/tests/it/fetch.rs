//! What a reader gets: fresh, stale, loaded, absent or refused, and what stands in Redis after it.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use backing::OwnRedis;
use cache::{Cache, Family, FetchError, Fetched, InvalidateError, Redis, Role, Source, Times};
use futures_util::future::join_all;
use redis::FromRedisValue;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{at, away, own_keys, until};

const SECOND: Duration = Duration::from_secs(1);
const TIMES: Times = Times {
    fresh: SECOND.saturating_mul(100),
    grace: SECOND.saturating_mul(100),
    absent: SECOND.saturating_mul(10),
    lease: SECOND.saturating_mul(30),
    load: SECOND.saturating_mul(30),
};
const NUMBERS: Family = Family::new("number", 3, TIMES);
/// Those who wait for somebody that never comes back wait less long.
const IMPATIENT: Family = Family::new("impatient", 1, Times { lease: Duration::from_millis(50), ..TIMES });

/// A cache of numbers that go up by one with every load.
#[derive(Clone)]
struct Numbers {
    redis: Redis,
    cache: Cache,
    loads: Arc<AtomicU32>,
}

impl Numbers {
    fn new() -> Self {
        Self::with(own_keys(Role::Cache), 4)
    }

    fn with(redis: Redis, loads: usize) -> Self {
        Self { cache: Cache::new(redis.clone(), loads), redis, loads: Arc::default() }
    }

    async fn fetch(&self) -> Fetched<u32> {
        self.fetch_of(&NUMBERS).await
    }

    async fn fetch_of(&self, family: &Family) -> Fetched<u32> {
        let loads = Arc::clone(&self.loads);
        let load = move || async move { Ok::<_, Infallible>(Some(loads.fetch_add(1, Ordering::SeqCst) + 1)) };
        self.cache.fetch(family, "a", load).await.unwrap()
    }

    async fn fetch_failing(&self) -> Result<Fetched<u32>, FetchError> {
        let loads = Arc::clone(&self.loads);
        let load = move || async move {
            loads.fetch_add(1, Ordering::SeqCst);
            Err::<Option<u32>, _>(io::Error::from(io::ErrorKind::HostUnreachable))
        };
        self.cache.fetch(&NUMBERS, "a", load).await
    }

    async fn fetch_absent(&self) -> Fetched<u32> {
        self.cache.fetch(&NUMBERS, "a", || async { Ok::<_, Infallible>(None::<u32>) }).await.unwrap()
    }

    fn loads(&self) -> u32 {
        self.loads.load(Ordering::SeqCst)
    }

    /// The key of the value or of the lease.
    fn key(&self, what: &str, family: &Family) -> String {
        self.redis.key(&[what, &family.entry("a")])
    }

    /// Asks Redis about the value or the lease.
    async fn ask<T: FromRedisValue>(&self, command: &str, what: &str, arguments: &[&str]) -> T {
        self.redis.query("ask", redis::cmd(command).arg(self.key(what, &NUMBERS)).arg(arguments)).await.unwrap()
    }

    /// Puts something there as the value.
    async fn put(&self, stored: &str) {
        self.ask::<()>("SET", "value", &[stored]).await;
    }

    async fn is_empty(&self) -> bool {
        !self.ask::<bool>("EXISTS", "value", &[]).await && !self.ask::<bool>("EXISTS", "lease", &[]).await
    }

    /// The clock of Redis, in ms.
    async fn now(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.redis.query("ask", &redis::cmd("TIME")).await.unwrap();
        seconds * 1_000 + micros / 1_000
    }

    /// Puts a value there that is no longer fresh.
    async fn put_stale(&self, value: u32) {
        self.put(&format!("1 200 \x11{value}")).await;
    }

    async fn until_stored(&self, value: u32) {
        until("it is stored", async || {
            let stored: Option<String> = self.ask("GET", "value", &[]).await;
            stored.is_some_and(|stored| stored.ends_with(&format!(" \x11{value}")))
        })
        .await;
    }
}

/// Waits for a holder of which others say that it lives, and for nobody else.
#[tokio::test]
async fn nobody_waits_for_a_holder_that_redis_hears_of_no_more() {
    let numbers = Numbers::new();
    let channel = numbers.redis.key(&["holder", "other"]);
    let (live, drain) = (watch::channel(false).0, CancellationToken::new());
    let (mut lives, other) = (live.subscribe(), numbers.redis.clone());
    let living = tokio::spawn({
        let (channel, drain) = (channel.clone(), drain.clone());
        async move { other.listen(&channel, &live, &drain, |_| {}).await }
    });
    lives.wait_for(|live| *live).await.unwrap();
    numbers.ask::<()>("SET", "lease", &[&format!("abc {channel}"), "PX", "3600000"]).await;
    let waiting = tokio::spawn({
        let numbers = numbers.clone();
        async move { numbers.fetch().await }
    });
    // Long enough to look many times.
    sleep(SECOND / 2).await;
    assert_eq!((waiting.is_finished(), numbers.loads()), (false, 0));
    drain.cancel();
    living.await.unwrap();
    assert_eq!(timeout(SECOND * 10, waiting).await.unwrap().unwrap(), from(Source::Loaded, 1));
    let kept = numbers.fetch().await;
    assert_eq!(kept, from(Source::Hit, 1));
}

#[tokio::test]
async fn who_has_met_the_silence_of_redis_does_not_wait_for_another() {
    let server = OwnRedis::start();
    let numbers = Numbers::with(at(&server.url(), Role::Cache).with_deadline(SECOND), 4);
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 1));
    assert_eq!(numbers.fetch().await, from(Source::Hit, 1));
    server.freeze();
    assert_eq!(numbers.fetch().await, from(Source::Bypassed, 2));
    // Nor does who comes meanwhile, and asks for something else.
    let other = || numbers.cache.fetch(&NUMBERS, "b", || async { Ok::<_, Infallible>(Some(0)) });
    let later = async {
        sleep(SECOND / 4).await;
        other().await.unwrap()
    };
    let (same, other) = tokio::join!(numbers.fetch(), later);
    assert_eq!((same, other), (from(Source::Bypassed, 3), from(Source::Bypassed, 0)));
    // It would be after three calls without an answer.
    assert!(!numbers.redis.is_away());
}

fn from<T>(source: Source, value: T) -> Fetched<T> {
    Fetched { value: Some(value), source }
}

#[tokio::test]
async fn what_a_load_costs_is_the_load_and_not_its_wait_for_room() {
    let numbers = Numbers::with(own_keys(Role::Cache), 1);
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let other = tokio::spawn({
        let (cache, begun, go_on) = (numbers.cache.clone(), Arc::clone(&begun), Arc::clone(&go_on));
        async move {
            let load = move || async move {
                begun.notify_one();
                go_on.notified().await;
                Ok::<_, Infallible>(Some(0))
            };
            cache.fetch(&NUMBERS, "in the way", load).await.unwrap()
        }
    });
    begun.notified().await;
    let waiting = tokio::spawn({
        let numbers = numbers.clone();
        async move { numbers.fetch().await }
    });
    until("it waits for room", async || numbers.ask("EXISTS", "lease", &[]).await).await;
    sleep(SECOND / 5).await;
    let room = Instant::now();
    go_on.notify_one();
    assert_eq!(waiting.await.unwrap(), from(Source::Loaded, 1));
    // A cost is a millisecond at least.
    let longest = room.elapsed().as_millis().max(1) as u64;
    other.await.unwrap();
    let stored: String = numbers.ask("GET", "value", &[]).await;
    let cost: u64 = stored.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(cost <= longest, "{cost} ms, of which at most {longest} with room");
}

#[tokio::test]
async fn a_value_is_loaded_once_and_found_from_then_on() {
    let numbers = Numbers::new();
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 1));
    assert!(!numbers.ask::<bool>("EXISTS", "lease", &[]).await, "it is free for the next load");
    for _ in 0..3 {
        assert_eq!(numbers.fetch().await, from(Source::Hit, 1));
    }
    // Another process, which does not know Redis's clock yet.
    let other = Numbers::with(numbers.redis.clone(), 4);
    assert_eq!(other.fetch().await, from(Source::Hit, 1));
}

#[tokio::test]
async fn what_was_invalidated_is_loaded_again() {
    let numbers = Numbers::new();
    numbers.fetch().await;
    numbers.cache.invalidate(&NUMBERS, "a").await.unwrap();
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 2));
    // As an outbox row names it.
    numbers.cache.invalidate_entry("number:3:a").await.unwrap();
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 3));
    let refused = numbers.cache.invalidate_entry("number").await.unwrap_err();
    assert!(matches!(refused, InvalidateError::Name(name) if name == "number"));
}

#[tokio::test]
async fn an_invalidation_reaches_what_the_neighbouring_releases_have_stored() {
    let numbers = Numbers::new();
    let [before, after] = [2, 4].map(|version| Family::new("number", version, TIMES));
    for (writer, reader) in [(before, NUMBERS), (NUMBERS, before), (NUMBERS, after)] {
        let stored = numbers.fetch_of(&reader).await.value;
        assert_eq!(numbers.fetch_of(&reader).await, Fetched { value: stored, source: Source::Hit });
        numbers.cache.invalidate(&writer, "a").await.unwrap();
        assert_eq!(numbers.fetch_of(&reader).await.source, Source::Loaded);
    }
}

#[tokio::test]
async fn a_load_that_an_invalidation_overtakes_is_not_stored() {
    let numbers = Numbers::new();
    let (loading, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let slow = tokio::spawn({
        let (cache, loading, go_on) = (numbers.cache.clone(), loading.clone(), go_on.clone());
        async move {
            let load = || async move {
                loading.notify_one();
                go_on.notified().await;
                Ok::<_, Infallible>(Some(100))
            };
            cache.fetch(&NUMBERS, "a", load).await
        }
    });
    loading.notified().await;
    numbers.cache.invalidate(&NUMBERS, "a").await.unwrap();
    go_on.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), from(Source::Loaded, 100));
    assert!(numbers.is_empty().await);
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 1));
}

#[tokio::test]
async fn absence_is_kept_for_less_long_and_without_grace() {
    let numbers = Numbers::new();
    assert_eq!(numbers.fetch_absent().await, Fetched { value: None, source: Source::Loaded });
    assert_eq!(numbers.fetch().await, Fetched { value: None, source: Source::Hit });
    assert!((1..=11_000).contains(&numbers.ask::<u64>("PTTL", "value", &[]).await));
    numbers.cache.invalidate(&NUMBERS, "a").await.unwrap();
    numbers.fetch().await;
    assert!((150_000..=210_000).contains(&numbers.ask::<u64>("PTTL", "value", &[]).await));
}

#[tokio::test]
async fn a_stale_value_is_handed_out_while_one_reader_loads_a_new_one() {
    let numbers = Numbers::new();
    numbers.put_stale(100).await;
    let (loading, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let load = {
        let (loading, go_on) = (loading.clone(), go_on.clone());
        || async move {
            loading.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(Some(200))
        }
    };
    assert_eq!(numbers.cache.fetch(&NUMBERS, "a", load).await.unwrap(), from(Source::Stale, 100));
    loading.notified().await;
    assert_eq!(numbers.fetch().await, from(Source::Stale, 100));
    go_on.notify_one();
    numbers.until_stored(200).await;
    assert_eq!(numbers.fetch().await, from(Source::Hit, 200));
    assert_eq!(numbers.loads(), 0);
}

#[tokio::test]
async fn a_value_near_its_end_is_refreshed_before_it() {
    let numbers = Numbers::new();
    // So dear that one time in six million nobody would.
    let expiry = numbers.now().await + 60_000;
    numbers.put(&format!("{expiry} 400000000000 \x11100")).await;
    assert_eq!(numbers.fetch().await, from(Source::Hit, 100));
    numbers.until_stored(1).await;
    assert_eq!(numbers.fetch().await, from(Source::Hit, 1));
}

#[tokio::test]
async fn a_stale_value_is_handed_out_while_loads_fail() {
    let numbers = Numbers::new();
    numbers.put_stale(100).await;
    assert_eq!(numbers.fetch_failing().await.unwrap(), from(Source::Stale, 100));
    until("the failure is known", async || {
        numbers.ask::<Option<String>>("GET", "lease", &[]).await.as_deref() == Some("")
    })
    .await;
    // For a while nobody tries again.
    assert_eq!(numbers.fetch_failing().await.unwrap(), from(Source::Stale, 100));
    assert_eq!(numbers.loads(), 1);
    assert!((1..=1_000).contains(&numbers.ask::<i64>("PTTL", "lease", &[]).await));
    numbers.ask::<()>("DEL", "lease", &[]).await;
    assert_eq!(numbers.fetch().await, from(Source::Stale, 100));
    numbers.until_stored(2).await;
}

#[tokio::test]
async fn a_load_that_fails_with_nothing_stored_is_told_and_holds_nobody_up() {
    let numbers = Numbers::new();
    let error = numbers.fetch_failing().await.unwrap_err();
    assert_eq!(error.load_error::<io::Error>().unwrap().kind(), io::ErrorKind::HostUnreachable);
    let panicked = numbers.cache.fetch(&NUMBERS, "a", || async { panicking() }).await;
    assert!(matches!(panicked, Err(FetchError::Lost)));
    // The leases were given back, or this would wait for half a minute.
    assert!(numbers.is_empty().await);
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 2));
}

fn panicking() -> Result<Option<u32>, Infallible> {
    panic!("on purpose")
}

#[tokio::test]
async fn a_load_that_takes_too_long_is_given_up() {
    let family = Family::new("slow", 1, Times { load: Duration::from_millis(20), ..TIMES });
    let numbers = Numbers::new();
    let never = || std::future::pending::<Result<Option<u32>, Infallible>>();
    let given_up = numbers.cache.fetch(&family, "a", never).await;
    assert!(matches!(given_up, Err(FetchError::Deadline(_))));
    assert_eq!(numbers.fetch_of(&family).await, from(Source::Loaded, 1));
}

#[tokio::test]
async fn a_value_that_cannot_be_decoded_is_a_miss() {
    let numbers = Numbers::new();
    let expiry = numbers.now().await + 60_000;
    let values =
        ["", "nonsense", "1", &format!("{expiry} 1 \x11\"text\""), &format!("{expiry} 1 \x12100"), "1 1 \x11[]"];
    for (number, value) in (1..).zip(values) {
        numbers.put(value).await;
        assert_eq!(numbers.fetch().await, from(Source::Loaded, number), "{value:?}");
        assert_eq!(numbers.fetch().await, from(Source::Hit, number));
    }
}

#[tokio::test]
async fn a_value_that_is_too_large_is_handed_out_and_not_stored() {
    let numbers = Numbers::new();
    for _ in 0..2 {
        let large = || async { Ok::<_, Infallible>(Some("x".repeat(1024 * 1024))) };
        let fetched = numbers.cache.fetch(&NUMBERS, "a", large).await.unwrap();
        assert_eq!((fetched.source, fetched.value.unwrap().len()), (Source::Loaded, 1024 * 1024));
        assert!(numbers.is_empty().await);
    }
}

#[tokio::test]
async fn a_load_goes_on_when_nobody_waits_any_more() {
    let numbers = Numbers::new();
    let (loading, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let request = tokio::spawn({
        let (cache, loading, go_on) = (numbers.cache.clone(), loading.clone(), go_on.clone());
        async move {
            let load = || async move {
                loading.notify_one();
                go_on.notified().await;
                Ok::<_, Infallible>(Some(100))
            };
            cache.fetch(&NUMBERS, "a", load).await
        }
    });
    loading.notified().await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    numbers.until_stored(100).await;
}

#[tokio::test]
async fn who_finds_another_process_loading_waits_for_its_value() {
    let numbers = Numbers::new();
    numbers.ask::<()>("SET", "lease", &["another", "PX", "60000"]).await;
    let waiting = tokio::spawn({
        let numbers = numbers.clone();
        async move { numbers.fetch().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    let expiry = numbers.now().await + 60_000;
    numbers.put(&format!("{expiry} 1 \x11100")).await;
    assert_eq!(waiting.await.unwrap(), from(Source::Hit, 100));
}

#[tokio::test]
async fn a_lease_that_is_never_given_back_ends_by_itself() {
    let numbers = Numbers::new();
    let holder = redis::Script::new(include_str!("../../src/cache/look.lua"));
    let mut look = holder.key(numbers.key("value", &IMPATIENT));
    look.key(numbers.key("lease", &IMPATIENT));
    look.arg("another").arg(50).arg(0).arg("");
    let (task, _, _): (String, u64, Option<String>) = numbers.redis.invoke("look", &look).await.unwrap();
    assert_eq!(task, "load");
    assert_eq!(numbers.fetch_of(&IMPATIENT).await, from(Source::Loaded, 1));
}

#[tokio::test]
async fn without_redis_values_are_loaded_a_few_at_a_time() {
    let numbers = Numbers::with(away().await, 2);
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    for key in 0..10 {
        let (cache, running, most) = (numbers.cache.clone(), running.clone(), most.clone());
        tasks.spawn(async move {
            let load = move || async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Some(key))
            };
            (key, cache.fetch(&NUMBERS, &key.to_string(), load).await.unwrap())
        });
    }
    for (key, fetched) in tasks.join_all().await {
        assert_eq!(fetched, from(Source::Bypassed, key));
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    assert!(matches!(numbers.cache.invalidate(&NUMBERS, "a").await, Err(InvalidateError::Redis(_))));
}

#[tokio::test]
async fn who_finds_no_room_to_load_is_told_so() {
    let numbers = Numbers::with(away().await, 1);
    tokio::time::pause();
    let held = Arc::new(Semaphore::new(0));
    let holder = tokio::spawn({
        let (cache, held) = (numbers.cache.clone(), held.clone());
        async move {
            let load = || async move {
                held.acquire().await.unwrap().forget();
                Ok::<_, Infallible>(Some(1))
            };
            cache.fetch(&NUMBERS, "held", load).await
        }
    });
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    let refused = numbers.cache.fetch(&NUMBERS, "a", || async { Ok::<_, Infallible>(Some(1)) }).await;
    assert!(matches!(refused, Err(FetchError::Busy)), "{refused:?}");
    held.add_permits(1);
    assert_eq!(holder.await.unwrap().unwrap(), from(Source::Bypassed, 1));
}

#[tokio::test]
async fn reads_fills_and_invalidations_are_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let numbers = Numbers::new();
    numbers.fetch().await;
    numbers.fetch().await;
    numbers.cache.invalidate(&NUMBERS, "a").await.unwrap();
    numbers.fetch_failing().await.unwrap_err();
    let shown = recorder.handle().render();
    for line in [
        r#"cache_reads_total{family="number",outcome="loaded"} 1"#,
        r#"cache_reads_total{family="number",outcome="hit"} 1"#,
        r#"cache_reads_total{family="number",outcome="failed"} 1"#,
        r#"cache_fills_total{family="number",outcome="stored"} 1"#,
        r#"cache_fills_total{family="number",outcome="nothing"} 1"#,
        r#"cache_invalidations_total{outcome="done"} 1"#,
        r#"cache_load_seconds_count{family="number"} 2"#,
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
}

#[tokio::test]
async fn of_many_who_ask_at_once_each_is_given_what_stands_under_its_key() {
    let numbers = Numbers::new();
    let fetch = async |number: u32| {
        // Of three one is not there.
        let load = move || async move { Ok::<_, Infallible>((!number.is_multiple_of(3)).then_some(number)) };
        numbers.cache.fetch(&NUMBERS, &number.to_string(), load).await.unwrap()
    };
    // More than may wait to be read, and some twice.
    let keys = || (0..2_000).chain(0..100);
    for source in [Source::Loaded, Source::Hit] {
        let fetched = join_all(keys().map(fetch)).await;
        for (number, fetched) in keys().zip(fetched) {
            let value = (!number.is_multiple_of(3)).then_some(number);
            assert!(fetched == Fetched { value, source }, "{number}: {fetched:?}");
        }
    }
}

#[tokio::test]
async fn a_key_may_hold_anything() {
    let numbers = Numbers::new();
    for key in ["", ":", "a:b:c", "ü \n\0", &Uuid::new_v4().to_string()] {
        let load = || async { Ok::<_, Infallible>(Some(1)) };
        assert_eq!(numbers.cache.fetch(&NUMBERS, key, load).await.unwrap().source, Source::Loaded);
        numbers.cache.invalidate_entry(&NUMBERS.entry(key)).await.unwrap();
        assert_eq!(numbers.cache.fetch(&NUMBERS, key, load).await.unwrap().source, Source::Loaded);
    }
}

#[tokio::test]
async fn an_aged_value_is_given_on_while_one_loads_and_goes_when_it_would_have_gone() {
    let numbers = Numbers::new();
    assert_eq!(numbers.fetch().await, from(Source::Loaded, 1));
    let left: i64 = numbers.ask("PTTL", "value", &[]).await;
    let entry = NUMBERS.entry("a");
    numbers.cache.age_entry(&entry).await.unwrap();
    assert_eq!(numbers.fetch().await, from(Source::Stale, 1));
    numbers.until_stored(2).await;
    assert_eq!((numbers.fetch().await, numbers.loads()), (from(Source::Hit, 2), 2));
    // Again and again, while nobody reads: it is not kept for longer by that.
    for _ in 0..3 {
        numbers.cache.age_entry(&entry).await.unwrap();
    }
    let (stored, kept): (String, i64) =
        (numbers.ask("GET", "value", &[]).await, numbers.ask("PTTL", "value", &[]).await);
    assert!(stored.starts_with("0 ") && stored.ends_with(" \x112"), "{stored}");
    assert!((1..=left * 11 / 9).contains(&kept), "{kept} of {left}");
}

#[tokio::test]
async fn what_was_loaded_before_an_aging_is_not_stored_after_it_and_absence_is_not_given_on() {
    let numbers = Numbers::new();
    let entry = NUMBERS.entry("a");
    let aging = numbers.clone();
    let load = move || async move {
        aging.cache.age_entry(&NUMBERS.entry("a")).await.unwrap();
        Ok::<_, Infallible>(Some(7))
    };
    assert_eq!(numbers.cache.fetch(&NUMBERS, "a", load).await.unwrap(), from(Source::Loaded, 7));
    assert!(numbers.is_empty().await);
    assert_eq!(numbers.fetch_absent().await.value, None);
    numbers.cache.age_entry(&entry).await.unwrap();
    assert!(numbers.is_empty().await);
    assert!(matches!(numbers.cache.age_entry("no entry").await, Err(InvalidateError::Name(_))));
}
