//! How long single things take at a given rate, and how the many are summed up.

use std::time::Duration;

use anyhow::Context;
use futures_util::future::try_join_all;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// The resolution of Tokio's timers.
const TIMER: Duration = Duration::from_millis(1);

/// Durations of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        Self(durations)
    }

    /// The value in milliseconds below which so many of a hundred lie (nearest rank).
    pub(crate) fn percentile(&self, percent: usize) -> anyhow::Result<f64> {
        let place = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        let duration = self.0.get(place).context("nothing was measured")?;
        Ok(duration.as_secs_f64() * 1000.0)
    }
}

/// Does `count` things, `rate` a second whatever they take, with as many `tools` as may be in use at once. One that has to wait for
/// a tool has begun when it was due.
pub(crate) async fn paced<T>(
    rate: f64,
    count: u32,
    tools: Vec<T>,
    act: impl AsyncFn(&mut T) -> anyhow::Result<()>,
) -> anyhow::Result<Latencies> {
    let (begin, next) = (Instant::now(), Mutex::new(0_u32));
    let act = &act;
    let durations = try_join_all(tools.into_iter().map(async |mut tool| {
        let mut durations = Vec::new();
        loop {
            let mine = {
                let mut next = next.lock().await;
                *next += 1;
                *next - 1
            };
            if mine >= count {
                return anyhow::Ok(durations);
            }
            let due = begin + Duration::from_secs_f64(f64::from(mine) / rate);
            sleep_until(due).await;
            // A timer rings up to a millisecond late, which is no fault of what is measured.
            let now = Instant::now();
            let from = if now.duration_since(due) > TIMER { due } else { now };
            act(&mut tool).await?;
            durations.push(from.elapsed());
        }
    }))
    .await?;
    Ok(Latencies::new(durations.concat()))
}
