//! Tokens of machines: looked up in the durable Redis, which needs no database, and where that knows nothing in PostgreSQL, which
//! decides.
//!
//! A token that is revoked leaves a tombstone in Redis before PostgreSQL hears of it, and nothing is written over that: whoever
//! read PostgreSQL before cannot bring the token back. What Redis keeps carries the generation of the account, read before the
//! database was: after a change of the account it counts no more.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cache::{Redis, RedisError};
use chrono::{DateTime, TimeDelta, Utc};
use rand::RngCore;
use redis::Script;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use store::PgPool;
use store::tokens::{Digest, Holder, Scopes};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use crate::caller::Person;
use crate::generations::{Generations, Of};
use crate::problem::Problem;
use crate::rate_limits::RateLimits;

/// By which a token that was left somewhere is recognised.
const PREFIX: &str = "prm_";
/// What a token has of characters; a hash of anything longer is work for nothing.
const LENGTHS: std::ops::RangeInclusive<usize> = 20..=128;
/// How long a token that PostgreSQL does not know is not looked for there again.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// How long Redis is believed before PostgreSQL is asked again, if it answers: a power cut can cost Redis its last second.
const BELIEVED: TimeDelta = TimeDelta::minutes(5);
/// Lookups in PostgreSQL at once: whoever guesses tokens must not keep its connections.
const LOOKUPS: usize = 2;
const REVOKED: &str = "revoked";
const UNKNOWN: &str = "unknown";

/// A token that was just made; it is shown once.
pub(crate) struct Fresh {
    pub(crate) token: SecretString,
    pub(crate) digest: Digest,
}

impl Fresh {
    /// 256 random bits behind the prefix.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        Self { digest: digest(&token), token: token.into() }
    }
}

/// What Redis keeps of a token. Its form must stay readable: every release in use reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    person: Person,
    scopes: Scopes,
    expires_at: DateTime<Utc>,
    /// Of the account.
    generation: i64,
    /// When PostgreSQL said so.
    read_at: DateTime<Utc>,
}

/// What Redis knows of a token.
enum Known {
    Nothing,
    /// It is revoked, or nobody's.
    Bad,
    /// It was good when PostgreSQL was last asked.
    Good(Entry),
}

/// Whom a token speaks for.
pub(crate) struct Bearer {
    pub(crate) person: Person,
    pub(crate) scopes: Scopes,
}

/// Looks tokens up. Clones share the places.
#[derive(Clone)]
pub(crate) struct Tokens {
    redis: Redis,
    pool: PgPool,
    generations: Generations,
    places: Arc<Semaphore>,
    checking: Arc<Semaphore>,
}

impl Tokens {
    pub(crate) fn new(redis: Redis, pool: PgPool, generations: Generations) -> Self {
        let places = Arc::new(Semaphore::new(LOOKUPS));
        Self { redis, pool, generations, places, checking: Arc::new(Semaphore::new(1)) }
    }

    /// Whom the token speaks for, if it is good. PostgreSQL is asked for at most `patience`, and only while few tokens that it was asked
    /// for from that address were nobody's; `live` says that it answers.
    pub(crate) async fn find(
        &self,
        token: &str,
        patience: Duration,
        live: bool,
        (limits, address): (&RateLimits, IpAddr),
    ) -> Result<Option<Bearer>, Problem> {
        if !LENGTHS.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(None);
        }
        let digest = digest(token);
        let entry = match self.recall(&digest).await {
            Ok(Known::Bad) => return Ok(None),
            Ok(Known::Good(entry)) if entry.expires_at <= Utc::now() => return Ok(None),
            Ok(Known::Good(entry)) => {
                if live && Utc::now() - entry.read_at >= BELIEVED {
                    self.check_again(digest, entry.expires_at, patience);
                }
                Some(entry)
            }
            Ok(Known::Nothing) => {
                limits.check_stranger(address).await?;
                let learnt = self.learn(&digest, patience).await?;
                if learnt.is_none() {
                    limits.count_stranger(address).await;
                    self.note_unknown(&digest).await;
                }
                learnt
            }
            // PostgreSQL decides, for everybody: this process alone counts who guesses.
            Err(_) => {
                limits.check_stranger(address).await?;
                let holder = self.ask(&digest, patience).await?;
                if holder.is_none() {
                    limits.count_stranger(address).await;
                }
                holder.map(|holder| entry(holder, 0)).transpose()?
            }
        };
        Ok(entry.map(|Entry { person, scopes, .. }| Bearer { person, scopes }))
    }

    /// Has Redis know a token that was just made. Where that fails, its first use does it.
    pub(crate) async fn introduce(&self, digest: &Digest, patience: Duration) {
        if let Err(problem) = self.learn(digest, patience).await {
            tracing::warn!(?problem, "have redis know a new token");
        }
    }

    /// Revokes a token of the user's, for every process at once; whether there is such a token. An error leaves it revoked here or
    /// there, and the same again does the rest.
    pub(crate) async fn revoke(&self, id: Uuid, user: Uuid) -> Result<bool, Problem> {
        let Some((digest, expires_at)) = store::tokens::find(&self.pool, id, user).await? else {
            return Ok(false);
        };
        let buried = self.bury(&digest, expires_at).await;
        // Also while Redis is away: whoever asks PostgreSQL then is told.
        store::tokens::revoke(&self.pool, id).await?;
        buried.map_err(|error| Problem::IdentityUnavailable(error.into()))?;
        Ok(true)
    }

    /// Asks PostgreSQL once more, behind the request. Where somebody does already, a later request will.
    fn check_again(&self, digest: Digest, expires_at: DateTime<Utc>, patience: Duration) {
        let Ok(place) = Arc::clone(&self.checking).try_acquire_owned() else {
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            let _place = place;
            if let Ok(None) = this.learn(&digest, patience).await
                && let Err(error) = this.bury(&digest, expires_at).await
            {
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "have redis forget a token");
            }
        });
    }

    fn key(&self, digest: &Digest) -> String {
        self.redis.key(&["token", &digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()])
    }

    async fn recall(&self, digest: &Digest) -> Result<Known, RedisError> {
        // In one go, because every request waits for it; which key the second is stands in the first.
        let script = Script::new(
            "local kept = redis.call('GET', KEYS[1])
             if not kept or kept == ARGV[1] or kept == ARGV[2] then return {kept, false} end
             return {kept, redis.call('GET', ARGV[3] .. cjson.decode(kept).person.user)}",
        );
        let mut call = script.key(self.key(digest));
        call.arg(REVOKED).arg(UNKNOWN).arg(self.generations.family(Of::Account));
        let known: (Option<String>, Option<i64>) = self.redis.invoke("look a token up", &call).await?;
        let (Some(text), current) = known else {
            return Ok(Known::Nothing);
        };
        if text == REVOKED || text == UNKNOWN {
            return Ok(Known::Bad);
        }
        let Ok(entry) = serde_json::from_str::<Entry>(&text) else {
            return Ok(Known::Nothing);
        };
        Ok(if entry.generation == current.unwrap_or(0) { Known::Good(entry) } else { Known::Nothing })
    }

    /// Asks PostgreSQL, and tells Redis what it says.
    async fn learn(&self, digest: &Digest, patience: Duration) -> Result<Option<Entry>, Problem> {
        let Some(holder) = self.ask(digest, patience).await? else {
            return Ok(None);
        };
        let Ok(generation) = self.generations.current(Of::Account, holder.account.id).await else {
            return entry(holder, 0).map(Some);
        };
        // Once more: what was read before the generation may be older than it.
        let Some(holder) = self.ask(digest, patience).await? else {
            return Ok(None);
        };
        let entry = entry(holder, generation)?;
        if let Err(error) = self.keep(digest, &entry).await {
            tracing::warn!(error = format!("{error:#}"), "have redis keep a token");
        }
        Ok(Some(entry))
    }

    async fn ask(&self, digest: &Digest, patience: Duration) -> Result<Option<Holder>, Problem> {
        let asked = async {
            let _place =
                timeout(patience, self.places.acquire()).await.context("wait for a turn to look a token up")??;
            let holder = timeout(patience, store::tokens::holder(&self.pool, digest)).await;
            anyhow::Ok(holder.context("look a token up")??)
        };
        asked.await.map_err(Problem::IdentityUnavailable)
    }

    /// Writes the entry, unless the token was revoked or the account changed meanwhile.
    async fn keep(&self, digest: &Digest, entry: &Entry) -> anyhow::Result<()> {
        let left = (entry.expires_at - Utc::now()).num_milliseconds();
        if left <= 0 {
            return Ok(());
        }
        let script = Script::new(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return 0 end
             if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then return 0 end
             redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
             return 1",
        );
        let mut call = script.key(self.key(digest));
        call.key(self.generations.key(Of::Account, entry.person.user)).arg(REVOKED).arg(entry.generation);
        call.arg(serde_json::to_string(entry)?).arg(left);
        let _kept: i64 = self.redis.invoke("keep a token", &call).await?;
        Ok(())
    }

    /// Leaves a tombstone, for as long as the token would have lived.
    async fn bury(&self, digest: &Digest, expires_at: DateTime<Utc>) -> Result<(), RedisError> {
        let left = (expires_at - Utc::now()).num_milliseconds().max(1);
        let command = redis::cmd("SET").arg(self.key(digest)).arg(REVOKED).arg("PX").arg(left).to_owned();
        self.redis.query("bury a token", &command).await
    }

    async fn note_unknown(&self, digest: &Digest) {
        let seconds = UNKNOWN_FOR.as_secs();
        let command = redis::cmd("SET").arg(self.key(digest)).arg(UNKNOWN).arg("NX").arg("EX").arg(seconds).to_owned();
        let noted: Result<Option<String>, _> = self.redis.query("note an unknown token", &command).await;
        if let Err(error) = noted {
            tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "note an unknown token");
        }
    }
}

fn digest(token: &str) -> Digest {
    <Sha256 as sha2::Digest>::digest(token.as_bytes()).into()
}

fn entry(holder: Holder, generation: i64) -> Result<Entry, Problem> {
    let Holder { account, scopes, expires_at } = holder;
    Ok(Entry { person: account.try_into()?, scopes, expires_at, generation, read_at: Utc::now() })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde_json::json;

    use super::{Entry, Fresh, LENGTHS, digest};

    #[test]
    fn a_fresh_token_is_long_recognisable_and_never_the_same() {
        let (one, two) = (Fresh::random(), Fresh::random());
        let text = one.token.expose_secret();
        assert!(text.starts_with("prm_") && text.len() == 4 + 43 && LENGTHS.contains(&text.len()), "{text}");
        assert_eq!(one.digest, digest(text));
        assert_ne!(text, two.token.expose_secret());
    }

    #[test]
    fn what_an_older_release_kept_can_still_be_read() {
        let kept = json!({
            "person": {"user": "01935a7c-1c00-7000-8000-000000000001", "name": "Alice", "address": "alice@shop.example",
                "role": "customer"},
            "scopes": ["jobs:read", "jobs:write"], "expires_at": "2027-01-01T00:00:00Z", "generation": 3,
            "read_at": "2026-11-23T00:00:00Z"
        });
        let entry: Entry = serde_json::from_value(kept.clone()).unwrap();
        assert_eq!(serde_json::to_value(entry).unwrap(), kept);
    }
}
