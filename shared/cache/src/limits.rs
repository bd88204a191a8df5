//! How much somebody may ask for, counted over all processes: GCRA, kept in Redis by one script on Redis's own clock. While Redis
//! is away each process keeps count by itself, so that a limit is never off. Who is counted, and for what, its callers say.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::Script;
use tokio::time::Instant;

use crate::{Redis, RedisError};

mod local;

use local::Local;

/// Takes from all meters or from none, and answers for each how long it is until its quota is whole again, and how long until it
/// can give what it was asked for; both in microseconds. A key holds the moment at which its quota is whole again, and lives until
/// then. One call for several keys: the server is a single one, so that they all lie on it.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer, given = {}, true
for i, key in ipairs(KEYS) do
    local price, full = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
    local level = (tonumber(redis.call('GET', key)) or now) - now
    -- Of a clock that was set back, or of a quota that was changed, nobody suffers longer than a window.
    level = math.min(math.max(level, 0), full)
    local wait = math.max(level + price - full, 0)
    answer[2 * i - 1], answer[2 * i] = level, wait
    given = given and wait == 0
end
if given then
    for i, key in ipairs(KEYS) do
        local price = tonumber(ARGV[2 * i - 1])
        if price > 0 then
            local level = answer[2 * i - 1] + price
            answer[2 * i - 1] = level
            redis.call('SET', key, string.format('%.0f', now + level), 'PX', math.ceil(level / 1000))
        end
    end
end
return answer
";

/// So much at once, and from then on so much in each window, evenly: in any time `t` at most `quota + quota * t / window`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    name: &'static str,
    quota: u32,
    window: Duration,
}

impl Limit {
    /// A limit of `quota` units in a window. `name` stands in keys, metrics and header fields: lower case and hyphens.
    ///
    /// # Panics
    /// Without a quota, or with more than one unit a microsecond.
    #[must_use]
    pub const fn new(name: &'static str, quota: u32, window: Duration) -> Self {
        assert!(quota > 0, "a limit has a quota");
        assert!(window.as_micros() >= quota as u128, "a limit has at most one unit a microsecond");
        Self { name, quota, window }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How many units there are.
    #[must_use]
    pub const fn quota(&self) -> u32 {
        self.quota
    }

    /// In how long they come back.
    #[must_use]
    pub const fn window(&self) -> Duration {
        self.window
    }

    /// After how many microseconds a unit comes back. Rounded up, so that never more than the quota is given.
    fn interval(&self) -> u64 {
        u64::try_from(self.window.as_micros()).unwrap_or(u64::MAX).div_ceil(self.quota.into())
    }

    /// In how many microseconds the whole quota comes back.
    fn full(&self) -> u64 {
        self.interval().saturating_mul(self.quota.into())
    }
}

/// What one action takes.
#[derive(Clone, Copy, Debug)]
pub struct Charge<'a> {
    /// From which limit.
    pub limit: Limit,
    /// Whose: short, since it stands in a key. Two charges of one action never have the same limit and subject.
    pub subject: &'a str,
    /// How many units; more than the quota is the whole of it.
    pub cost: u32,
}

impl Charge<'_> {
    /// The time in which so much comes back, in microseconds.
    fn price(&self) -> u64 {
        self.limit.interval().saturating_mul(self.cost.min(self.limit.quota).into())
    }

    /// What is left while the quota is whole again in `level` microseconds.
    fn standing(&self, level: u64) -> Standing {
        let left = self.limit.full().saturating_sub(level) / self.limit.interval();
        let remaining = u32::try_from(left).unwrap_or(u32::MAX);
        Standing { limit: self.limit, remaining, whole_in: Duration::from_micros(level) }
    }
}

/// How somebody stands with a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// With which.
    pub limit: Limit,
    /// Units that are left.
    pub remaining: u32,
    /// When the quota is whole again.
    pub whole_in: Duration,
}

/// Whether an action may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may; what it costs has been taken from every limit.
    Allowed(Vec<Standing>),
    /// It may not, and nothing was taken from any.
    Refused {
        /// Exactly when it could, if nothing else is taken meanwhile.
        retry_after: Duration,
        /// How things stand now.
        standings: Vec<Standing>,
    },
}

/// One meter's answer, in microseconds: until its quota is whole again, and until it can give.
type Reading = (u64, u64);

/// Keeps limits. Clones keep the same.
#[derive(Clone)]
pub struct Limiter {
    redis: Redis,
    script: Arc<Script>,
    local: Arc<Local>,
    alone: Arc<AtomicBool>,
}

impl Limiter {
    /// Keeps limits in a Redis of [`crate::Role::Durable`].
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        let script = Arc::new(Script::new(TAKE));
        Self { redis, script, local: Arc::default(), alone: Arc::default() }
    }

    /// Takes all of `charges`, or none of them where one limit cannot give.
    ///
    /// One call to Redis, within its deadline. Where it fails, this process decides alone, and at once while Redis is known to be
    /// away: it then gives each subject the whole quota, so that `n` processes together give at most `n` times as much.
    pub async fn take(&self, charges: &[Charge<'_>]) -> Verdict {
        let readings = match self.take_shared(charges).await {
            Ok(readings) => {
                if self.alone.swap(false, Ordering::Relaxed) {
                    tracing::info!("limits are kept with the other processes again");
                }
                readings
            }
            Err(error) => {
                metrics::counter!("ratelimit_degraded_total").increment(1);
                if !self.alone.swap(true, Ordering::Relaxed) {
                    let error = error_chain(&error);
                    tracing::warn!(error, "limits are kept by this process alone");
                }
                self.local.take(charges, Instant::now())
            }
        };
        verdict(charges, &readings)
    }

    async fn take_shared(&self, charges: &[Charge<'_>]) -> Result<Vec<Reading>, RedisError> {
        let mut invocation = self.script.prepare_invoke();
        for charge in charges {
            invocation.key(self.redis.key(&["limit", charge.limit.name, charge.subject]));
            invocation.arg(charge.price()).arg(charge.limit.full());
        }
        let readings: Vec<u64> = self.redis.invoke("take from a limit", &invocation).await?;
        Ok(readings.chunks_exact(2).map(|reading| (reading[0], reading[1])).collect())
    }
}

fn verdict(charges: &[Charge<'_>], readings: &[Reading]) -> Verdict {
    let pairs = || charges.iter().zip(readings);
    let standings = pairs().map(|(charge, (level, _))| charge.standing(*level)).collect();
    for (charge, _) in pairs().filter(|(_, (_, wait))| *wait > 0) {
        metrics::counter!("ratelimit_refused_total", "limit" => charge.limit.name).increment(1);
    }
    match readings.iter().map(|(_, wait)| *wait).max().unwrap_or(0) {
        0 => Verdict::Allowed(standings),
        wait => Verdict::Refused { retry_after: Duration::from_micros(wait), standings },
    }
}

fn error_chain(error: &RedisError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
