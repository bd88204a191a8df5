//! The way to one Redis server: settings, one shared connection, the deadline that every call has, and the breaker that spares
//! callers the wait while the server is away.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, ScriptInvocation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long one call may take. Redis answers within a millisecond; what takes this long is not coming.
const CALL_DEADLINE: Duration = Duration::from_millis(250);
/// So many calls without an answer, one after the other, and nobody asks any more until a probe is answered.
const FAILURES: u32 = 3;
/// Between two probes while nobody asks.
const PROBE_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks at the server while all is well.
const LOOK_PAUSE: Duration = Duration::from_secs(15);
/// Calls that may wait to be written. More wait for room, as long as their deadline lets them.
const WRITE_QUEUE: usize = 1024;

/// Where a Redis server is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisSettings {
    /// `redis://user:password@host:port`
    pub url: SecretString,
    /// What every key and channel begins with, so that several systems can share a server.
    #[serde(default = "default_prefix")]
    pub prefix: String,
}

fn default_prefix() -> String {
    "postroom".to_owned()
}

/// What a server is for, which decides how it must be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Copies of what the database has. Nothing may survive a restart, or what was invalidated comes back.
    Cache,
    /// Sessions, limits, claims. Nothing may be forgotten before its time.
    Durable,
}

impl Role {
    /// What `CONFIG GET` must answer.
    fn wanted(self) -> [(&'static str, &'static str); 3] {
        match self {
            Self::Cache => [("appendonly", "no"), ("maxmemory-policy", "allkeys-lfu"), ("save", "")],
            Self::Durable => [("appendonly", "yes"), ("maxmemory-policy", "noeviction"), ("save", "")],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Durable => "durable",
        }
    }
}

/// Why a call to Redis failed.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The address in the settings cannot be read. It is not repeated here: it holds the password.
    #[error("the url of a Redis is not an address of the form redis://user:password@host:port")]
    Address,
    /// It was not asked: it has not answered lately.
    #[error("{action}: redis is away")]
    Away {
        /// What was tried, as "verb the noun".
        action: &'static str,
    },
    /// No answer in time; whether the call had an effect is unknown.
    #[error("{action}: no answer from redis within {} ms", CALL_DEADLINE.as_millis())]
    Deadline {
        /// What was tried, as "verb the noun".
        action: &'static str,
    },
    /// The call failed.
    #[error("{action}")]
    Failed {
        /// What was tried, as "verb the noun".
        action: &'static str,
        /// What the driver or the server said.
        #[source]
        source: redis::RedisError,
    },
}

/// What is known of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Calls without an answer, one after the other.
    Failing(u32),
    /// It answers.
    Well,
    /// It answers, and is set otherwise than its role needs.
    SetOtherwise(String),
}

/// One Redis server. Clones share its connection and its breaker.
#[derive(Clone)]
pub struct Redis {
    connection: ConnectionManager,
    role: Role,
    prefix: Arc<str>,
    state: Arc<watch::Sender<State>>,
}

impl Redis {
    /// The way to the server of `settings`. Returns at once and connects when first used, so that a service starts without it.
    /// Called within a Tokio runtime.
    ///
    /// # Errors
    /// [`RedisError::Address`] when the URL cannot be parsed.
    pub fn new(settings: &RedisSettings, role: Role) -> Result<Self, RedisError> {
        let client = Client::open(settings.url.expose_secret()).map_err(|_| RedisError::Address)?;
        // No second try inside a call: its caller has a way without Redis, and the next call tries again.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CALL_DEADLINE))
            // The deadline around each call is enough.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE);
        let connection = ConnectionManager::new_lazy_with_config(client, config).map_err(|_| RedisError::Address)?;
        let state = Arc::new(watch::channel(State::Failing(0)).0);
        Ok(Self { connection, role, prefix: settings.prefix.as_str().into(), state })
    }

    /// The name of a key or channel on the server: the prefix, then the parts, with colons between.
    #[must_use]
    pub fn key(&self, parts: &[&str]) -> String {
        let length = parts.iter().fold(self.prefix.len(), |length, part| length + 1 + part.len());
        let mut key = String::with_capacity(length);
        key.push_str(&self.prefix);
        for part in parts {
            key.push(':');
            key.push_str(part);
        }
        key
    }

    /// Sends one command.
    ///
    /// # Errors
    /// Redis is away, does not answer in time, or says no. `action` names the call in the error, as "verb the noun".
    pub async fn query<T: FromRedisValue>(&self, action: &'static str, command: &Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection.clone();
        self.within(action, async move { command.query_async(&mut connection).await }).await
    }

    /// Runs a script, whose text is sent only to a server that does not know it.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn invoke<T: FromRedisValue>(
        &self,
        action: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let mut connection = self.connection.clone();
        self.within(action, async move { script.invoke_async(&mut connection).await }).await
    }

    /// Whether the server has not answered lately, so that calls fail without asking it.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(*self.state.borrow(), State::Failing(FAILURES..))
    }

    /// For `/readyz`: `connected`, or what is wrong.
    pub fn readiness(&self) -> impl Fn() -> Result<String, String> + Send + Sync + 'static {
        let state = self.state.subscribe();
        move || match &*state.borrow() {
            State::Well => Ok("connected".to_owned()),
            State::Failing(_) => Err("reconnecting".to_owned()),
            State::SetOtherwise(how) => Err(how.clone()),
        }
    }

    /// Keeps looking at the server until `drain`: probes it while nobody else asks, and compares its settings with what its role
    /// needs each time that it has come back.
    pub async fn watch(self, drain: CancellationToken) {
        let mut checked = false;
        loop {
            let probed = self.probe().await;
            if probed && !checked {
                checked = self.check_settings().await;
            }
            checked &= probed;
            let pause = async {
                match probed {
                    false => sleep(PROBE_PAUSE).await,
                    true => drop(timeout(LOOK_PAUSE, self.gone()).await),
                }
            };
            if drain.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Ends when the server does not answer any more.
    async fn gone(&self) {
        let mut state = self.state.subscribe();
        let gone = state.wait_for(|state| matches!(state, State::Failing(FAILURES..))).await;
        debug_assert!(gone.is_ok(), "the sender lives as long as this");
    }

    /// Asks for a sign of life, whatever the breaker says.
    async fn probe(&self) -> bool {
        let mut connection = self.connection.clone();
        let answer = timeout(CALL_DEADLINE, redis::cmd("PING").query_async::<String>(&mut connection)).await;
        let answered = answer.is_ok_and(|answer| answer.is_ok());
        self.heard(answered);
        answered
    }

    /// Whether the server's settings could be compared. A server that keeps them to itself is trusted.
    async fn check_settings(&self) -> bool {
        let command = redis::cmd("CONFIG").arg("GET").arg(&self.role.wanted().map(|(name, _)| name)).to_owned();
        let found = self.query::<Vec<(String, String)>>("read the settings of redis", &command).await;
        let found = match found {
            Ok(found) => found,
            Err(RedisError::Failed { source, .. }) if !is_silence(&source) => {
                tracing::info!(redis = self.role.name(), error = %source, "the settings of redis cannot be read");
                return true;
            }
            Err(_) => return false,
        };
        let differs = self.role.wanted().into_iter().filter_map(|(name, wanted)| {
            let (_, is) = found.iter().find(|(found, _)| found == name)?;
            (is != wanted).then(|| format!("{name} is \"{is}\", not \"{wanted}\""))
        });
        let differs = differs.collect::<Vec<_>>().join(", ");
        if !differs.is_empty() {
            tracing::error!(
                redis = self.role.name(),
                differs,
                "redis is set otherwise than it must be: change it there"
            );
            self.state.send_replace(State::SetOtherwise(differs));
        }
        true
    }

    async fn within<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<T, RedisError> {
        if self.is_away() {
            return Err(RedisError::Away { action });
        }
        let outcome = timeout(CALL_DEADLINE, call).await;
        let answered = match &outcome {
            Ok(outcome) => !outcome.as_ref().is_err_and(is_silence),
            Err(_) => false,
        };
        self.heard(answered);
        match outcome {
            Ok(Err(error)) if error.is_timeout() => Err(RedisError::Deadline { action }),
            Ok(outcome) => outcome.map_err(|source| RedisError::Failed { action, source }),
            Err(_) => Err(RedisError::Deadline { action }),
        }
    }

    /// Keeps the count of calls without an answer.
    fn heard(&self, answered: bool) {
        // Nearly always, and then nobody needs to be held up.
        if answered && !matches!(*self.state.borrow(), State::Failing(_)) {
            return;
        }
        let before = self.is_away();
        self.state.send_if_modified(|state| {
            let next = match (&state, answered) {
                (State::Failing(_), true) => State::Well,
                (State::Failing(failures), false) => State::Failing((failures + 1).min(FAILURES)),
                (State::Well | State::SetOtherwise(_), true) => return false,
                (State::Well | State::SetOtherwise(_), false) => State::Failing(1),
            };
            std::mem::replace(state, next.clone()) != next
        });
        match (before, self.is_away()) {
            (false, true) => tracing::warn!(redis = self.role.name(), "redis does not answer"),
            (true, false) => tracing::info!(redis = self.role.name(), "redis answers again"),
            _ => {}
        }
    }
}

/// Whether the server said nothing, as opposed to no.
fn is_silence(error: &redis::RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.is_timeout()
}
