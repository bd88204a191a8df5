//! Cache-aside: what was loaded is kept in Redis until it is invalidated or too old. A missing value is loaded once, by however
//! many processes and requests it is missed, and what was loaded before an invalidation is never stored after it: docs/cache.md.

mod answer;
mod chance;
mod clock;
mod entries;
mod family;
mod flights;
mod hits;
mod journey;
mod presence;
mod reads;
mod value;

use std::error::Error;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

pub use self::answer::{FetchError, Fetched, InvalidateError, Source};
use self::clock::Clock;
use self::entries::Entries;
pub use self::entries::value_key;
pub use self::family::{Family, Times};
use self::flights::{Flights, Lost};
use self::hits::Hits;
use self::journey::{Answer, Journey};
use self::presence::Presence;
use self::reads::{Found, Reads};
use crate::{Redis, RedisError};

/// What may be cached in one Redis server. Clones share it.
///
/// Whoever has one runs [`Redis::watch`] too, or a server that was away is not found again.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    entries: Entries,
    clock: Clock,
    flights: Arc<Flights<Result<Answer, FetchError>>>,
    /// Loads that may run at a time, of all keys. When Redis is away, it is all that stands before the database.
    loads: Arc<Semaphore>,
    reads: Reads,
    presence: Presence,
    hits: Hits,
}

impl Cache {
    /// A cache in `redis`, with a connection more, by which Redis sees that this process lives. `loads` is how many loads of this process
    /// run at a time: fewer than the database has connections for it. Called within a Tokio runtime.
    #[must_use]
    pub fn new(redis: Redis, loads: usize) -> Self {
        let (presence, entries) = (Presence::show(redis.clone()), Entries::new(redis));
        let shared = Shared {
            presence,
            reads: Reads::of(entries.clone()),
            entries,
            clock: Clock::default(),
            flights: Arc::default(),
            loads: Arc::new(Semaphore::new(loads)),
            hits: Hits::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The value of a key: the stored one, else the one that `load` brings, which is then stored. `None` is a value too, and stored
    /// for less long. A load once begun goes on when nobody waits any more.
    ///
    /// `load` reads the primary database, in a transaction that begins after the call and sees what was committed until then.
    ///
    /// # Errors
    /// Nothing is stored, and the load failed, took too long, or found no room. Never because of Redis.
    pub async fn fetch<T, E, L, F>(&self, family: &Family, key: &str, load: L) -> Result<Fetched<T>, FetchError>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<T>, E>> + Send + 'static,
    {
        let (key, arrived) = (self.shared.entries.key(family, key), self.shared.flights.moment());
        let silent = match self.read(key.clone()).await {
            Ok(Some(value)) => {
                self.shared.hits.count(family);
                return Ok(Fetched { value, source: Source::Hit });
            }
            Ok(None) => false,
            Err(Silence) => true,
        };
        let shared = Arc::clone(&self.shared);
        let journey = |began| Journey { shared, family: *family, key: key.clone(), silent, began }.travel(load);
        let answer = self.shared.flights.join(&key, arrived, journey).await;
        let fetched = answer.unwrap_or_else(|Lost| Err(FetchError::Lost)).and_then(|answer| {
            let value = value::decode(&answer.value).ok_or(FetchError::Value)?;
            Ok(Fetched { value, source: answer.source })
        });
        count(family, fetched.as_ref().map_or("failed", |fetched| fetched.source.name()));
        fetched
    }

    /// Forgets what is stored under a key, and refuses what is being loaded for it. Call it after every commit that changes the
    /// value, also when it is unknown whether the commit took effect; what it fails to do, an outbox row of the same transaction
    /// does later.
    ///
    /// # Errors
    /// Redis did not say that it is done.
    pub async fn invalidate(&self, family: &Family, key: &str) -> Result<(), InvalidateError> {
        self.invalidate_entry(&family.entry(key)).await
    }

    /// The same by the name that [`Family::entry`] gave, for whoever knows no families.
    ///
    /// # Errors
    /// It is no such name, or Redis did not say that it is done.
    pub async fn invalidate_entry(&self, entry: &str) -> Result<(), InvalidateError> {
        counted(self.shared.entries.delete(&neighbours(entry)?).await)
    }

    /// Has what is stored under a name be loaded anew by its next reader and given to the others meanwhile, within its grace; refuses
    /// what is being loaded. For what is dear to load and changes all the time: a reader may be given what was before the change, until
    /// it is loaded.
    ///
    /// # Errors
    /// As [`Cache::invalidate_entry`].
    pub async fn age_entry(&self, entry: &str) -> Result<(), InvalidateError> {
        counted(self.shared.entries.age(&neighbours(entry)?).await)
    }

    /// The shortest way to a value: a plain read, if it is stored, fresh and readable.
    async fn read<T: DeserializeOwned>(&self, key: String) -> Result<Option<Option<T>>, Silence> {
        if self.shared.clock.now().is_none() {
            return Ok(None);
        }
        let stored = match self.shared.reads.read(key).await {
            Found::Stored(stored) => stored,
            Found::Nothing => return Ok(None),
            Found::Silence => return Err(Silence),
        };
        let now = self.shared.clock.now();
        let is_fresh = now.is_some_and(|now| chance::is_fresh(now, stored.expiry, stored.cost, chance::early()));
        Ok(if is_fresh { value::decode(&stored.value) } else { None })
    }
}

/// Redis was asked just now, and does not answer.
struct Silence;

fn neighbours(entry: &str) -> Result<[String; 3], InvalidateError> {
    family::neighbours(entry).ok_or_else(|| InvalidateError::Name(entry.to_owned()))
}

fn counted(ended: Result<(), RedisError>) -> Result<(), InvalidateError> {
    let outcome = if ended.is_ok() { "done" } else { "failed" };
    metrics::counter!("cache_invalidations_total", "outcome" => outcome).increment(1);
    Ok(ended?)
}

fn count(family: &Family, outcome: &'static str) {
    metrics::counter!("cache_reads_total", "family" => family.name, "outcome" => outcome).increment(1);
}
