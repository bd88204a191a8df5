//! What a reader is told.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::RedisError;

/// A value, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched<T> {
    /// `None`: there is nothing.
    pub value: Option<T>,
    /// Where it came from.
    pub source: Source,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// From Redis, and fresh.
    Hit,
    /// From Redis, past its time: a new one is being loaded, or could not be.
    Stale,
    /// Loaded now, under the lease, by this request or one that waited with it.
    Loaded,
    /// Loaded now without Redis, which is away, or past somebody's lease who took too long. Not stored.
    Bypassed,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Loaded => "loaded",
            Self::Bypassed => "bypassed",
        }
    }
}

/// Why there is no answer, not even an old one. Many requests may share one failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The load failed.
    #[error("load the value")]
    Load(#[source] Arc<dyn Error + Send + Sync>),
    /// The load took too long and was given up.
    #[error("load the value: not done within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// Too many loads run already.
    #[error("load the value: too many loads at a time")]
    Busy,
    /// The value cannot be written as JSON, or not be read again.
    #[error("the value does not survive its way through JSON")]
    Value,
    /// The load panicked, or the process ends.
    #[error("load the value: it was lost")]
    Lost,
}

impl FetchError {
    /// The load's own error, if it is of this type.
    #[must_use]
    pub fn load_error<E: Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Load(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

/// Why something may still be cached.
#[derive(Debug, thiserror::Error)]
pub enum InvalidateError {
    /// It is not the name of an entry, and never will be.
    #[error("\"{0}\" is not the name of a cache entry")]
    Name(String),
    /// Redis did not say that it is gone.
    #[error(transparent)]
    Redis(#[from] RedisError),
}
