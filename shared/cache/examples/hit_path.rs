//! What a hit costs: `Cache::fetch` beside a bare `GET` of the same JSON on a client of the same kind, read and left unread, in
//! turns.
//! `cargo run --release -p cache --example hit_path`, with `compose/up redis-cache` running; or by `tests/bench/run`, with the
//! server's URL and the number of rounds as arguments, and JSON for an answer.

#![expect(clippy::print_stdout, reason = "it prints what it measures")]

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::Context;
use cache::{Cache, Family, Redis, RedisSettings, Role, Source, Times};
use redis::aio::ConnectionManager;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use uuid::Uuid;

const CONCURRENCY: usize = 64;
/// Short and many, so that whatever else the machine does hits all of them alike.
const ROUNDS: usize = 300;
const ROUND: Duration = Duration::from_millis(25);
const KEYS: usize = 1_000;
const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);
const PROFILES: Family =
    Family::new("profile", 1, Times { fresh: HOUR, grace: HOUR, absent: HOUR, lease: SECOND, load: SECOND });

/// About what a shop knows of a customer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Profile {
    id: Uuid,
    name: String,
    email_address: String,
    city: String,
    orders: u32,
    newsletter: bool,
}

/// What is measured against what.
#[derive(Clone)]
struct Ways {
    bare: ConnectionManager,
    cache: Cache,
    names: std::sync::Arc<[String]>,
    keys: std::sync::Arc<[String]>,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Bytes, and nobody looks at them.
    BareGet,
    /// The same, and the profile that they stand for.
    DecodedGet,
    Fetch,
}

/// Each with all keys, then each with one.
const WAYS: [(Way, usize); 6] = [
    (Way::BareGet, KEYS),
    (Way::DecodedGet, KEYS),
    (Way::Fetch, KEYS),
    (Way::BareGet, 1),
    (Way::DecodedGet, 1),
    (Way::Fetch, 1),
];

impl Ways {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let settings = RedisSettings { url: url.into(), prefix: format!("bench-{}", Uuid::new_v4().simple()) };
        let redis = Redis::new(&settings, Role::Cache)?;
        let bare = redis::Client::open(url)?.get_connection_manager().await?;
        let names = (0..KEYS).map(|number| number.to_string()).collect::<Vec<_>>();
        let keys = names.iter().map(|name| redis.key(&["bare", name])).collect::<Vec<_>>();
        let ways = Self { bare, cache: Cache::new(redis, 4), names: names.into(), keys: keys.into() };
        for (name, key) in ways.names.iter().zip(ways.keys.iter()) {
            let profile = profile(name);
            let json = serde_json::to_string(&profile)?;
            redis::cmd("SET").arg(key).arg(json).arg("EX").arg(7_200).exec_async(&mut ways.bare.clone()).await?;
            let load = move || async move { Ok::<_, Infallible>(Some(profile)) };
            ways.cache.fetch(&PROFILES, name, load).await?;
        }
        Ok(ways)
    }

    /// Whether the value was there. On a busy machine a call may miss its deadline.
    async fn go(&mut self, way: Way, number: usize) -> anyhow::Result<bool> {
        match way {
            Way::BareGet => Ok(!self.get(number).await?.is_empty()),
            Way::DecodedGet => Ok(!serde_json::from_slice::<Profile>(&self.get(number).await?)?.name.is_empty()),
            Way::Fetch => {
                let load = || async { Ok::<Option<Profile>, anyhow::Error>(None) };
                let fetched = self.cache.fetch(&PROFILES, &self.names[number], load).await?;
                Ok(fetched.source == Source::Hit && fetched.value.is_some())
            }
        }
    }

    async fn get(&mut self, number: usize) -> anyhow::Result<Vec<u8>> {
        Ok(redis::cmd("GET").arg(&self.keys[number]).query_async(&mut self.bare).await?)
    }

    /// How many a second.
    async fn measure(&self, (way, keys): (Way, usize)) -> anyhow::Result<f64> {
        let (begun, mut tasks) = (Instant::now(), JoinSet::new());
        for task in 0..CONCURRENCY {
            let mut ways = self.clone();
            tasks.spawn(async move {
                let (mut asked, mut found) = (0, 0);
                while begun.elapsed() < ROUND {
                    found += usize::from(ways.go(way, (task * 7919 + asked * 31) % keys).await?);
                    asked += 1;
                }
                anyhow::Ok(found)
            });
        }
        let mut done = 0;
        while let Some(task) = tasks.join_next().await {
            done += task??;
        }
        Ok(done as f64 / begun.elapsed().as_secs_f64())
    }
}

fn profile(name: &str) -> Profile {
    Profile {
        id: Uuid::new_v4(),
        name: format!("Customer Number {name}"),
        email_address: format!("customer-{name}@example.org"),
        city: "Springfield".to_owned(),
        orders: 12,
        newsletter: true,
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // As a service has it: counting is a part of the cost.
    metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder().context("count")?;
    let mut arguments = std::env::args().skip(1);
    let asked = arguments.next();
    let url = asked.clone().unwrap_or_else(|| backing::redis_url("cache"));
    let rounds = arguments.next().map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let ways = Ways::open(&url).await?;
    let mut rates = vec![Vec::new(); WAYS.len()];
    for round in 0..rounds {
        // A different one goes first each time.
        for turn in 0..WAYS.len() {
            let way = (turn + round) % WAYS.len();
            rates[way].push(ways.measure(WAYS[way]).await?);
        }
    }
    let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
    let means: Vec<f64> = rates.iter().map(|rates| mean(rates)).collect();
    if asked.is_some() {
        // In the order of `WAYS`.
        println!("{}", serde_json::to_string(&means)?);
        return Ok(());
    }
    for (ways, means) in WAYS.chunks_exact(3).zip(means.chunks_exact(3)) {
        let (keys, [bare, decoded, fetched]) = (ways[0].1, [means[0], means[1], means[2]]);
        println!(
            "{keys} keys: {fetched:.0} a second, {:.2} of the {decoded:.0} of a GET that is decoded, {:.2} of the {bare:.0} of one \
             that is not",
            fetched / decoded,
            fetched / bare,
        );
    }
    Ok(())
}
