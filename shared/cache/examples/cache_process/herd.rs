//! A herd: many requests for one value, all at once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use anyhow::ensure;
use futures_util::poll;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::contender::Contender;
use crate::database::Items;
use crate::report;

/// How long the database takes.
const LOAD: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
pub(crate) struct Herd {
    requests: usize,
    /// The version that each of them is to be given.
    version: i64,
    /// Whether the process has had the value before.
    warm: bool,
}

impl Herd {
    pub(crate) async fn prepare(&self, contender: &Contender) -> anyhow::Result<()> {
        if self.warm {
            let stored = contender.fetch(0, || async { Err(sqlx::Error::RowNotFound) }).await?;
            ensure!(stored == Some(1), "the value that is there is {stored:?}");
        }
        Ok(())
    }

    pub(crate) async fn run(self, contender: Contender, items: Items) -> anyhow::Result<Value> {
        let (arrived, load_ms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..self.requests {
            let (contender, items) = (contender.clone(), items.clone());
            let (arrived, load_ms) = (Arc::clone(&arrived), Arc::clone(&load_ms));
            tasks.spawn(async move {
                let all_arrived = Arc::clone(&arrived);
                let load = move || async move {
                    let begun = Instant::now();
                    items.count().await?;
                    report(&json!("loading"));
                    let version = items.read_slowly(0, LOAD).await;
                    // However slow the machine is: the load ends after everybody has come.
                    while all_arrived.load(Ordering::SeqCst) < self.requests {
                        sleep(Duration::from_millis(1)).await;
                    }
                    load_ms.fetch_max(millis(begun), Ordering::SeqCst);
                    version
                };
                let (begun, mut fetching) = (Instant::now(), pin!(contender.fetch(0, load)));
                // It has come once it waits.
                let first = poll!(fetching.as_mut());
                arrived.fetch_add(1, Ordering::SeqCst);
                let version = match first {
                    Poll::Ready(version) => version,
                    Poll::Pending => fetching.await,
                };
                (version, millis(begun))
            });
        }
        let (mut answered, mut slowest) = (0, 0);
        for (version, time) in tasks.join_all().await {
            answered += usize::from(version? == Some(self.version));
            slowest = slowest.max(time);
        }
        Ok(json!({ "answered": answered, "slowest_ms": slowest, "load_ms": load_ms.load(Ordering::SeqCst) }))
    }
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
