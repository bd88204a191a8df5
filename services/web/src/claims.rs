//! What was asked for under an `Idempotency-Key`, so that the same key with another payload is noticed: kept in the durable Redis,
//! which costs no commit, and behind it in PostgreSQL for as long as the job is.

use std::time::Duration;

use cache::{Redis, RedisError};
use redis::Script;
use store::idempotency::Claim;
use uuid::Uuid;

/// Repeats come soon. What comes later is compared with what PostgreSQL has of the job.
const KEPT: Duration = Duration::from_secs(3600);

/// Claims the key that `job` derives from, for a payload with this hash.
pub(crate) async fn claim(redis: &Redis, job: Uuid, hash: &str) -> Result<Claim, RedisError> {
    let mut set = redis::cmd("SET");
    set.arg(key(redis, job)).arg(hash).arg("NX").arg("GET").arg("EX").arg(KEPT.as_secs());
    let known: Option<String> = redis.query("claim an idempotency key", &set).await?;
    Ok(match known {
        None => Claim::New,
        Some(known) if known == hash => Claim::Same,
        Some(_) => Claim::Other,
    })
}

/// Takes a claim back that PostgreSQL knows better, unless another has taken its place.
pub(crate) async fn take_back(redis: &Redis, job: Uuid, hash: &str) -> Result<(), RedisError> {
    let script = Script::new("if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1");
    let _done: i64 = redis.invoke("take a claim back", script.key(key(redis, job)).arg(hash)).await?;
    Ok(())
}

fn key(redis: &Redis, job: Uuid) -> String {
    redis.key(&["idempotency-key", &job.to_string()])
}
