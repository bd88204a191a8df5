//! The cache under test, and the usual recipes.

use std::time::Duration;

use cache::{Cache, Family, Redis, Times};
use serde::Deserialize;
use tokio::time::sleep;
use uuid::Uuid;

/// How long the recipes keep a value.
const KEPT: Duration = Duration::from_secs(5);
const LOCKED: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);

/// Which cache.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) enum Kind {
    /// The one of this crate.
    Leased,
    /// Look; if it is missing, load and set it.
    Naive,
    /// The same, by whoever gets a lock.
    Locked,
}

/// A cache of versions.
#[derive(Clone)]
pub(crate) struct Contender {
    kind: Kind,
    redis: Redis,
    cache: Cache,
    family: Family,
}

impl Contender {
    /// How long a value is fresh, how long it is kept after that, and how long a lease is good for, in ms.
    pub(crate) fn new(kind: Kind, redis: Redis, times_ms: [u64; 3]) -> Self {
        let [fresh, grace, lease] = times_ms.map(Duration::from_millis);
        let times = Times { fresh, grace, absent: Duration::from_secs(1), lease, load: Duration::from_secs(30) };
        Self { kind, cache: Cache::new(redis.clone(), 4), redis, family: Family::new("item", 1, times) }
    }

    pub(crate) async fn fetch<L, F>(&self, item: i32, load: L) -> anyhow::Result<Option<i64>>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<i64>, sqlx::Error>> + Send + 'static,
    {
        let key = self.key(item);
        match self.kind {
            Kind::Leased => Ok(self.cache.fetch(&self.family, &item.to_string(), load).await?.value),
            Kind::Naive => {
                if let Some(version) = self.get(&key).await? {
                    return Ok(Some(version));
                }
                let version = load().await?;
                self.set(&key, version).await?;
                Ok(version)
            }
            Kind::Locked => loop {
                if let Some(version) = self.get(&key).await? {
                    return Ok(Some(version));
                }
                let (lock, own) = (format!("{key}:lock"), Uuid::new_v4().to_string());
                let locked = redis::cmd("SET").arg(&lock).arg(&own).arg("NX").arg("PX").arg(millis(LOCKED)).to_owned();
                if self.redis.query::<Option<String>>("lock", &locked).await?.is_some() {
                    let version = load().await?;
                    self.set(&key, version).await?;
                    let unlock = redis::Script::new(
                        "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0",
                    );
                    self.redis.invoke::<u32>("unlock", unlock.key(&lock).arg(&own)).await?;
                    return Ok(version);
                }
                sleep(POLL).await;
            },
        }
    }

    pub(crate) async fn invalidate(&self, item: i32) -> anyhow::Result<()> {
        match self.kind {
            Kind::Leased => Ok(self.cache.invalidate(&self.family, &item.to_string()).await?),
            Kind::Naive | Kind::Locked => Ok(self.redis.query("delete", redis::cmd("DEL").arg(self.key(item))).await?),
        }
    }

    /// The same key as in the cache under test, so that one look finds what is left of either.
    fn key(&self, item: i32) -> String {
        self.redis.key(&["value", &self.family.entry(&item.to_string())])
    }

    async fn get(&self, key: &str) -> anyhow::Result<Option<i64>> {
        Ok(self.redis.query("get", redis::cmd("GET").arg(key)).await?)
    }

    async fn set(&self, key: &str, version: Option<i64>) -> anyhow::Result<()> {
        Ok(self.redis.query("set", redis::cmd("SET").arg(key).arg(version).arg("PX").arg(millis(KEPT))).await?)
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
