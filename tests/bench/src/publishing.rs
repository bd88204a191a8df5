//! Confirmed publishes of 1 KiB per second, by how many confirms are outstanding.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::try_join_all;

use crate::Plan;
use crate::house::House;
use crate::part::{EXCHANGE, ROUTING_KEY};
use crate::process::Program;
use crate::results::Results;

/// Confirms outstanding, and messages: about a second's worth each.
pub(crate) const WINDOWS: [(usize, u32); 4] = [(1, 2_000), (16, 12_000), (256, 30_000), (1024, 30_000)];
/// With the quotes and the name around it, the body has 1 KiB.
const NOTE_BYTES: usize = 1024 - r#"{"note":""}"#.len();

pub(crate) const POSTROOM: &str = "Postroom, Publisher";
pub(crate) const LAPIN: &str = "lapin, bare";
pub(crate) const LIBRABBITMQ: &str = "librabbitmq, C";

/// Keeps so many things outstanding.
pub(crate) struct Outstanding(pub(crate) usize);

impl Outstanding {
    /// Does `count` things; the first that fails ends it.
    pub(crate) async fn of(&self, count: usize, act: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (next, act) = (&AtomicUsize::new(0), &act);
        try_join_all((0..self.0).map(async |_| {
            loop {
                let mine = next.fetch_add(1, Ordering::Relaxed);
                if mine >= count {
                    return anyhow::Ok(());
                }
                act(mine).await?;
            }
        }))
        .await?;
        Ok(())
    }
}

/// One round of every contender at every window.
pub(crate) async fn measure(house: &House, plan: &Plan, repeat: usize, results: &mut Results) -> anyhow::Result<()> {
    let contenders = [POSTROOM, LAPIN, LIBRABBITMQ];
    for (window, count) in WINDOWS {
        let count = plan.sized(count);
        // Each repeat begins with another.
        for contender in contenders.into_iter().cycle().skip(repeat).take(contenders.len()) {
            house.clear(&["noop.normal"], &[]).await?;
            let rate = rate(house, contender, window, count).await?;
            results.add("publishing", contender, &format!("{window} outstanding"), "1/s", rate);
        }
    }
    house.clear(&["noop.normal"], &[]).await
}

async fn rate(house: &House, contender: &str, window: usize, count: u32) -> anyhow::Result<f64> {
    let url = house.broker_url("noop-worker");
    let program = match contender {
        POSTROOM => Program::part(house, "publish-postroom")?.arg(window.to_string()),
        LAPIN => Program::part(house, "publish-lapin")?.arg(window.to_string()),
        _ => {
            let program = Program::new(house, "publish-librabbitmq", house.folder.join("publish"))?;
            let program = program.arg(&url).arg(EXCHANGE).arg(ROUTING_KEY);
            program.arg("1024").arg(window.to_string()).arg(count.to_string())
        }
    };
    let program = program.env("BENCH_URL", url).env("BENCH_COUNT", count.to_string());
    let span = program.env("BENCH_PAYLOAD", "x".repeat(NOTE_BYTES)).span().await?;
    Ok(f64::from(count) / span.seconds())
}
