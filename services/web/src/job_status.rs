//! Where each job stands, as a copy in the Redis that keeps nothing: polling costs no database, and goes on without it. The
//! database decides; whoever writes there brings the copy up to it, line by line.
//!
//! - A copy has a version that only grows: twice the number of its newest event, and one more while the job is told to stop.
//! - Whoever finds no copy gets a ticket, asks the database, and may keep what it said if the ticket is still good and nothing
//!   newer is there. A change that does not follow on the copy drops it, and with it the tickets of those who asked before.
//! - What could not be told to Redis ends the epoch, and with it every copy. Until Redis has been told that, this process takes no
//!   copy for true.
//! - Jobs that wait in the outbox have none.
//! - What a job caused, its chain, is part of the copy until one of those changes or the job ends; then the database is asked.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cache::{Redis, RedisError};
use redis::{Script, ScriptInvocation};
use store::cache_invalidations;
use store::jobs::{Chain, ChangedJob, JobEventRow, JobEventType, JobRow, NewJob};
use store::{DatabaseError, PgPool};
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long a copy is kept where there is room: over a night in which the database is away.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a copy is taken for true without asking the database, if it answers: should something have been missed.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// How long a ticket is good for; a request takes far less.
const ASKING: Duration = Duration::from_secs(60);
/// Between two attempts to tell Redis what it missed.
const PAUSE: Duration = Duration::from_millis(250);
/// Jobs in one script: Redis does nothing else meanwhile.
const AT_ONCE: usize = 64;
/// Of the form of the copies.
const FORM: &str = "1";
/// The epoch is an entry of the cache by name, so that the dispatcher can end it.
const EPOCH: &str = "job-epoch:1:all";
/// What is told instead of a job's id when any may have changed.
pub(crate) const ALL: &str = "all";
/// How long a copy that was made at the acceptance, and that nothing followed, is taken for true: the row comes sooner.
const UNWRITTEN: Duration = Duration::from_secs(3);

/// A job and its timeline.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) row: JobRow,
    /// Ordered by number.
    pub(crate) events: Vec<JobEventRow>,
    /// What caused it, and what it caused; `None` where that is not known at the moment.
    pub(crate) chain: Option<Chain>,
}

impl Job {
    /// One of which nothing is known but that it was accepted; it has caused nothing.
    pub(crate) fn accepted(row: JobRow) -> Self {
        Self { row, events: Vec::new(), chain: Some(Chain::default()) }
    }
}

/// What is kept of a job, and by what ticket that may be kept which the database says from now on.
pub(crate) struct Look {
    pub(crate) copy: Option<Copy>,
    pub(crate) ticket: Ticket,
}

/// A copy of a job.
pub(crate) struct Copy {
    pub(crate) job: Job,
    /// Whether the database need not be asked.
    pub(crate) fresh: bool,
}

/// Good until the copy is dropped, for one reason or another, or the epoch ends.
#[derive(Clone, Debug)]
pub(crate) struct Ticket {
    epoch: String,
    ticket: String,
}

/// The copies. Clones share what is known of them.
#[derive(Clone)]
pub struct JobStatus {
    redis: Redis,
    /// Where is put down what Redis could not be told.
    pool: PgPool,
    scripts: Arc<Scripts>,
    missed: Arc<Missed>,
    epoch_key: Arc<str>,
    channel: Arc<str>,
}

/// Changes that could not be told, counted.
#[derive(Default)]
struct Missed {
    count: AtomicU64,
    /// So many of them an end of the epoch has made good.
    settled: AtomicU64,
    one_more: Notify,
}

struct Scripts {
    look: Script,
    accept: Script,
    fill: Script,
    tell: Script,
    forget: Script,
    end: Script,
}

impl JobStatus {
    /// Copies in this server.
    #[must_use]
    pub fn new(redis: Redis, pool: PgPool) -> Self {
        let scripts = Scripts {
            look: Script::new(include_str!("job_status/look.lua")),
            accept: Script::new(include_str!("job_status/accept.lua")),
            fill: Script::new(include_str!("job_status/fill.lua")),
            tell: Script::new(include_str!("job_status/tell.lua")),
            forget: Script::new(include_str!("job_status/forget.lua")),
            end: Script::new("redis.call('SET', KEYS[1], ARGV[1]) redis.call('PUBLISH', ARGV[2], ARGV[3]) return 1"),
        };
        Self {
            scripts: Arc::new(scripts),
            missed: Arc::default(),
            epoch_key: cache::value_key(&redis, EPOCH).into(),
            channel: redis.key(&["job-changed"]).into(),
            redis,
            pool,
        }
    }

    /// On which the id of every job that changed is told.
    pub(crate) fn channel(&self) -> &str {
        &self.channel
    }

    /// Where the copies are.
    pub(crate) fn redis(&self) -> &Redis {
        &self.redis
    }

    /// What is kept of a job.
    pub(crate) async fn look(&self, id: Uuid) -> Result<Look, RedisError> {
        self.catch_up().await?;
        let (look, readable) = self.look_once(id).await?;
        if readable {
            return Ok(look);
        }
        // Nobody else can do anything with it either.
        self.try_to_tell(&[], &[id]).await?;
        Ok(self.look_once(id).await?.0)
    }

    /// Also whether what is kept can be read.
    async fn look_once(&self, id: Uuid) -> Result<(Look, bool), RedisError> {
        let mut look = self.scripts.look.key(self.key(id));
        look.key(&*self.epoch_key).arg(draw()).arg(millis(ASKING));
        let (epoch, ticket, left, fields): (String, String, i64, HashMap<String, String>) =
            self.redis.invoke("look at the copy of a job", &look).await?;
        let age = KEPT.saturating_sub(Duration::from_millis(left.max(0).unsigned_abs()));
        let nothing = fields.is_empty();
        let copy = read(fields).map(|job| {
            let believed = if job.row.last_number == 0 { UNWRITTEN } else { FRESH };
            Copy { fresh: age < believed && job.chain.is_some(), job }
        });
        let readable = nothing || copy.is_some();
        Ok((Look { copy, ticket: Ticket { epoch, ticket } }, readable))
    }

    /// Has the job of a 202 be known from the first moment. Changes nothing where there is a copy.
    pub(crate) async fn accept(&self, new: &NewJob) -> Result<(), RedisError> {
        let mut accept = self.scripts.accept.key(self.key(new.id));
        accept
            .key(&*self.epoch_key)
            .arg(draw())
            .arg(millis(KEPT))
            .arg(json(&JobRow::from(new)))
            .arg(json(&Chain::default()));
        self.invoke("keep a copy of an accepted job", &accept).await
    }

    /// Keeps what the database said after the ticket was given, unless it may be outdated.
    pub(crate) async fn fill(&self, ticket: &Ticket, job: &Job) -> Result<(), RedisError> {
        if job.row.due_at.is_some() {
            return Ok(());
        }
        let mut fill = self.scripts.fill.key(self.key(job.row.id));
        fill.arg(&ticket.epoch).arg(&ticket.ticket).arg(millis(KEPT));
        fill.arg(&*self.channel).arg(job.row.id.to_string()).arg(version(&job.row)).arg(kept_chain(job));
        fill.arg(fields(&job.row, &job.events));
        self.invoke("keep a copy of a job", &fill).await
    }

    /// Brings the copies up to what the database has become, and has all web processes look at these jobs. `repeated` are jobs
    /// that were changed before, by somebody who may not have come to tell.
    ///
    /// # Errors
    /// Neither could Redis be told, nor put down in the database that it was not.
    pub async fn tell(&self, changed: &[ChangedJob], repeated: &[Uuid]) -> Result<(), DatabaseError> {
        match self.try_to_tell(changed, repeated).await {
            Ok(()) => Ok(()),
            Err(error) => self.miss(error).await,
        }
    }

    /// Has Redis told that something was missed: by this process, and by the dispatcher should this process not live to do it.
    pub(crate) async fn miss(&self, error: RedisError) -> Result<(), DatabaseError> {
        self.missed.count.fetch_add(1, Ordering::AcqRel);
        self.missed.one_more.notify_one();
        tracing::debug!(error = format!("{:#}", anyhow::Error::new(error)), "tell redis of changed jobs");
        cache_invalidations::put(&self.pool, EPOCH).await
    }

    /// Tells Redis what it missed as soon as it can be told, until `drain`: others take a copy for true as long as it is there.
    pub async fn keep_up(self, drain: CancellationToken) {
        let keeping_up = async {
            loop {
                self.missed.one_more.notified().await;
                while self.catch_up().await.is_err() {
                    sleep(PAUSE).await;
                }
            }
        };
        let _drained: Option<Infallible> = drain.run_until_cancelled(keeping_up).await;
    }

    /// Ends the epoch if something could not be told.
    async fn catch_up(&self) -> Result<(), RedisError> {
        // Before the end of the epoch: what is missed meanwhile wants another.
        let missed = self.missed.count.load(Ordering::Acquire);
        if missed == self.missed.settled.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut end = self.scripts.end.key(&*self.epoch_key);
        end.arg(draw()).arg(&*self.channel).arg(ALL);
        self.invoke("end an epoch of jobs", &end).await?;
        self.missed.settled.fetch_max(missed, Ordering::AcqRel);
        Ok(())
    }

    async fn try_to_tell(&self, changed: &[ChangedJob], repeated: &[Uuid]) -> Result<(), RedisError> {
        self.catch_up().await?;
        for changed in changed.chunks(AT_ONCE) {
            let mut tell = self.begin_telling();
            for ChangedJob { job, before, lines } in changed {
                // One that waits in the outbox has no copy: when it is sent nobody tells. One without an owner is nobody's.
                let has_copy = job.due_at.is_none() && job.owner.is_some();
                let fields = if has_copy { fields(job, lines) } else { Vec::new() };
                tell.key(self.key(job.id)).arg(job.id.to_string()).arg(before).arg(version(job));
                tell.arg(i32::from(job.state.is_final())).arg(fields.len()).arg(fields);
            }
            self.invoke("tell redis of changed jobs", &tell).await?;
        }
        for repeated in repeated.chunks(AT_ONCE) {
            let mut tell = self.begin_telling();
            for id in repeated {
                // Newer than anything, and nothing is known of it.
                tell.key(self.key(*id)).arg(id.to_string()).arg(-1).arg(i64::MAX).arg(0).arg(0);
            }
            self.invoke("tell redis of changed jobs", &tell).await?;
        }
        self.forget_chains(&causes(changed)).await
    }

    /// Has the database be asked what these jobs caused. All else that is known of them stays: it may have to last for a while.
    async fn forget_chains(&self, jobs: &[Uuid]) -> Result<(), RedisError> {
        for jobs in jobs.chunks(AT_ONCE) {
            let mut forget = self.scripts.forget.prepare_invoke();
            forget.arg(&*self.channel).arg(draw());
            for id in jobs {
                forget.key(self.key(*id)).arg(id.to_string());
            }
            self.invoke("tell redis of jobs that caused others", &forget).await?;
        }
        Ok(())
    }

    fn begin_telling(&self) -> ScriptInvocation<'_> {
        let mut tell = self.scripts.tell.prepare_invoke();
        tell.arg(millis(KEPT)).arg(&*self.channel);
        tell
    }

    /// Runs one of the scripts that return only whether they changed something.
    async fn invoke(&self, action: &'static str, script: &ScriptInvocation<'_>) -> Result<(), RedisError> {
        let _changed: i64 = self.redis.invoke(action, script).await?;
        Ok(())
    }

    fn key(&self, id: Uuid) -> String {
        self.redis.key(&["job", FORM, &id.to_string()])
    }
}

fn version(job: &JobRow) -> i64 {
    2 * job.last_number + i64::from(job.cancel_requested_at.is_some())
}

/// The jobs on whose pages these show otherwise than before.
fn causes(changed: &[ChangedJob]) -> Vec<Uuid> {
    let is_shown = |lines: &[JobEventRow]| lines.iter().any(|line| line.event_type != JobEventType::Progressed);
    let causes = changed.iter().filter(|changed| is_shown(&changed.lines)).filter_map(|changed| changed.job.caused_by);
    causes.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The chain as a copy keeps it; nothing while a job of it waits in the outbox: when that is sent nobody tells.
fn kept_chain(job: &Job) -> String {
    job.chain.as_ref().filter(|chain| !chain.caused.iter().any(|job| job.waits)).map(json).unwrap_or_default()
}

/// Names and values, one after the other: the job, and its lines by number, that of the progress apart because only one is kept.
fn fields(job: &JobRow, lines: &[JobEventRow]) -> Vec<String> {
    let mut fields = vec!["job".to_owned(), json(job)];
    // What was read after the job may be newer.
    for line in lines.iter().filter(|line| line.number <= job.last_number) {
        fields.push(match line.event_type {
            JobEventType::Progressed => "progress".to_owned(),
            _ => format!("event {}", line.number),
        });
        fields.push(json(line));
    }
    fields
}

/// What the fields say; nothing where there is no job among them, or one of another form.
fn read(fields: HashMap<String, String>) -> Option<Job> {
    let row = serde_json::from_str(fields.get("job")?).ok()?;
    let lines = fields.iter().filter(|(name, _)| *name == "progress" || name.starts_with("event "));
    let mut events = lines.map(|(_, line)| serde_json::from_str(line).ok()).collect::<Option<Vec<JobEventRow>>>()?;
    events.sort_unstable_by_key(|line| line.number);
    let chain = fields.get("chain").and_then(|chain| serde_json::from_str(chain).ok());
    Some(Job { row, events, chain })
}

/// Nothing in a job or its lines can fail to be written as JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn draw() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
