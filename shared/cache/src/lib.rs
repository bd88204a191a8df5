//! The Redis layer. It knows nothing of the database behind it, nor of HTTP.

mod redis;

pub use redis::{Redis, RedisError, RedisSettings, Role};
