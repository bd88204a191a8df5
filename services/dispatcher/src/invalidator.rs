//! Ends the cache entries that changes have named: for the writers that died before they did it, or found Redis away.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use cache::{Cache, InvalidateError, Redis};
use futures_util::{StreamExt, stream};
use store::PgPool;
use store::cache_invalidations::{self, CHANNEL, Cached};
use store::products::BEST_SELLERS;
use tokio_util::sync::CancellationToken;

use crate::due::{Due, Watch};

/// What is counted over many rows and changes all the time: given on while one reader has it counted anew. Deleted once a second it
/// would be missing whenever somebody asks.
const AGING: [Cached; 1] = [BEST_SELLERS];
/// Rows that are taken together. Most of a flood name the same few entries.
const BATCH: u32 = 10_000;
/// Entries that are ended side by side: so many that a batch ends, however slow each call is, within the minute after which the
/// database gives its transaction up.
const AT_ONCE: usize = 64;
/// Between two looks: an entry that is named without end is ended once a second, and its rows go together.
const PACE: Duration = Duration::from_secs(1);
/// How soon to look again while Redis is away, whose return is noticed by others.
const REDIS_PAUSE: Duration = Duration::from_millis(250);
/// How soon to try again after Redis said no, or the database failed; twice as long after each further time, up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Ends what is to go.
pub struct Invalidator {
    pool: PgPool,
    redis: Redis,
    cache: Cache,
    told: Watch,
}

impl fmt::Debug for Invalidator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Invalidator").finish_non_exhaustive()
    }
}

impl Invalidator {
    /// One for the cache in this Redis, which somebody watches. `notices` are those of [`notices`].
    #[must_use]
    pub fn new(redis: Redis, pool: PgPool, notices: &Due) -> Self {
        // It loads nothing.
        Self { pool, cache: Cache::new(redis.clone(), 1), redis, told: notices.watch() }
    }

    /// Ends entries until `drain`; those that have been taken by then are finished.
    ///
    /// # Errors
    /// None; it is a task like others.
    pub async fn run(mut self, drain: CancellationToken) -> anyhow::Result<()> {
        let mut failures = 0;
        while !drain.is_cancelled() {
            let turn = self.relay(BATCH).await.unwrap_or_else(|error| {
                tracing::warn!(error = format!("{error:#}"), "ending cache entries was interrupted");
                Turn::Failed
            });
            failures = if turn == Turn::Failed { failures + 1 } else { 0 };
            let pause = async {
                match turn {
                    Turn::Ended(_) => tokio::time::sleep(PACE).await,
                    Turn::RedisAway => tokio::time::sleep(REDIS_PAUSE).await,
                    Turn::Failed => tokio::time::sleep(backoff(failures - 1, rand::random())).await,
                    Turn::NothingWaits => {
                        // A flood of notices for what another dispatcher takes is no reason to look all the time.
                        tokio::time::sleep(PACE).await;
                        self.told.wait(None).await;
                    }
                }
            };
            drain.run_until_cancelled(pause).await;
        }
        Ok(())
    }

    /// Takes up to `limit` rows, ends each entry that they name once, and deletes the rows whose entry is gone.
    ///
    /// # Errors
    /// Redis failed, or the database: rows that are still there are taken again, also where their entry is gone.
    pub async fn relay(&self, limit: u32) -> anyhow::Result<Turn> {
        if self.redis.is_away() {
            return Ok(Turn::RedisAway);
        }
        let Some(batch) = cache_invalidations::take(&self.pool, limit).await? else {
            return Ok(Turn::NothingWaits);
        };
        let named: BTreeSet<String> = batch.rows().iter().map(|row| row.entry.clone()).collect();
        let ending = stream::iter(named).map(|entry| async move {
            let outcome = self.end(&entry).await;
            (entry, outcome)
        });
        let (mut gone, mut failure) = (BTreeSet::new(), None);
        for (entry, outcome) in ending.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            match outcome {
                Ok(()) => _ = gone.insert(entry),
                Err(error) => failure = Some(error),
            }
        }
        let done: Vec<i64> = batch.rows().iter().filter(|row| gone.contains(&row.entry)).map(|row| row.id).collect();
        batch.finish(&done).await?;
        match failure {
            None => Ok(Turn::Ended(done.len())),
            Some(error) => Err(anyhow::Error::new(error).context("end a cache entry")),
        }
    }

    async fn end(&self, entry: &str) -> Result<(), InvalidateError> {
        let ages = AGING.iter().any(|cached| entry.split(':').next() == Some(cached.family));
        let ended = if ages { self.cache.age_entry(entry).await } else { self.cache.invalidate_entry(entry).await };
        match ended {
            Err(InvalidateError::Name(name)) => {
                // Nothing is cached under it.
                tracing::error!(entry = name, "a change has named what is no cache entry");
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// How a look at the rows went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many rows were taken, and are gone with their entries; there may be more.
    Ended(usize),
    /// There is no row that nobody else holds.
    NothingWaits,
    /// Redis does not answer, so nothing was taken.
    RedisAway,
    /// Redis or the database failed.
    Failed,
}

/// The notices of entries that are to go.
#[must_use]
pub fn notices() -> Due {
    Due::on(CHANNEL)
}

/// Less up to a quarter by chance (0 to 1).
fn backoff(failures: u32, chance: f64) -> Duration {
    let full = FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX)).min(LONGEST_RETRY);
    full.mul_f64(1.0 - chance / 4.0)
}

/// Shows how much waits, until `drain`.
///
/// # Errors
/// None; it is a task like others.
pub async fn measure(pool: PgPool, drain: CancellationToken) -> anyhow::Result<()> {
    let mut every = tokio::time::interval(MEASURE_EVERY);
    while drain.run_until_cancelled(every.tick()).await.is_some() {
        match cache_invalidations::backlog(&pool).await {
            Ok(backlog) => {
                #[expect(clippy::cast_precision_loss, reason = "nobody counts rows beyond 2^52")]
                metrics::gauge!("cache_invalidations_waiting").set(backlog.waiting as f64);
                metrics::gauge!("cache_invalidations_oldest_seconds").set(backlog.oldest.as_secs_f64());
            }
            Err(error) => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "measure the cache invalidations");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::backoff;

    #[test]
    fn one_insists_less_and_less_often_and_never_gives_up() {
        let seconds: Vec<_> = (0..7).map(|failures| backoff(failures, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_millis(22_500));
    }
}
