//! The cache: what a hit costs beside a bare `GET`, and what an endpoint gives with it and without.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use cache::{Cache, Redis, RedisSettings, Role};
use futures_util::future::try_join_all;
use serde_json::json;
use store::products::BEST_SELLERS;
use tokio::time::{Instant, interval};

use crate::Plan;
use crate::house::House;
use crate::http::Client;
use crate::latency::{Latencies, paced};
use crate::postroom::{self, Copies};
use crate::process::Program;
use crate::results::Results;

/// What shows one thing, and the ids of the things that there are.
pub(crate) const SHOWN: (&str, &str) = ("/v1/users/{id}", "SELECT id::text FROM users ORDER BY id");
/// Who looks at all of them.
const ADDRESS: &str = "clerk@shop.example";
const PASSWORD: &str = "correct horse";
/// What is counted over all orders of a month.
pub(crate) const TOP: &str = "/v1/products/top";

/// What is asked for, and how.
pub(crate) const ENDPOINTS: &[(&str, &[Copies])] =
    &[(SHOWN.0, &[Copies::Kept, Copies::Away]), (TOP, &[Copies::Kept, Copies::Aged, Copies::Away])];
/// The dispatcher's: see docs/dispatcher.md.
const BETWEEN_ENDS: Duration = Duration::from_secs(1);

/// Each takes a tenth of a second.
const ROUNDS: u32 = 300;
/// Connections that each have one request open.
const OUTSTANDING: usize = 64;
const REQUESTS: u32 = 20_000;
/// Seconds at a steady rate.
const STEADY: f64 = 4.0;

pub(crate) const FETCH: &str = "`Cache::fetch`";
pub(crate) const DECODED: &str = "a bare `GET`, decoded";
pub(crate) const BARE: &str = "a bare `GET`, not decoded";
pub(crate) const KEYS: [&str; 2] = ["1,000 keys", "one key"];

/// How an endpoint is called in the figures.
pub(crate) fn contender(path: &str, copies: Copies) -> String {
    match copies {
        Copies::Kept => format!("`GET {path}`"),
        Copies::Aged => format!("`GET {path}`, while orders end the copy"),
        Copies::Away => format!("`GET {path}`, without the cache"),
    }
}

/// One round of all.
pub(crate) async fn measure(house: &House, plan: &Plan, repeat: usize, results: &mut Results) -> anyhow::Result<()> {
    hits(house, plan, results).await?;
    let ids: Vec<String> = sqlx::query_scalar(SHOWN.1).fetch_all(&house.pool).await?;
    let shown: Vec<String> = ids.iter().map(|id| SHOWN.0.replace("{id}", id)).collect();
    let session = sign_in(house).await.context("sign in")?;
    for (name, ways) in ENDPOINTS {
        let paths = if *name == TOP { vec![TOP.to_owned()] } else { shown.clone() };
        // Each repeat begins with another.
        for copies in ways.iter().cycle().skip(repeat).take(ways.len()) {
            let measured = endpoint(house, plan, results, (name, *copies), &paths, &session);
            match copies {
                Copies::Aged => tokio::select! {
                    measured = measured => measured?,
                    failed = age(house) => failed?,
                },
                Copies::Kept | Copies::Away => measured.await?,
            }
        }
    }
    Ok(())
}

/// By the example of the cache itself.
async fn hits(house: &House, plan: &Plan, results: &mut Results) -> anyhow::Result<()> {
    let program = Program::new(house, "hit_path", House::released("examples/hit_path")?)?;
    let rates: Vec<f64> = program.arg(house.cache_url()).arg(plan.sized(ROUNDS).to_string()).last_line().await?;
    ensure!(rates.len() == 3 * KEYS.len(), "hit_path told of {} ways", rates.len());
    for (keys, rates) in KEYS.into_iter().zip(rates.chunks_exact(3)) {
        for (contender, rate) in [BARE, DECODED, FETCH].into_iter().zip(rates) {
            results.add("cache", contender, keys, "1/s", *rate);
        }
    }
    Ok(())
}

/// Ends the copy of the best sellers as often as one dispatcher does, however many orders there are.
async fn age(house: &House) -> anyhow::Result<()> {
    let settings = RedisSettings { url: house.cache_url().into(), prefix: "postroom".to_owned() };
    let (cache, mut turns) = (Cache::new(Redis::new(&settings, Role::Cache)?, 1), interval(BETWEEN_ENDS));
    loop {
        turns.tick().await;
        cache.age_entry(&BEST_SELLERS.entry()).await.context("end the copy of the best sellers")?;
    }
}

/// The line of the header by which somebody of the staff is known.
async fn sign_in(house: &House) -> anyhow::Result<String> {
    let (web, address) = postroom::web_with(house, Copies::Kept, TOP).await?;
    let mut client = Client::connect_as(&address, "").await?;
    let account = json!({"name": "Clerk", "email": ADDRESS, "password": PASSWORD, "country": "DE"});
    let registered = client.post("/v1/register", &account.to_string()).await?;
    ensure!(registered.status == 202, "register: {}", registered.status);
    sqlx::query("UPDATE users SET role = 'staff' WHERE email = $1").bind(ADDRESS).execute(&house.pool).await?;
    let login = client.post("/v1/login", &json!({"email": ADDRESS, "password": PASSWORD}).to_string()).await?;
    web.stop().await?;
    Ok(format!("Cookie: {}\r\n", login.cookie.context("the login sets no cookie")?))
}

/// All that it gives, then how long an answer takes at half of that, and what all of that asked of PostgreSQL.
async fn endpoint(
    house: &House,
    plan: &Plan,
    results: &mut Results,
    (name, copies): (&str, Copies),
    paths: &[String],
    session: &str,
) -> anyhow::Result<()> {
    let contender = &contender(name, copies);
    let before = house.transactions().await?;
    let (mut web, address) = postroom::web_with(house, copies, TOP).await?;
    let clients = || try_join_all((0..OUTSTANDING).map(|_| Client::connect_as(&address, session)));
    let count = plan.sized(REQUESTS);
    let refused = AtomicU32::new(0);
    let begin = Instant::now();
    get(f64::INFINITY, count, clients().await?, paths, &refused).await?;
    let rate = f64::from(count) / begin.elapsed().as_secs_f64();
    let steady = (rate / 2.0 * if plan.quick { 1.0 } else { STEADY }).ceil() as u32;
    let latencies = get(rate / 2.0, steady, clients().await?, paths, &refused).await?;
    web.check()?;
    web.stop().await?;
    let transactions = house.transactions().await? - before;
    results.add("cache", contender, "rate", "1/s", rate);
    for percent in [50, 99] {
        results.add("cache", contender, &format!("p{percent}"), "ms", latencies.percentile(percent)?);
    }
    let each = transactions as f64 / f64::from(count + steady);
    results.add("cache", contender, "transactions", "of 1,000", 1000.0 * each);
    let refused = f64::from(refused.into_inner()) / f64::from(count + steady);
    results.add("cache", contender, "503", "of 1,000", 1000.0 * refused);
    Ok(())
}

/// Asks for each in turn. Who finds no room before the database within a second is refused.
async fn get(
    rate: f64,
    count: u32,
    clients: Vec<Client>,
    paths: &[String],
    refused: &AtomicU32,
) -> anyhow::Result<Latencies> {
    let next = AtomicUsize::new(0);
    paced(rate, count, clients, async |client| {
        let path = &paths[next.fetch_add(1, Ordering::Relaxed) % paths.len()];
        let answer = client.get(path, "").await?;
        if answer.status == 503 {
            refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        ensure!(answer.status == 200, "{path}: {}, {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok(())
    })
    .await
}
