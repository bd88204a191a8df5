//! What was named with a change is read anew, whatever became of the writer.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use backing::{Proxy, redis_url};
use cache::{Cache, Family, Fetched, Redis, RedisSettings, Role, Source, Times};
use dispatcher::invalidator::{Invalidator, Turn, notices};
use futures_util::FutureExt;
use metrics_exporter_prometheus::PrometheusBuilder;
use store::cache_invalidations::{put_in, take};
use store::products::BEST_SELLERS;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::Fixture;

const LONG: Duration = Duration::from_secs(600);
const THING: Family =
    Family::new("thing", 1, Times { fresh: LONG, grace: LONG, absent: LONG, lease: LONG, load: LONG });
const WAITING: &str = "SELECT count(*) FROM cache_invalidations";

/// The cache, with keys of a test's own.
fn settings() -> RedisSettings {
    RedisSettings { url: redis_url("cache").into(), prefix: format!("test-{}", Uuid::new_v4().simple()) }
}

/// A loaded machine has its pauses.
fn redis(settings: &RedisSettings) -> Redis {
    Redis::new(settings, Role::Cache).unwrap().with_deadline(Duration::from_secs(30))
}

fn invalidator(fixture: &Fixture, redis: &Redis) -> Invalidator {
    Invalidator::new(redis.clone(), fixture.pool.clone(), &notices())
}

/// What a reader is given where the database has `now`.
async fn read(cache: &Cache, key: &str, now: &str) -> (String, Source) {
    let now = now.to_owned();
    let fetched = cache.fetch(&THING, key, || async move { Ok::<_, Infallible>(Some(now)) }).await;
    let Fetched { value, source } = fetched.unwrap();
    (value.unwrap(), source)
}

/// As a writer does that dies after its commit.
async fn name(fixture: &Fixture, key: &str) {
    put_in(&mut fixture.pool.acquire().await.unwrap(), &THING.entry(key)).await.unwrap();
}

/// One that runs.
struct Running {
    drain: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Running {
    async fn start(fixture: &Fixture, redis: &Redis) -> Self {
        let (told, drain, mut tasks) = (notices(), CancellationToken::new(), JoinSet::new());
        tasks.spawn(Invalidator::new(redis.clone(), fixture.pool.clone(), &told).run(drain.clone()));
        tasks.spawn(redis.clone().watch(drain.clone()).map(Ok));
        let listening = told.readiness();
        tasks.spawn(told.listen(fixture.pool.clone(), drain.clone()));
        fixture.vhost.wait("listening", || async { listening().is_ok() }).await;
        Self { drain, tasks }
    }

    async fn stop(mut self) {
        self.drain.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_writer_that_died_has_named_is_read_anew_and_at_once() {
    let (fixture, settings) = (Fixture::new().await, settings());
    let cache = Cache::new(redis(&settings), 1);
    let running = Running::start(&fixture, &redis(&settings)).await;
    let begun = Instant::now();
    let mut looked = begun;
    for round in 0..3 {
        // By then it has looked once more, and waits for a notice.
        fixture.vhost.wait("it has nothing to do", || async { looked.elapsed() > Duration::from_millis(2500) }).await;
        let (old, new) = (format!("{round}"), format!("{}", round + 1));
        read(&cache, "a", &old).await;
        assert_eq!(read(&cache, "a", &new).await, (old, Source::Hit), "as it was");
        name(&fixture, "a").await;
        fixture.vhost.wait("read anew", || async { read(&cache, "a", &new).await.0 == new }).await;
        fixture.vhost.wait("the row is gone", || async { fixture.count(WAITING).await == 0 }).await;
        looked = Instant::now();
    }
    // Told of nothing it looks after ten seconds.
    assert!(begun.elapsed() < Duration::from_secs(22), "{:?}", begun.elapsed());
    running.stop().await;
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn what_sells_best_is_given_on_while_it_is_counted_anew() {
    let (fixture, settings) = (Fixture::new().await, settings());
    let cache = Cache::new(redis(&settings), 1);
    let times = Times { fresh: LONG, grace: LONG, absent: LONG, lease: LONG, load: LONG };
    let family = Family::new(BEST_SELLERS.family, BEST_SELLERS.version, times);
    let read = async |now: u32| {
        let fetched =
            cache.fetch(&family, BEST_SELLERS.key, move || async move { Ok::<_, Infallible>(Some(now)) }).await;
        let Fetched { value, source } = fetched.unwrap();
        (value.unwrap(), source)
    };
    assert_eq!(read(1).await, (1, Source::Loaded));
    put_in(&mut fixture.pool.acquire().await.unwrap(), &BEST_SELLERS.entry()).await.unwrap();
    assert_eq!(invalidator(&fixture, &redis(&settings)).relay(10).await.unwrap(), Turn::Ended(1));
    assert_eq!(read(2).await, (1, Source::Stale));
    fixture.vhost.wait("counted anew", || async { read(3).await == (2, Source::Hit) }).await;
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn while_redis_is_away_what_is_named_waits_and_once_it_is_back_it_is_read_anew() {
    let (fixture, settings) = (Fixture::new().await, settings());
    let proxy = Proxy::start(&redis_url("cache")).await;
    let by_proxy = redis(&RedisSettings { url: proxy.url.as_str().into(), ..settings.clone() });
    let cache = Cache::new(redis(&settings), 1);
    read(&cache, "a", "old").await;
    name(&fixture, "a").await;
    proxy.cut(true);
    let invalidator = invalidator(&fixture, &by_proxy);
    invalidator.relay(10).await.unwrap_err();
    let running = Running::start(&fixture, &by_proxy).await;
    fixture.vhost.wait("Redis is away", || async { by_proxy.is_away() }).await;
    assert_eq!(invalidator.relay(10).await.unwrap(), Turn::RedisAway);
    assert_eq!(fixture.count(WAITING).await, 1);
    assert_eq!(read(&cache, "a", "new").await, ("old".to_owned(), Source::Hit));

    proxy.cut(false);
    fixture.vhost.wait("the row is gone", || async { fixture.count(WAITING).await == 0 }).await;
    assert_eq!(read(&cache, "a", "new").await, ("new".to_owned(), Source::Loaded));
    running.stop().await;
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn what_is_named_without_end_is_ended_once_a_second() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (fixture, settings) = (Fixture::new().await, settings());
    let begun = Instant::now();
    let running = Running::start(&fixture, &redis(&settings)).await;
    let mut named = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        name(&fixture, "best").await;
        named += 1;
    }
    fixture.vhost.wait("no row is left", || async { fixture.count(WAITING).await == 0 }).await;
    let (rendered, seconds) = (metrics.render(), begun.elapsed().as_secs());
    let done = r#"cache_invalidations_total{outcome="done"} "#;
    let ended = rendered.lines().find_map(|line| line.strip_prefix(done)).unwrap();
    let ended: u64 = ended.parse().unwrap();
    assert!(
        (2..=seconds + 1).contains(&ended) && named > 2 * ended,
        "{ended} times in {seconds} s, named {named} times"
    );
    running.stop().await;
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn an_entry_that_many_rows_name_is_ended_once_for_all_of_them() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (fixture, settings) = (Fixture::new().await, settings());
    for key in ["a", "b", "a", "a", "b", "c"] {
        name(&fixture, key).await;
    }
    let invalidator = invalidator(&fixture, &redis(&settings));
    assert_eq!(invalidator.relay(5).await.unwrap(), Turn::Ended(5));
    assert!(metrics.render().contains(r#"cache_invalidations_total{outcome="done"} 2"#), "{}", metrics.render());
    assert_eq!(invalidator.relay(5).await.unwrap(), Turn::Ended(1));
    assert_eq!(invalidator.relay(5).await.unwrap(), Turn::NothingWaits);
    fixture.vhost.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_dispatchers_end_every_entry_and_what_one_holds_is_left_to_it() {
    let (fixture, settings) = (Fixture::new().await, settings());
    let cache = Cache::new(redis(&settings), 8);
    let keys: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    for key in &keys {
        read(&cache, key, "old").await;
        name(&fixture, key).await;
    }
    let held = take(&fixture.pool, 10).await.unwrap().unwrap();
    let both = [Running::start(&fixture, &redis(&settings)).await, Running::start(&fixture, &redis(&settings)).await];
    fixture.vhost.wait("the others are gone", || async { fixture.count(WAITING).await == 10 }).await;
    assert_eq!(read(&cache, "9", "new").await.0, "old");
    for key in &keys[10..] {
        assert_eq!(read(&cache, key, "new").await.0, "new", "{key}");
    }
    // Whoever held them dies. Nobody tells of it.
    drop(held);
    fixture.vhost.wait("all are gone", || async { fixture.count(WAITING).await == 0 }).await;
    for key in &keys {
        assert_eq!(read(&cache, key, "new").await.0, "new", "{key}");
    }
    for running in both {
        running.stop().await;
    }
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn what_is_named_while_its_entry_is_being_ended_is_ended_once_more() {
    let (fixture, settings) = (Fixture::new().await, settings());
    let proxy = Proxy::start(&redis_url("cache")).await;
    let by_proxy = redis(&RedisSettings { url: proxy.url.as_str().into(), ..settings.clone() });
    let cache = Cache::new(redis(&settings), 1);
    read(&cache, "a", "first").await;
    let invalidator = invalidator(&fixture, &by_proxy);
    // It is connected before the answers are held back.
    name(&fixture, "b").await;
    assert_eq!(invalidator.relay(10).await.unwrap(), Turn::Ended(1));
    name(&fixture, "a").await;
    proxy.hold_answers(true);
    let meanwhile = async {
        fixture.vhost.wait("it is gone", || async { read(&cache, "a", "second").await.0 == "second" }).await;
        name(&fixture, "a").await;
        proxy.hold_answers(false);
    };
    let (turn, ()) = tokio::join!(invalidator.relay(10), meanwhile);
    assert_eq!(turn.unwrap(), Turn::Ended(1));
    assert_eq!(read(&cache, "a", "third").await, ("second".to_owned(), Source::Hit));
    assert_eq!(invalidator.relay(10).await.unwrap(), Turn::Ended(1));
    assert_eq!(read(&cache, "a", "third").await.0, "third");
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_row_that_names_nothing_holds_up_none() {
    let (fixture, settings) = (Fixture::new().await, settings());
    let cache = Cache::new(redis(&settings), 1);
    read(&cache, "a", "old").await;
    fixture.execute("ALTER TABLE cache_invalidations DROP CONSTRAINT cache_invalidations_entry_check").await;
    fixture.execute("INSERT INTO cache_invalidations (entry) VALUES ('nothing')").await;
    name(&fixture, "a").await;
    let invalidator = invalidator(&fixture, &redis(&settings));
    assert_eq!(invalidator.relay(10).await.unwrap(), Turn::Ended(2));
    assert_eq!(read(&cache, "a", "new").await.0, "new");
    fixture.vhost.finish(&[]).await;
}
