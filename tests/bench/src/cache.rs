//! The cache: what a hit costs beside a bare `GET`, and what an endpoint gives with it and without.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::Instant;

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
        Copies::Away => format!("`GET {path}`, without the cache"),
    }
}

/// One round of all.
pub(crate) async fn measure(house: &House, plan: &Plan, repeat: usize, results: &mut Results) -> anyhow::Result<()> {
    hits(house, plan, results).await?;
    let ids: Vec<String> = sqlx::query_scalar(SHOWN.1).fetch_all(&house.pool).await?;
    let shown: Vec<String> = ids.iter().map(|id| SHOWN.0.replace("{id}", id)).collect();
    let session = sign_in(house).await.context("sign in")?;
    let ways = [Copies::Kept, Copies::Away];
    for (name, paths) in [(SHOWN.0, shown), (TOP, vec![TOP.to_owned()])] {
        // Each repeat begins with the other.
        for copies in ways.into_iter().cycle().skip(repeat).take(ways.len()) {
            endpoint(house, plan, results, (name, copies), &paths, &session).await?;
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
