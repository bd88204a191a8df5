//! The way to a value that is not at hand: ask Redis who is to load it, then load it, wait for it, or do without Redis.

use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::answer::{FetchError, Source};
use super::entries::{Look, Task, Token};
use super::family::Family;
use super::flights::Began;
use super::{Shared, chance, value};

/// So long a load waits for room among the others.
const ROOM_DEADLINE: Duration = Duration::from_secs(1);
/// A larger value is handed out and not stored: Redis would stand still while it writes and frees it.
const LARGEST_VALUE: usize = 1024 * 1024;

/// What all who waited together are told: the value as it is stored, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) value: Bytes,
    pub(crate) source: Source,
}

/// One way to the value of one key.
pub(crate) struct Journey {
    pub(crate) shared: Arc<Shared>,
    pub(crate) family: Family,
    pub(crate) key: String,
    /// Whether Redis has said nothing just now. It is not waited for once more.
    pub(crate) silent: bool,
    pub(crate) began: Began,
}

impl Journey {
    pub(crate) async fn travel<T, E, L, F>(self, load: L) -> Result<Answer, FetchError>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + Send + 'static,
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Option<T>, E>> + Send + 'static,
    {
        let times = self.family.times;
        let patience = Instant::now() + times.lease + times.load;
        let early = chance::early();
        let mut unreadable = None;
        loop {
            let token = Token::draw(self.shared.presence.channel());
            self.began.anew();
            let looked = match self.silent {
                true => None,
                false => self.shared.entries.look(&self.key, &token, &times, early, unreadable).await.ok(),
            };
            let Some(Look { task, now, stored }) = looked else { break };
            self.shared.clock.hear(now);
            let readable = stored.as_ref().is_none_or(|stored| value::decode::<T>(&stored.value).is_some());
            match (task, stored) {
                (Task::Load, _) => return self.load_and_fill(&token, self.beginning_with(load)).await,
                (Task::Refresh, Some(_)) if !readable => {
                    return self.load_and_fill(&token, self.beginning_with(load)).await;
                }
                (Task::Take, Some(stored)) if !readable => unreadable = Some(stored.expiry),
                (Task::Take | Task::Refresh, Some(stored)) => {
                    let source = if now < stored.expiry { Source::Hit } else { Source::Stale };
                    if task == Task::Refresh {
                        // Nobody waits for it.
                        tokio::spawn(async move { self.load_and_fill(&token, load).await.err() });
                    }
                    return Ok(Answer { value: stored.value, source });
                }
                (Task::Wait | Task::Take | Task::Refresh, _) => sleep(chance::poll()).await,
            }
            if Instant::now() > patience {
                break;
            }
        }
        let (loaded, _) = self.load(self.beginning_with(load)).await;
        Ok(Answer { value: loaded?, source: Source::Bypassed })
    }

    /// A load that is what this brings, so that this begins with it, for whoever waits.
    fn beginning_with<F>(&self, load: impl FnOnce() -> F + Send + 'static) -> impl FnOnce() -> F + Send + 'static {
        let began = self.began.clone();
        move || {
            began.anew();
            load()
        }
    }

    /// Loads under the lease. Whether it can be stored makes no difference to the answer.
    async fn load_and_fill<T, E, L, F>(&self, token: &Token, load: L) -> Result<Answer, FetchError>
    where
        T: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
        L: FnOnce() -> F,
        F: Future<Output = Result<Option<T>, E>>,
    {
        let (outcome, cost) = self.load(load).await;
        let filled = match &outcome {
            Ok(value) if value.len() <= LARGEST_VALUE => self.fill(token, value, cost).await,
            Ok(_) => {
                tracing::warn!(cache.family = self.family.name, "a value is too large to be cached");
                self.release(token).await;
                "too_large"
            }
            Err(_) => {
                self.release(token).await;
                "nothing"
            }
        };
        metrics::counter!("cache_fills_total", "family" => self.family.name, "outcome" => filled).increment(1);
        Ok(Answer { value: outcome?, source: Source::Loaded })
    }

    async fn fill(&self, token: &Token, value: &Bytes, cost: Duration) -> &'static str {
        let times = self.family.times;
        let (fresh, grace) =
            if value::is_absent(value) { (times.absent, Duration::ZERO) } else { (times.fresh, times.grace) };
        let fresh = chance::lifetime(fresh);
        match self.shared.entries.fill(&self.key, token, value, fresh, grace, cost).await {
            Ok(true) => "stored",
            Ok(false) => "refused",
            Err(_) => "failed",
        }
    }

    /// If Redis does not hear it, the lease ends by itself.
    async fn release(&self, token: &Token) {
        self.shared.entries.release(&self.key, token).await.ok();
    }

    /// Loads: when there is room, and no longer than it may take. With how long it took, without the wait for room.
    async fn load<T, E, L, F>(&self, load: L) -> (Result<Bytes, FetchError>, Duration)
    where
        T: Serialize,
        E: Into<Box<dyn Error + Send + Sync>>,
        L: FnOnce() -> F,
        F: Future<Output = Result<Option<T>, E>>,
    {
        let deadline = self.family.times.load;
        let Ok(Ok(_room)) = timeout(ROOM_DEADLINE, self.shared.loads.acquire()).await else {
            return (Err(FetchError::Busy), Duration::ZERO);
        };
        let begun = Instant::now();
        let loading = AssertUnwindSafe(async move { load().await }).catch_unwind();
        let outcome = match timeout(deadline, loading).await {
            Err(_) => Err(FetchError::Deadline(deadline)),
            Ok(Err(_)) => Err(FetchError::Lost),
            Ok(Ok(Err(error))) => Err(FetchError::Load(Arc::from(error.into()))),
            Ok(Ok(Ok(value))) => value::encode(value.as_ref()).map(Bytes::from).map_err(|_| FetchError::Value),
        };
        let cost = begun.elapsed();
        metrics::histogram!("cache_load_seconds", "family" => self.family.name).record(cost);
        if let Err(error) = &outcome {
            tracing::warn!(
                cache.family = self.family.name,
                error = error as &(dyn Error + 'static),
                "a value could not be loaded"
            );
        }
        (outcome, cost)
    }
}
