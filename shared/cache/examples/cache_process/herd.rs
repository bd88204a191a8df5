//! A herd: many requests for one missing value, all at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
}

impl Herd {
    pub(crate) async fn run(self, contender: Contender, items: Items) -> anyhow::Result<Value> {
        let arrived = Arc::new(AtomicUsize::new(0));
        let (begun, mut tasks) = (Instant::now(), JoinSet::new());
        for _ in 0..self.requests {
            let (contender, items, arrived) = (contender.clone(), items.clone(), Arc::clone(&arrived));
            tasks.spawn(async move {
                let all_arrived = Arc::clone(&arrived);
                let load = move || async move {
                    items.count().await?;
                    report(&json!("loading"));
                    let version = items.read_slowly(0, LOAD).await;
                    // However slow the machine is: the load ends after everybody has come.
                    while all_arrived.load(Ordering::SeqCst) < self.requests {
                        sleep(Duration::from_millis(1)).await;
                    }
                    version
                };
                arrived.fetch_add(1, Ordering::SeqCst);
                let version = contender.fetch(0, load).await;
                (version, begun.elapsed())
            });
        }
        let (mut answered, mut slowest) = (0, Duration::ZERO);
        for (version, time) in tasks.join_all().await {
            answered += usize::from(version? == Some(1));
            slowest = slowest.max(time);
        }
        Ok(json!({ "answered": answered, "slowest_ms": slowest.as_millis() as u64 }))
    }
}
