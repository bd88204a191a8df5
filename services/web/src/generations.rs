//! A number per user that grows when what was handed out before is to count no more: sessions, or what is kept of its tokens.
//! Whoever hands something out reads the number first, whoever uses it compares. Nothing that is handed out has to be found again.

use std::time::Duration;

use cache::{Redis, RedisError};
use redis::Script;
use uuid::Uuid;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The user's sessions.
    Sessions,
    /// What Redis keeps of the account beside the user's tokens.
    Account,
}

impl Of {
    /// How long a number is kept after it was read or raised: longer than anything lasts that is handed out with it. One that is gone
    /// begins anew, and nothing is left that could be taken for newer.
    pub(crate) const fn kept(self) -> Duration {
        match self {
            Self::Sessions => DAY,
            // A token lives for 366 days at most.
            Self::Account => Duration::from_secs(400 * DAY.as_secs()),
        }
    }
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

    /// The number now. Whoever hands something out with it has it outlive that.
    pub(crate) async fn current(&self, of: Of, user: Uuid) -> Result<i64, RedisError> {
        let command = redis::cmd("GETEX").arg(self.key(of, user)).arg("EX").arg(of.kept().as_secs()).to_owned();
        let number: Option<i64> = self.redis.query("read a generation", &command).await?;
        Ok(number.unwrap_or(0))
    }

    /// Has nothing count any more that was handed out until now; the new number.
    pub(crate) async fn end(&self, of: Of, user: Uuid) -> Result<i64, RedisError> {
        let script = Script::new(
            "local number = redis.call('INCR', KEYS[1]) redis.call('EXPIRE', KEYS[1], ARGV[1]) return number",
        );
        self.redis.invoke("end a generation", script.key(self.key(of, user)).arg(of.kept().as_secs())).await
    }
}

#[cfg(test)]
mod tests {
    use super::{DAY, Of};
    use crate::Limits;
    use crate::routes::tokens::MOST_DAYS;

    #[test]
    fn a_number_outlives_everything_that_was_handed_out_with_it() {
        assert!(Limits::default().session_absolute < Of::Sessions.kept());
        assert!(u32::from(MOST_DAYS) * DAY < Of::Account.kept());
    }
}
