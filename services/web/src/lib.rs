//! The HTTP API: takes work, shows its state, hands out what was made. It does no work itself.

mod accept;
mod breaker;
mod caller;
mod changes;
mod claims;
mod client_address;
mod cross_site;
mod edge;
mod generations;
mod idempotency_key;
mod job_status;
mod openapi;
mod passwords;
mod places;
mod problem;
mod rate_limits;
mod recorder;
mod routes;
mod serve;
mod sessions;
mod settings;
mod strict_json;
mod tokens;
mod tracker;
mod unwritten;
mod versioned;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use cache::{Cache, Redis};
use pipeline::jobs::{Job, RenderReport};
use pipeline::topology::Lane;
use pipeline::{Broker, Fullness, Publisher};
use store::{Files, PgPool, SignedLinks};
use tokio_util::sync::CancellationToken;

use breaker::Breaker;
use generations::Generations;
use passwords::Passwords;
use places::Places;
use recorder::Recorder;
use tokens::Tokens;

pub use changes::Changes;
pub use client_address::{InvalidProxies, TrustedProxies};
pub use job_status::JobStatus;
pub use rate_limits::{RateLimits, TooMany};
pub use recorder::Recording;
pub use routes::paths;
pub use serve::serve;
pub use settings::{DEFAULTS, HttpSettings, LimitSettings, RedisServers, Settings, VideoSettings};
pub use tracker::Tracker;

/// What the handlers share. A clone costs next to nothing: each layer around a route makes some for each request.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The parts of an [`App`], behind one count.
pub struct Shared {
    pub(crate) publisher: Publisher,
    pub(crate) breaker: Breaker,
    pub(crate) fullness: Fullness,
    pub(crate) recorder: Recorder,
    pub(crate) pool: PgPool,
    pub(crate) files: Files,
    pub(crate) links: SignedLinks,
    pub(crate) cache: Cache,
    pub(crate) status: JobStatus,
    pub(crate) redis: Redis,
    pub(crate) generations: Generations,
    pub(crate) tokens: Tokens,
    pub(crate) passwords: Passwords,
    pub(crate) changes: Changes,
    pub(crate) rate_limits: RateLimits,
    pub(crate) limits: Limits,
    /// For requests that may wait long: event streams and long polls.
    pub(crate) waiting: Places,
    pub(crate) uploads: Places,
    pub(crate) drain: CancellationToken,
}

/// Bounds of requests. They are constants of the service; tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the first call to the broker until its confirm.
    pub publish: Duration,
    /// For a call to the database on the way to a 202, such as writing a job down after it was published, so that its page is there
    /// from the first moment.
    pub record: Duration,
    /// The same while nothing is heard from the database.
    pub record_unheard: Duration,
    /// For the row of a job to appear whose copy Redis may have lost.
    pub unwritten: Duration,
    /// For the whole of a request's body; of an upload, for its next 64 KiB.
    pub body_read: Duration,
    /// For an upload and its answer.
    pub upload: Duration,
    /// Uploads at once.
    pub uploads: usize,
    /// Of one caller's.
    pub uploads_each: usize,
    /// What an upload may have. A setting.
    pub video_bytes: u64,
    /// From the end of a request's headers to the start of its answer.
    pub answer: Duration,
    /// The longest `Prefer: wait`.
    pub longest_wait: Duration,
    /// Between two signs of life of an event stream.
    pub keep_alive: Duration,
    /// After which an event stream ends; its client resumes it.
    pub stream_age: Duration,
    /// For the answers that have begun when the process drains; less than the grace period of a shutdown.
    pub last_wait: Duration,
    /// For a place to hash a password in.
    pub hashing: Duration,
    /// After which a session that nobody uses is over.
    pub session_idle: Duration,
    /// After which a session is over, used or not.
    pub session_absolute: Duration,
    /// Event streams and long polls at once; they are half of the connections that the server has.
    pub waiting: usize,
    /// Of one caller's.
    pub waiting_each: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            publish: Duration::from_secs(1),
            record: Duration::from_secs(2),
            record_unheard: Duration::from_millis(250),
            unwritten: Duration::from_secs(1),
            body_read: Duration::from_secs(8),
            upload: Duration::from_secs(2 * 3600),
            uploads: 32,
            uploads_each: 4,
            video_bytes: 2 << 30,
            answer: Duration::from_secs(10),
            longest_wait: Duration::from_secs(60),
            keep_alive: Duration::from_secs(15),
            stream_age: Duration::from_secs(600),
            last_wait: Duration::from_secs(15),
            hashing: Duration::from_secs(2),
            session_idle: Duration::from_secs(30 * 60),
            session_absolute: Duration::from_secs(12 * 3600),
            waiting: 512,
            waiting_each: 64,
        }
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    /// Puts together what the handlers share, and what [`serve`] has to run for them. When `drain` is cancelled, what waits is
    /// answered at once.
    #[expect(clippy::too_many_arguments, reason = "each is a part of its own, named once here and once in main")]
    pub fn new(
        broker: &Broker,
        pool: PgPool,
        files: Files,
        links: SignedLinks,
        cache: Cache,
        status: JobStatus,
        redis: Redis,
        changes: Changes,
        rate_limits: RateLimits,
        limits: Limits,
        drain: CancellationToken,
    ) -> (Self, Recording) {
        let publisher = broker.publisher().with_deadline(limits.publish);
        let (recorder, recording) =
            Recorder::new(pool.clone(), status.clone(), publisher.clone(), redis.clone(), limits.record);
        let generations = Generations::new(redis.clone());
        let shared = Shared {
            publisher,
            breaker: Breaker::default(),
            fullness: broker.fullness(),
            recorder,
            files,
            links,
            tokens: Tokens::new(redis.clone(), pool.clone(), generations.clone()),
            passwords: Passwords::new(limits.hashing),
            generations,
            cache,
            status,
            redis,
            changes,
            rate_limits,
            pool,
            limits,
            waiting: Places::new(limits.waiting, limits.waiting_each),
            uploads: Places::new(limits.uploads, limits.uploads_each),
            drain,
        };
        (Self(Arc::new(shared)), recording)
    }

    /// Keeps knowing how the broker stands: how full its queues are and, once it has fallen silent, whether it answers again. Ends
    /// with the drain.
    pub async fn watch_broker(self) {
        tokio::join!(
            self.fullness.clone().watch(self.drain.clone()),
            self.breaker.keep_probing(&self.publisher, &self.drain)
        );
    }

    /// How long a call to the database is waited for on the way to a 202: not long where it has not been heard of lately.
    pub(crate) fn patience(&self) -> Duration {
        if self.changes.is_live() { self.limits.record } else { self.limits.record_unheard }
    }

    /// Whether work goes to the outbox without asking the broker, which has not answered lately.
    #[must_use]
    pub fn is_broker_avoided(&self) -> bool {
        self.breaker.is_open()
    }

    /// How many publishes wait for the broker's confirm at the moment.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.publisher.outstanding()
    }

    /// Whether new reports are refused at the moment because their queue is nearly full.
    #[must_use]
    pub fn refuses(&self, lane: Lane) -> bool {
        self.fullness.is_nearly_full(RenderReport::KIND, lane)
    }

    /// How many passwords were hashed.
    #[must_use]
    pub fn passwords_hashed(&self) -> u64 {
        self.passwords.made()
    }

    /// How many requests may wait long at the moment: event streams and long polls.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.limits.waiting - self.waiting.left()
    }
}
