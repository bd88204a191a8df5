//! The Redis layer. It knows nothing of the database behind it, nor of HTTP.

mod cache;
mod limits;
mod notices;
mod redis;

pub use cache::{Cache, Family, FetchError, Fetched, InvalidateError, Source, Times, value_key};
pub use limits::{Charge, Limit, Limiter, Standing, Verdict};
pub use notices::Heard;
pub use redis::{Redis, RedisError, RedisSettings, Role};
