//! One process of several in a test: reads and writes through one kind of cache as it is told, and reports as lines of JSON.
//! `ready`; then, after a line on its input, it begins; and after one more, when it has reported, it ends.

#![expect(clippy::print_stdout, reason = "its output is its report")]

mod contender;
mod database;
mod floors;
mod herd;
mod race;

use std::io::Write;

use anyhow::Context;
use cache::{Redis, RedisSettings, Role};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::contender::{Contender, Kind};
use crate::database::Items;
use crate::floors::Floors;
use crate::herd::Herd;
use crate::race::Race;

/// What it is told, in its first argument.
#[derive(Deserialize)]
struct Orders {
    redis: RedisSettings,
    /// Where the oldest version that a reader may see is kept: a server that stays.
    floors: RedisSettings,
    database: String,
    kind: Kind,
    fresh_ms: u64,
    grace_ms: u64,
    lease_ms: u64,
    task: Task,
}

#[derive(Deserialize)]
enum Task {
    Herd(Herd),
    Race(Race),
}

fn report(line: &serde_json::Value) {
    println!("{line}");
    std::io::stdout().flush().expect("whoever started it listens");
}

async fn word() -> anyhow::Result<()> {
    let reading = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    reading.await?.context("wait for the word")?;
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let orders = std::env::args().nth(1).context("read the orders")?;
    let orders: Orders = serde_json::from_str(&orders).context("read the orders")?;
    let redis = Redis::new(&orders.redis, Role::Cache)?;
    let stop = CancellationToken::new();
    let watching = tokio::spawn(redis.clone().watch(stop.clone()));
    let floors = Floors::connect(&orders.floors).await?;
    let items = Items::connect(&orders.database).await?;
    let contender = Contender::new(orders.kind, redis, [orders.fresh_ms, orders.grace_ms, orders.lease_ms]);
    if let Task::Herd(herd) = &orders.task {
        herd.prepare(&contender).await?;
    }
    report(&json!("ready"));
    word().await?;
    let result = match orders.task {
        Task::Herd(herd) => herd.run(contender, items).await?,
        Task::Race(race) => race.run(contender, items, floors).await?,
    };
    report(&result);
    word().await?;
    stop.cancel();
    watching.await?;
    Ok(())
}
