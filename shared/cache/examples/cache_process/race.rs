//! A race: readers and writers of a few items, with pauses where they hurt most.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::contender::Contender;
use crate::database::Items;
use crate::floors::Floors;

/// So long readers are among themselves in the end.
const LAST_READS: Duration = Duration::from_secs(1);

#[derive(Clone, Deserialize)]
pub(crate) struct Race {
    seconds: u64,
    readers: u32,
    writers: u32,
    items: i32,
    /// Whether it is over as soon as a bad read was seen in this process.
    ends_when_bad: bool,
}

/// What was seen in this process.
#[derive(Default)]
struct Seen {
    reads: AtomicU64,
    loads: AtomicU64,
    writes: AtomicU64,
    bad: AtomicU64,
    errors: AtomicU64,
}

/// One who takes part.
#[derive(Clone)]
struct Runner {
    contender: Contender,
    items: Items,
    floors: Floors,
    seen: Arc<Seen>,
    race: Race,
    end: Instant,
}

impl Race {
    pub(crate) async fn run(self, contender: Contender, items: Items, floors: Floors) -> anyhow::Result<Value> {
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let seen = Arc::<Seen>::default();
        let runner = Runner { contender, items, floors, seen: Arc::clone(&seen), race: self.clone(), end };
        let mut tasks = JoinSet::new();
        (0..self.readers).for_each(|_| drop(tasks.spawn(runner.clone().read())));
        (0..self.writers).for_each(|_| drop(tasks.spawn(runner.clone().write())));
        for task in tasks.join_all().await {
            task?;
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        Ok(json!({
            "reads": count(&seen.reads), "loads": count(&seen.loads), "writes": count(&seen.writes),
            "bad": count(&seen.bad), "errors": count(&seen.errors),
        }))
    }
}

impl Runner {
    async fn read(self) -> anyhow::Result<()> {
        while !self.is_over() {
            let item = rand::random_range(0..self.race.items);
            let floor = self.floors.read(item).await?;
            let (items, seen) = (self.items.clone(), Arc::clone(&self.seen));
            let load = move || async move {
                seen.loads.fetch_add(1, Ordering::SeqCst);
                let version = items.read(item).await;
                // Between the database's answer and the fill.
                pause(if rand::random_ratio(1, 10) { 40 } else { 8 }).await;
                version
            };
            match self.contender.fetch(item, load).await {
                Ok(version) => {
                    self.seen.reads.fetch_add(1, Ordering::SeqCst);
                    self.seen.bad.fetch_add(u64::from(version < floor), Ordering::SeqCst);
                }
                Err(_) => {
                    self.seen.errors.fetch_add(1, Ordering::SeqCst);
                    pause(5).await;
                }
            }
        }
        Ok(())
    }

    /// Until there is a while left in which what was written last is read once more.
    async fn write(self) -> anyhow::Result<()> {
        while !self.is_over() && Instant::now() + LAST_READS < self.end {
            let item = rand::random_range(0..self.race.items);
            let version = self.items.write(item).await?;
            // Between the commit and the invalidation.
            pause(6).await;
            while self.contender.invalidate(item).await.is_err() {
                self.seen.errors.fetch_add(1, Ordering::SeqCst);
                pause(20).await;
            }
            self.floors.raise(item, version).await?;
            self.seen.writes.fetch_add(1, Ordering::SeqCst);
            pause(30).await;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        let is_bad = self.race.ends_when_bad && self.seen.bad.load(Ordering::SeqCst) > 0;
        is_bad || Instant::now() > self.end
    }
}

/// A pause of so many ms at most.
async fn pause(most: u64) {
    sleep(Duration::from_micros(rand::random_range(0..=most * 1_000))).await;
}
