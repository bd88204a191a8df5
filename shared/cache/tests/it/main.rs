//! Against the real Redis: start it by `compose/up redis-cache redis-durable`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod redis;

use cache::{Redis, RedisSettings, Role};
use uuid::Uuid;

/// A server's keys for one test.
fn own_keys(role: Role) -> Redis {
    let url = match role {
        Role::Cache => backing::redis_url("cache"),
        Role::Durable => backing::redis_url("durable"),
    };
    Redis::new(&RedisSettings { url: url.into(), prefix: format!("test-{}", Uuid::new_v4().simple()) }, role).unwrap()
}
