//! The way to one Redis server: settings, one shared connection, the deadline that every call has, and the breaker that spares
//! callers the wait while the server is away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, FromRedisValue, ScriptInvocation};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

mod gathered;
mod memory;

use gathered::{Gathered, Replaceable, current};
use memory::Memory;

/// How long it may take to connect.
const CONNECT_DEADLINE: Duration = Duration::from_millis(250);
/// So many calls without an answer, one after the other, and nobody asks any more until a probe is answered.
const FAILURES: u32 = 3;
/// Between two probes while nobody asks.
const PROBE_PAUSE: Duration = Duration::from_millis(500);
/// Between two looks at the server while all is well.
const LOOK_PAUSE: Duration = Duration::from_secs(15);
/// Calls that may wait to be gathered, and to be written. More wait for room, as long as their deadline lets them.
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

    /// How long one call may take. Redis answers within a millisecond; a packet that is lost on the way is sent again after 200 at
    /// least, for which nobody waits who can ask the database as well.
    fn deadline(self) -> Duration {
        Duration::from_millis(match self {
            Self::Cache => 200,
            Self::Durable => 250,
        })
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
    #[error("{action}: no answer from redis within {} ms", .deadline.as_millis())]
    Deadline {
        /// What was tried, as "verb the noun".
        action: &'static str,
        /// How long it was waited for.
        deadline: Duration,
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
struct State {
    /// Whether it ever answered.
    met: bool,
    /// Calls without an answer, one after the other.
    failures: u32,
    /// How it is set otherwise than its role needs.
    differs: Option<String>,
    /// How full it is, where it soon refuses writes.
    full: Option<String>,
}

impl State {
    fn is_away(&self) -> bool {
        self.failures >= FAILURES
    }
}

/// One Redis server. Clones share its connection, its breaker, and the pieces in which scripts go there.
#[derive(Clone)]
pub struct Redis {
    client: Client,
    /// Replaced when it is good for nothing any more.
    connection: Replaceable,
    scripts: Gathered,
    deadline: Duration,
    role: Role,
    prefix: Arc<str>,
    breaker: Arc<Breaker>,
}

/// What is known of the server by all that share it.
struct Breaker {
    state: watch::Sender<State>,
    /// Whether the last call was answered. Then nobody needs to look at the rest, which takes a lock.
    answers: AtomicBool,
}

impl Redis {
    /// The way to the server of `settings`. Returns at once and connects when first used, so that a service starts without it.
    /// Called within a Tokio runtime.
    ///
    /// # Errors
    /// [`RedisError::Address`] when the URL cannot be parsed.
    pub fn new(settings: &RedisSettings, role: Role) -> Result<Self, RedisError> {
        let client = Client::open(settings.url.expose_secret()).map_err(|_| RedisError::Address)?;
        let connection = Arc::new(RwLock::new(connect(&client)?));
        let state = State { met: false, failures: 0, differs: None, full: None };
        Ok(Self {
            client,
            scripts: Gathered::over(Arc::clone(&connection)),
            connection,
            deadline: role.deadline(),
            role,
            prefix: settings.prefix.as_str().into(),
            breaker: Arc::new(Breaker { state: watch::Sender::new(state), answers: AtomicBool::new(false) }),
        })
    }

    /// The same with another deadline for each call.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
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
        let mut connection = current(&self.connection);
        self.within(action, async move { command.query_async(&mut connection).await }).await
    }

    /// Runs a script, whose text is sent only to a server that does not know it. What several callers run at once goes there in one
    /// piece, and their answers come together.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn invoke<T: FromRedisValue>(
        &self,
        action: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, RedisError> {
        let mut asking = self.scripts.until(Instant::now() + self.deadline);
        self.within(action, async move { script.invoke_async(&mut asking).await }).await
    }

    /// Whether the server has not answered lately, so that calls fail without asking it.
    #[must_use]
    pub fn is_away(&self) -> bool {
        !self.breaker.answers.load(Ordering::Relaxed) && self.breaker.state.borrow().is_away()
    }

    /// For `/readyz`: `connected`, or what is wrong.
    pub fn readiness(&self) -> impl Fn() -> Result<String, String> + Send + Sync + 'static {
        let state = self.breaker.state.subscribe();
        move || match &*state.borrow() {
            State { met: false, .. } => Err("reconnecting".to_owned()),
            state if state.is_away() => Err("reconnecting".to_owned()),
            State { differs: Some(how), .. } | State { full: Some(how), .. } => Err(how.clone()),
            _ => Ok("connected".to_owned()),
        }
    }

    /// Keeps looking at the server until `drain`: probes it while nobody else asks, connects anew while it does not answer, compares
    /// its settings with what its role needs each time that it has come back, and shows how much of its memory is in use
    /// (`redis_memory_bytes`, `redis_memory_limit_bytes`).
    pub async fn watch(self, drain: CancellationToken) {
        let mut checked = false;
        loop {
            let probed = self.probe().await;
            if probed && !checked {
                checked = self.check_settings().await;
            }
            checked &= probed;
            if probed {
                self.measure_memory().await;
            }
            if self.is_away() {
                self.connect_anew();
            }
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

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Gives up the connection: the driver notices neither a peer that vanished without a word, until TCP does, nor a password that
    /// has become right.
    fn connect_anew(&self) {
        match connect(&self.client) {
            Ok(connection) => *self.connection.write().unwrap_or_else(PoisonError::into_inner) = connection,
            Err(error) => tracing::error!(redis = self.role.name(), %error, "connect to redis anew"),
        }
    }

    /// Ends when the server does not answer any more.
    async fn gone(&self) {
        let mut state = self.breaker.state.subscribe();
        let gone = state.wait_for(State::is_away).await;
        debug_assert!(gone.is_ok(), "the sender lives as long as this");
    }

    /// Asks for a sign of life, whatever the breaker says.
    async fn probe(&self) -> bool {
        let mut connection = current(&self.connection);
        let answer = timeout(self.deadline, redis::cmd("PING").query_async::<String>(&mut connection)).await;
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
        let differs = (!differs.is_empty()).then_some(differs);
        if let Some(differs) = &differs {
            tracing::error!(
                redis = self.role.name(),
                differs,
                "redis is set otherwise than it must be: change it there"
            );
        }
        self.breaker.state.send_if_modified(|state| std::mem::replace(&mut state.differs, differs.clone()) != differs);
        true
    }

    /// A server that does not tell leaves things as they were.
    async fn measure_memory(&self) {
        let info = redis::cmd("INFO").arg("memory").to_owned();
        let Ok(info) = self.query::<String>("ask how much memory redis uses", &info).await else {
            return;
        };
        let Some(memory) = Memory::parse(&info) else {
            return;
        };
        memory.show(self.role.name());
        let full = if self.role == Role::Durable { memory.nearly_full() } else { None };
        let begun = self.breaker.state.borrow().full.is_none();
        if let (true, Some(full)) = (begun, &full) {
            tracing::error!(
                redis = self.role.name(),
                full,
                "redis will soon refuse to keep anything: give it more memory"
            );
        }
        self.breaker.state.send_if_modified(|state| std::mem::replace(&mut state.full, full.clone()) != full);
    }

    async fn within<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<T, redis::RedisError>>,
    ) -> Result<T, RedisError> {
        if self.is_away() {
            return Err(RedisError::Away { action });
        }
        let outcome = timeout(self.deadline, call).await;
        let answered = match &outcome {
            Ok(outcome) => !outcome.as_ref().is_err_and(is_silence),
            Err(_) => false,
        };
        self.heard(answered);
        match outcome {
            Ok(Err(error)) if error.is_timeout() => Err(RedisError::Deadline { action, deadline: self.deadline }),
            Ok(outcome) => outcome.map_err(|source| RedisError::Failed { action, source }),
            Err(_) => Err(RedisError::Deadline { action, deadline: self.deadline }),
        }
    }

    /// Keeps the count of calls without an answer.
    fn heard(&self, answered: bool) {
        // Nearly always, and then nobody needs to be held up.
        if answered && self.breaker.answers.load(Ordering::Relaxed) {
            return;
        }
        let before = self.is_away();
        self.breaker.state.send_modify(|state| {
            state.met |= answered;
            state.failures = if answered { 0 } else { (state.failures + 1).min(FAILURES) };
            self.breaker.answers.store(answered, Ordering::Relaxed);
        });
        match (before, self.is_away()) {
            (false, true) => tracing::warn!(redis = self.role.name(), "redis does not answer"),
            (true, false) => tracing::info!(redis = self.role.name(), "redis answers again"),
            _ => {}
        }
    }
}

/// A connection that is made when first used.
fn connect(client: &Client) -> Result<ConnectionManager, RedisError> {
    // No second try inside a call: its caller has a way without Redis, and the next call tries again.
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        // The deadline around each call is enough.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(WRITE_QUEUE);
    ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(|_| RedisError::Address)
}

/// Whether the server said nothing, as opposed to no; one that lets nobody in is as good as away.
fn is_silence(error: &redis::RedisError) -> bool {
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.kind() == ErrorKind::AuthenticationFailed
}
