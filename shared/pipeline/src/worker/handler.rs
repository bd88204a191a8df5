//! What a job's author writes: a handler, and its closed set of answers.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::events::{JobReference, Progress};
use crate::jobs::Job;
use crate::message::Envelope;
use crate::trace::TraceContext;

use super::dependencies::{Probe, probe};

/// Does one kind of job. A struct with exactly its dependencies.
///
/// A job may come more than once (a crash between effect and ack): the effect must be idempotent by [`JobContext::id`]. The
/// future is dropped when the kind's timeout is over or the connection to the broker is lost.
pub trait Handler: Send + Sync + 'static {
    /// The job's payload.
    type Job: Job;

    /// Does the job.
    fn run(&self, job: Self::Job, context: &JobContext) -> impl Future<Output = Result<Done, Failure>> + Send;
}

/// The job is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub(crate) result: serde_json::Value,
}

impl Done {
    /// Done, and there is nothing to show.
    #[must_use]
    pub fn empty() -> Self {
        Self { result: serde_json::Value::Null }
    }

    /// Done; `result` is shown to the job's owner.
    #[must_use]
    pub fn with_result(result: serde_json::Value) -> Self {
        Self { result }
    }
}

/// The job is not done. There is no conversion from foreign errors: which of these an error is must be decided where it
/// happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A final answer for the customer. Nothing is wrong with the system.
    Refused {
        /// For a program.
        code: String,
        /// For the customer.
        reason: String,
    },
    /// It may work later: the right answer to anything that may pass.
    Retry {
        /// For an operator.
        reason: String,
    },
    /// As `Retry`, not before the time that the other side named.
    RetryAfter {
        /// At least this long; rounded up to one of the kind's waits.
        after: Duration,
        /// For an operator.
        reason: String,
    },
    /// Something that every job of the service needs is away; no fault of this job. The runtime asks the dependency itself: where
    /// it is away, the service pauses and the attempt does not count; where it answers after all, this is a `Retry`.
    Unavailable {
        /// Which, as it was named in [`Handlers::dependency`].
        dependency: &'static str,
        /// For an operator.
        reason: String,
    },
    /// Its owner wants it no more, as the handler has found where it could not miss it. Nothing was done.
    Cancelled,
    /// It will never work: a defect that needs an operator. Goes to the dead letters at once.
    Reject {
        /// For an operator.
        reason: String,
    },
}

impl Failure {
    /// See [`Failure::Retry`].
    #[must_use]
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::Retry { reason: reason.into() }
    }

    /// See [`Failure::Reject`].
    #[must_use]
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into() }
    }

    /// See [`Failure::Refused`].
    #[must_use]
    pub fn refused(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused { code: code.into(), reason: reason.into() }
    }
}

/// Decides what a foreign error means, in one word after the call that may fail.
pub trait OrFail<T> {
    /// An error here may pass: try again later. `what` says what was being done: "read the orders".
    fn or_retry(self, what: &str) -> Result<T, Failure>;
    /// An error here may mean that `dependency` is away; see [`Failure::Unavailable`].
    fn or_unavailable(self, dependency: &'static str, what: &str) -> Result<T, Failure>;
    /// An error here will not pass: give up.
    fn or_reject(self, what: &str) -> Result<T, Failure>;
}

impl<T, E: std::error::Error> OrFail<T> for Result<T, E> {
    fn or_retry(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::retry(format!("{what}: {}", chain(&error))))
    }

    fn or_unavailable(self, dependency: &'static str, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Unavailable { dependency, reason: format!("{what}: {}", chain(&error)) })
    }

    fn or_reject(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::reject(format!("{what}: {}", chain(&error))))
    }
}

/// An error with its sources, each once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        source = error.source();
    }
    text
}

/// What a handler knows of the job besides its payload.
#[derive(Clone, Debug)]
pub struct JobContext {
    pub(crate) envelope: Arc<Envelope>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) progress: Arc<watch::Sender<Option<Progress>>>,
}

impl JobContext {
    /// The job's id: the key by which its effect is idempotent.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.envelope.id
    }

    /// The job, as events name it.
    #[must_use]
    pub fn job(&self) -> JobReference {
        self.envelope.job()
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.envelope.attempt
    }

    /// How often an operator had sent it again from the dead letters.
    #[must_use]
    pub fn replays(&self) -> u32 {
        self.envelope.replays
    }

    /// The caller that the job belongs to.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.envelope.owner.as_deref()
    }

    /// When the job was accepted, in whole seconds: the same in every attempt.
    #[must_use]
    pub fn accepted_at(&self) -> DateTime<Utc> {
        self.envelope.accepted_at
    }

    /// This run's place in the job's trace: for the jobs that it causes and the requests that it makes.
    #[must_use]
    pub fn trace(&self) -> &TraceContext {
        &self.envelope.trace
    }

    /// Cancelled when nobody waits for the answer any more: the connection is lost, or the job's owner has cancelled it. A handler
    /// stops where nothing has been done that could be seen; what it does all the same stays done.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Tells how far the job is. Costs next to nothing; the latest is sent, at most 4 times a second.
    pub fn progress(&self, phase: &str, done: u64, total: u64) {
        self.progress.send_replace(Some(Progress { phase: phase.to_owned(), done, total }));
    }

    /// The id of a job of this kind that this job causes: the same in every attempt and replay, so that it is done once.
    #[must_use]
    pub fn child_id(&self, kind: &str) -> Uuid {
        Uuid::new_v5(&self.envelope.id, kind.as_bytes())
    }
}

type Running = Pin<Box<dyn Future<Output = Result<Done, Failure>> + Send>>;
type Start = Box<dyn Fn(&[u8], JobContext) -> Result<Running, serde_json::Error> + Send + Sync>;

/// What is known of a job besides its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobMark {
    /// It is to be done.
    Open,
    /// Its owner wants it no more.
    CancelRequested,
    /// It has ended: this delivery is a repeat.
    Final,
}

type Marking = Pin<Box<dyn Future<Output = Result<JobMark, String>> + Send>>;
type Marks = Box<dyn Fn(Uuid, u32) -> Marking + Send + Sync>;

/// How long the answer about a job's mark is waited for; without one the job runs.
const MARK_DEADLINE: Duration = Duration::from_millis(500);

/// The handlers of a service, by kind, with what they depend on: its table of contents.
#[derive(Default)]
pub struct Handlers {
    starts: BTreeMap<&'static str, Start>,
    quiet: BTreeSet<&'static str>,
    pub(super) probes: BTreeMap<&'static str, Probe>,
    marks: Option<Marks>,
}

impl Handlers {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the handler of one kind.
    ///
    /// # Panics
    /// When the kind has a handler already: one of the two would silently never run.
    #[must_use]
    pub fn register<H: Handler>(mut self, handler: H) -> Self {
        let handler = Arc::new(handler);
        let start: Start = Box::new(move |body, context| {
            let job: H::Job = serde_json::from_slice(body)?;
            let handler = Arc::clone(&handler);
            Ok(Box::pin(async move { handler.run(job, &context).await }))
        });
        let kind = <H::Job as Job>::KIND;
        assert!(
            self.starts.insert(kind, start).is_none(),
            "two handlers for \"{kind}\", the second is {}",
            type_name::<H>()
        );
        self
    }

    /// Adds the handler of a kind whose successes are told to nobody: `job.started`, `job.progressed` and `job.succeeded` are left
    /// out, and with them most of what a short job costs. For jobs that come by the thousand and have no page. Whatever is not a
    /// success is told as ever, and so is the success of a job that did not succeed at once: nothing that was told stays open.
    ///
    /// # Panics
    /// See [`Handlers::register`].
    #[must_use]
    pub fn register_quiet<H: Handler>(mut self, handler: H) -> Self {
        self.quiet.insert(<H::Job as Job>::KIND);
        self.register(handler)
    }

    /// Names something that the handlers need, and how it is asked for a sign of life (`SELECT 1`, `NOOP`); see
    /// [`Failure::Unavailable`]. An answer takes at most 5 s; one that panics counts as away.
    #[must_use]
    pub fn dependency<F, Answer, E>(mut self, name: &'static str, ask: F) -> Self
    where
        F: Fn() -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.probes.insert(name, probe(ask));
        self
    }

    /// Says how to ask, before each run and every 10 s of it, whether the job is still wanted: by its id and its number of replays.
    /// A question that fails, or takes longer than half a second, lets the job run.
    #[must_use]
    pub fn marks<F, Answer, E>(mut self, ask: F) -> Self
    where
        F: Fn(Uuid, u32) -> Answer + Send + Sync + 'static,
        Answer: Future<Output = Result<JobMark, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.marks = Some(Box::new(move |id, replays| {
            let answer = ask(id, replays);
            Box::pin(async move { answer.await.map_err(|error| error.to_string()) })
        }));
        self
    }

    pub(super) async fn mark_of(&self, id: Uuid, replays: u32) -> JobMark {
        let Some(marks) = &self.marks else { return JobMark::Open };
        match timeout(MARK_DEADLINE, marks(id, replays)).await {
            Ok(Ok(mark)) => mark,
            Ok(Err(error)) => {
                tracing::debug!(job.id = %id, error, "ask whether a job is still wanted: it runs");
                JobMark::Open
            }
            Err(_) => {
                tracing::debug!(job.id = %id, "ask whether a job is still wanted: no answer in time, it runs");
                JobMark::Open
            }
        }
    }

    /// Whether the successes of a kind are told to nobody.
    pub(super) fn is_quiet(&self, kind: &str) -> bool {
        self.quiet.contains(kind)
    }

    /// The kinds that have a handler.
    pub fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.starts.keys().copied()
    }

    pub(crate) fn start(&self, kind: &str, body: &[u8], context: JobContext) -> Result<Running, NotStarted> {
        let start = self.starts.get(kind).ok_or(NotStarted::UnknownKind)?;
        start(body, context).map_err(NotStarted::Undecodable)
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.starts.keys()).finish()
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    #[error("no handler here does this kind")]
    UnknownKind,
    #[error("the body is not the payload of its kind: {0}")]
    Undecodable(serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Noop;

    struct Nothing;

    impl Handler for Nothing {
        type Job = Noop;

        async fn run(&self, _job: Noop, _context: &JobContext) -> Result<Done, Failure> {
            Ok(Done::empty())
        }
    }

    #[test]
    #[should_panic(expected = "two handlers for \"noop.run\"")]
    fn a_second_handler_for_a_kind_is_refused() {
        drop(Handlers::new().register(Nothing).register(Nothing));
    }

    #[test]
    fn an_errors_sources_are_told_each_once() {
        let io = std::io::Error::other("disk gone");
        let failed: Result<(), _> = Err(io);
        assert_eq!(failed.or_retry("write the file"), Err(Failure::retry("write the file: disk gone")));
    }
}
