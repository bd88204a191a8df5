//! A number per user that grows when what was handed out before is to count no more: sessions, or what is kept of its tokens.
//! Whoever hands something out reads the number first, whoever uses it compares. Nothing that is handed out has to be found again.

use std::time::Duration;

use cache::{Redis, RedisError};
use redis::Script;
use uuid::Uuid;

/// Longer than a session can last. A number that is gone then is gone with every session that was older.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The user's sessions.
    Sessions,
    /// What Redis keeps of the account beside the user's tokens.
    Account,
}

/// The numbers. Clones share the way to them.
#[derive(Clone)]
pub(crate) struct Generations {
    redis: Redis,
}

impl Generations {
    pub(crate) fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// What the key of every user's number begins with; the user's id follows.
    pub(crate) fn family(&self, of: Of) -> String {
        match of {
            Of::Sessions => self.redis.key(&["sessions-generation", ""]),
            Of::Account => self.redis.key(&["account-generation", ""]),
        }
    }

    /// Where the number is.
    pub(crate) fn key(&self, of: Of, user: Uuid) -> String {
        format!("{}{user}", self.family(of))
    }

    /// The number now.
    pub(crate) async fn current(&self, of: Of, user: Uuid) -> Result<i64, RedisError> {
        let key = self.key(of, user);
        let command = match of {
            // Read by whoever begins or uses a session, so that it outlives every one.
            Of::Sessions => redis::cmd("GETEX").arg(key).arg("EX").arg(KEPT.as_secs()).to_owned(),
            // Tokens live long, so this stays: one small number for each user whose account was ever changed.
            Of::Account => redis::cmd("GET").arg(key).to_owned(),
        };
        let number: Option<i64> = self.redis.query("read a generation", &command).await?;
        Ok(number.unwrap_or(0))
    }

    /// Has nothing count any more that was handed out until now; the new number.
    pub(crate) async fn end(&self, of: Of, user: Uuid) -> Result<i64, RedisError> {
        let action = "end a generation";
        match of {
            Of::Sessions => {
                let script = Script::new(
                    "local number = redis.call('INCR', KEYS[1]) redis.call('EXPIRE', KEYS[1], ARGV[1]) return number",
                );
                self.redis.invoke(action, script.key(self.key(of, user)).arg(KEPT.as_secs())).await
            }
            Of::Account => self.redis.query(action, redis::cmd("INCR").arg(self.key(of, user))).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::KEPT;
    use crate::Limits;

    #[test]
    fn a_number_outlives_every_session_that_was_begun_with_it() {
        assert!(Limits::default().session_absolute < KEPT);
    }
}
