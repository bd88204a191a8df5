//! The Redis layer. It knows nothing of the database behind it, nor of HTTP.

mod cache;
mod redis;

pub use cache::{Cache, Family, FetchError, Fetched, InvalidateError, Source, Times};
pub use redis::{Redis, RedisError, RedisSettings, Role};
