//! Entries as they stand in Redis, and the scripts by which alone they change. docs/cache.md has their fields and rules.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Script, ScriptInvocation};

use super::family::{Family, Times};
use crate::{Redis, RedisError};

/// What stands between the prefix of a system and the name of an entry, in the key of its value.
const VALUE: &str = "value";
/// The same in the key of its lease.
const LEASE: &str = "lease";
/// So long nobody loads again where a load failed and an older value stands.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The entries of one Redis server. Clones share it.
#[derive(Clone)]
pub(crate) struct Entries {
    redis: Redis,
    /// What the keys of all values begin with.
    values: Arc<str>,
    scripts: Arc<Scripts>,
}

struct Scripts {
    look: Script,
    fill: Script,
    release: Script,
    age: Script,
}

/// What stands in an entry, and what its reader is to do.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) task: Task,
    /// The clock of Redis, in ms.
    pub(crate) now: u64,
    pub(crate) stored: Option<Stored>,
}

/// A value as it stands there: when it is no longer fresh, what its load cost, both in ms, and the value, with a space between.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) expiry: u64,
    pub(crate) cost: u64,
    pub(crate) value: Bytes,
}

impl Stored {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (expiry, rest) = split_number(&bytes)?;
        let (cost, value) = split_number(rest)?;
        let start = bytes.len() - value.len();
        Some(Self { expiry, cost, value: Bytes::from(bytes).slice(start..) })
    }
}

fn split_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b' ')?;
    let number = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    Some((number, &bytes[end + 1..]))
}

/// What a reader is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Take the value: it is fresh, or somebody refreshes it.
    Take,
    /// Take the value, and load a new one: the lease is the reader's.
    Refresh,
    /// Load: the lease is the reader's.
    Load,
    /// Look again soon: somebody loads.
    Wait,
}

/// Who may fill an entry: the one who holds its lease. Random, so that no two are the same; and after a space the channel on which its
/// holder listens as long as it lives.
#[derive(Clone, Debug)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn draw(channel: Option<&str>) -> Self {
        let random = rand::random::<u128>();
        Self(channel.map_or_else(|| format!("{random:032x}"), |channel| format!("{random:032x} {channel}")))
    }
}

/// The key under which the value of an entry stands, and which [`Cache::invalidate_entry`](crate::Cache::invalidate_entry) deletes:
/// for scripts of others whose state ends with an entry.
#[must_use]
pub fn value_key(redis: &Redis, entry: &str) -> String {
    redis.key(&[VALUE, entry])
}

impl Entries {
    pub(crate) fn new(redis: Redis) -> Self {
        let scripts = Scripts {
            look: Script::new(include_str!("look.lua")),
            fill: Script::new(include_str!("fill.lua")),
            release: Script::new(include_str!("release.lua")),
            age: Script::new(include_str!("age.lua")),
        };
        Self { values: redis.key(&[VALUE, ""]).into(), redis, scripts: Arc::new(scripts) }
    }

    /// The key of an entry's value.
    pub(crate) fn key(&self, family: &Family, key: &str) -> String {
        // Twenty more for the version and the colons.
        let mut name = String::with_capacity(self.values.len() + family.name.len() + key.len() + 20);
        name.push_str(&self.values);
        name.push_str(family.name);
        write!(name, ":{}:{key}", family.version).expect("a String takes what is written");
        name
    }

    /// The key of the lease that goes with a value's.
    fn lease(&self, key: &str) -> String {
        self.redis.key(&[LEASE, &key[self.values.len()..]])
    }

    /// A script, for an entry.
    fn on<'a>(&self, script: &'a Script, key: &str) -> ScriptInvocation<'a> {
        let mut invocation = script.key(key);
        invocation.key(self.lease(key));
        invocation
    }

    /// What stands under each of these keys, in their order.
    pub(crate) async fn read(&self, keys: &[String]) -> Result<Vec<Option<Stored>>, RedisError> {
        let stored: Vec<Option<Vec<u8>>> = self.redis.query("read cached values", redis::cmd("MGET").arg(keys)).await?;
        Ok(stored.into_iter().map(|stored| stored.and_then(Stored::parse)).collect())
    }

    /// What stands there, and what to do. `unreadable` is the soft expiry of a value that the reader cannot decode.
    pub(crate) async fn look(
        &self,
        key: &str,
        token: &Token,
        times: &Times,
        early: f64,
        unreadable: Option<u64>,
    ) -> Result<Look, RedisError> {
        let mut look = self.on(&self.scripts.look, key);
        look.arg(&token.0).arg(millis(times.lease)).arg(early);
        look.arg(unreadable.map(|expiry| expiry.to_string()).unwrap_or_default());
        let (task, now, stored): (String, u64, Option<Vec<u8>>) =
            self.redis.invoke("look at a cached value", &look).await?;
        let task = match task.as_str() {
            "take" => Task::Take,
            "refresh" => Task::Refresh,
            "load" => Task::Load,
            _ => Task::Wait,
        };
        let stored = stored.and_then(Stored::parse);
        Ok(Look { task, now, stored })
    }

    /// Stores a value under a lease; false when the lease is gone. `cost` is how long the load took.
    pub(crate) async fn fill(
        &self,
        key: &str,
        token: &Token,
        value: &[u8],
        fresh: Duration,
        grace: Duration,
        cost: Duration,
    ) -> Result<bool, RedisError> {
        let mut fill = self.on(&self.scripts.fill, key);
        fill.arg(&token.0).arg(value).arg(millis(fresh)).arg(millis(fresh + grace)).arg(millis(cost));
        self.redis.invoke("store a cached value", &fill).await
    }

    /// Gives a lease back.
    pub(crate) async fn release(&self, key: &str, token: &Token) -> Result<bool, RedisError> {
        let mut release = self.on(&self.scripts.release, key);
        release.arg(&token.0).arg(millis(PAUSE_AFTER_FAILURE));
        self.redis.invoke("give back the lease of a cached value", &release).await
    }

    /// Ends entries, by their names: their values and their leases, all at once.
    pub(crate) async fn delete(&self, entries: &[String]) -> Result<(), RedisError> {
        self.redis.query("invalidate a cached value", redis::cmd("DEL").arg(self.keys(entries))).await
    }

    /// Ends the time of entries, by their names, and their leases, all at once.
    pub(crate) async fn age(&self, entries: &[String]) -> Result<(), RedisError> {
        let mut age = self.scripts.age.prepare_invoke();
        for key in self.keys(entries) {
            age.key(key);
        }
        self.redis.invoke("age a cached value", &age).await
    }

    /// The keys of value and lease, of each.
    fn keys(&self, entries: &[String]) -> Vec<String> {
        let keys = entries.iter().flat_map(|entry| [value_key(&self.redis, entry), self.redis.key(&[LEASE, entry])]);
        keys.collect()
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().max(1) as u64
}
