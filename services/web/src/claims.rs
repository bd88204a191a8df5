//! What was asked for under an `Idempotency-Key`, so that the same key with another payload is noticed: kept in the durable Redis,
//! which costs no commit, and behind it in PostgreSQL for as long as the job is.

use std::time::Duration;

use cache::{Redis, RedisError};
use redis::{Script, ScriptInvocation};
use sha2::{Digest, Sha256};
use store::idempotency::Claim;
use uuid::Uuid;

/// So long one hash is written to; it is read for as long again. Repeats come soon: what comes later is compared with what
/// PostgreSQL has of the job.
const PERIOD: Duration = Duration::from_secs(3600);
/// Claims in one hash, of some 100 bytes each, so that both take a quarter of the memory at most: sessions, limits and revoked
/// tokens need the rest, and a server that is full refuses them all. Whatever comes after these PostgreSQL claims alone.
const MOST: u32 = 200_000;

/// Claims the key that `job` derives from, for a payload with this hash; `None` where there is no room.
pub(crate) async fn claim(redis: &Redis, job: Uuid, hash: &str) -> Result<Option<Claim>, RedisError> {
    claim_among(redis, job, hash, MOST).await
}

async fn claim_among(redis: &Redis, job: Uuid, hash: &str, most: u32) -> Result<Option<Claim>, RedisError> {
    let script = Script::new(include_str!("claims/claim.lua"));
    let mut claim = begin(redis, &script);
    claim.arg(most).arg(job.as_bytes()).arg(&short(hash));
    let answer: String = redis.invoke("claim an idempotency key", &claim).await?;
    Ok(match answer.as_str() {
        "new" => Some(Claim::New),
        "same" => Some(Claim::Same),
        "other" => Some(Claim::Other),
        _ => {
            metrics::counter!("idempotency_claims_without_room_total").increment(1);
            None
        }
    })
}

/// Takes a claim back that PostgreSQL knows better, unless another has taken its place.
pub(crate) async fn take_back(redis: &Redis, job: Uuid, hash: &str) -> Result<(), RedisError> {
    let script = Script::new(include_str!("claims/take_back.lua"));
    let mut take_back = begin(redis, &script);
    take_back.arg(job.as_bytes()).arg(&short(hash));
    let _done: i64 = redis.invoke("take a claim back", &take_back).await?;
    Ok(())
}

fn begin<'a>(redis: &Redis, script: &'a Script) -> ScriptInvocation<'a> {
    let mut call = script.key(redis.key(&["idempotency-keys"]));
    call.arg(PERIOD.as_secs());
    call
}

/// 128 bits of it are enough to tell a caller's payloads apart.
fn short(hash: &str) -> [u8; 16] {
    let digest: [u8; 32] = Sha256::digest(hash.as_bytes()).into();
    std::array::from_fn(|byte| digest[byte])
}

#[cfg(test)]
mod tests {
    use cache::{Redis, RedisSettings, Role};
    use store::idempotency::Claim;
    use uuid::Uuid;

    use super::{claim_among, take_back};

    fn redis() -> Redis {
        let prefix = format!("test-{}", Uuid::new_v4().simple());
        Redis::new(&RedisSettings { url: backing::redis_url("durable").into(), prefix }, Role::Durable).unwrap()
    }

    #[tokio::test]
    async fn so_many_keys_are_claimed_and_what_is_claimed_stays_so_when_there_is_no_room() {
        let redis = redis();
        let claim = async |number, hash| claim_among(&redis, Uuid::from_u128(number), hash, 2).await.unwrap();
        for (number, claimed) in [(1, Some(Claim::New)), (2, Some(Claim::New)), (3, None), (4, None)] {
            assert_eq!(claim(number, "tea").await, claimed, "{number}");
        }
        for number in 1..=2 {
            assert_eq!(claim(number, "tea").await, Some(Claim::Same));
            assert_eq!(claim(number, "coffee").await, Some(Claim::Other));
        }
        // Only by whoever made it; then there is room for another.
        take_back(&redis, Uuid::from_u128(1), "coffee").await.unwrap();
        assert_eq!(claim(3, "tea").await, None);
        take_back(&redis, Uuid::from_u128(1), "tea").await.unwrap();
        assert_eq!(claim(3, "tea").await, Some(Claim::New));
    }

    #[tokio::test]
    async fn claims_go_by_themselves_and_a_thousand_take_little_room() {
        let redis = redis();
        for number in 0..1_000 {
            claim_among(&redis, Uuid::from_u128(number), "tea", 1_000).await.unwrap();
        }
        let ask = async |command: &str, arguments: &[&str]| {
            let text: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            redis.query::<i64>("look", redis::cmd(command).arg(text)).await.unwrap()
        };
        // The period may have turned meanwhile.
        let period = chrono::Utc::now().timestamp() / 3600;
        let mut bytes = 0;
        for hash in [period - 1, period].map(|period| redis.key(&["idempotency-keys", &period.to_string()])) {
            let left = ask("TTL", &[&hash]).await;
            assert!(left == -2 || (3600..=7200).contains(&left), "{left}");
            bytes += redis
                .query::<Option<i64>>("look", redis::cmd("MEMORY").arg("USAGE").arg(&hash))
                .await
                .unwrap()
                .unwrap_or(0);
        }
        assert!((50_000..=130_000).contains(&bytes), "{bytes} bytes");
    }
}
