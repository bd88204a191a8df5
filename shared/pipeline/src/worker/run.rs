//! Runs one job: with a timeout that is enforced, panics caught, progress told.

use std::convert::Infallible;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, abortable};
use lapin::BasicProperties;
use lapin::message::Delivery;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::events::{Event, EventBody, Progress, RunReference};
use crate::message::{Envelope, InvalidEnvelope, delivered_before};

use super::consume::Worker;
use super::decide::{FailureKind, Outcome};
use super::handler::{Failure, JobContext, JobMark, NotStarted};

/// A run shorter than this publishes one event, its final one; a longer one tells of itself this often at most.
const TELL: Duration = Duration::from_millis(250);

/// How often a run that lasts asks whether it is still wanted, multiplied by the time scale: an order to stop may be missed.
const ASK: Duration = Duration::from_secs(10);

/// After so many deliveries without an end a message is run apart, where it can kill nobody's neighbour.
const SUSPICIOUS: u32 = 3;

/// A delivery whose properties were read, and the events of its run.
pub(super) struct Received {
    pub(super) envelope: Result<Arc<Envelope>, InvalidEnvelope>,
    /// Whether the start was told.
    pub(super) told: bool,
    pub(super) begun: Instant,
    /// What is logged about the delivery belongs here.
    pub(super) span: Span,
    /// Without its worker, which is named where an event is made.
    run: RunReference,
    process: Arc<str>,
}

impl Received {
    pub(super) fn decode(worker: &Worker, delivery: &Delivery) -> Self {
        let envelope = Envelope::read(&delivery.properties).map(|mut envelope| {
            envelope.trace = envelope.trace.child();
            Arc::new(envelope)
        });
        let known = envelope.as_ref().ok();
        let run = RunReference {
            id: Uuid::now_v7(),
            worker: String::new(),
            replays: known.map_or(0, |envelope| envelope.replays),
            attempt: known.map_or(1, |envelope| envelope.attempt),
            redeliveries: known.map_or(0, |envelope| envelope.redeliveries),
            sequence: 0,
        };
        let span = tracing::info_span!(
            "job",
            job.id = known.map(|envelope| tracing::field::display(envelope.id)),
            job.kind = known.map(|envelope| envelope.kind.as_str()),
            job.attempt = run.attempt,
            job.run = %run.id,
            trace.id = known.map(|envelope| tracing::field::display(envelope.trace.id())),
        );
        Self { envelope, told: false, begun: Instant::now(), span, run, process: Arc::clone(&worker.process) }
    }

    pub(super) fn attempt(&self) -> u32 {
        self.run.attempt
    }

    pub(super) fn redeliveries(&self) -> u32 {
        self.run.redeliveries
    }

    /// The run's next event; `None` for a message that names no job.
    pub(super) fn event(&mut self, body: EventBody) -> Option<Event> {
        let envelope = self.envelope.as_ref().ok()?;
        let trace = Some(envelope.trace.clone());
        self.run.sequence += 1;
        let run = RunReference { worker: self.process.to_string(), ..self.run.clone() };
        Some(Event { trace, ..Event::new(envelope.job(), Some(run), body) })
    }
}

/// Dropped, it ends the handler at its next await.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs the job, if it is one, and wanted. `None` when `lost` was cancelled before the end: nothing may be settled then.
pub(super) async fn run(
    worker: &Worker,
    received: &mut Received,
    delivery: &Delivery,
    lost: &CancellationToken,
) -> Option<Outcome> {
    if is_suspicious(worker, &delivery.properties) {
        return Some(Outcome::Suspicious);
    }
    if worker.queue == worker.row.suspect_queue() {
        drop(lost.run_until_cancelled(worker.setting_apart.write()).await?);
    }
    let undecodable = |reason: String| Some(Outcome::NotStarted { kind: FailureKind::Undecodable, reason });
    let envelope = match &received.envelope {
        Ok(envelope) if envelope.is_json => Arc::clone(envelope),
        Ok(_) => return undecodable("the content_type is not application/json".to_owned()),
        Err(error) => return undecodable(error.to_string()),
    };
    // Known here before the mark is read: whoever asks to cancel writes the mark first and sends the order then.
    let entry = worker.running.enter(received.run.id, envelope.id);
    match lost.run_until_cancelled(worker.handlers.mark_of(envelope.id, envelope.replays)).await? {
        JobMark::Open => {}
        JobMark::CancelRequested => return Some(Outcome::Cancelled),
        JobMark::Final => return Some(Outcome::Repeated),
    }
    let (progress, latest) = watch::channel(None);
    let context =
        JobContext { envelope: Arc::clone(&envelope), cancelled: entry.stop.clone(), progress: Arc::new(progress) };
    let running = match worker.handlers.start(&envelope.kind, &delivery.data, context) {
        Ok(running) => running,
        Err(error) => {
            let kind = match &error {
                NotStarted::UnknownKind => FailureKind::UnknownKind,
                NotStarted::Undecodable(_) => FailureKind::Undecodable,
            };
            return Some(Outcome::NotStarted { kind, reason: error.to_string() });
        }
    };
    let (answer, answered) = oneshot::channel();
    let (running, abort) = abortable(AssertUnwindSafe(running).catch_unwind());
    let _abort = AbortOnDrop(abort);
    let task = async move {
        if let Ok(result) = running.await {
            // Nobody listens any more after a timeout or a lost connection.
            drop(answer.send(result));
        }
    };
    worker.threads.spawn(task.instrument(received.span.clone()));

    let quiet = worker.handlers.is_quiet(&envelope.kind);
    let run = Run { envelope: &envelope, quiet, answered, latest, lost, stop: &entry.stop };
    let outcome = watch_run(worker, received, run).await;
    entry.stop.cancel();
    confirm(worker, outcome?, lost).await
}

fn is_suspicious(worker: &Worker, properties: &BasicProperties) -> bool {
    delivered_before(properties) >= SUSPICIOUS && worker.queue != worker.row.suspect_queue()
}

/// Has a run's word that something is away checked by asking it.
async fn confirm(worker: &Worker, outcome: Outcome, lost: &CancellationToken) -> Option<Outcome> {
    match outcome {
        Outcome::Answered(Err(Failure::Unavailable { dependency, reason })) => {
            let away = lost.run_until_cancelled(worker.dependencies.is_away(dependency)).await?;
            Some(match away {
                true => Outcome::Away { dependency, reason },
                false => Outcome::Answered(Err(Failure::Unavailable { dependency, reason })),
            })
        }
        outcome => Some(outcome),
    }
}

/// A handler at work, seen from outside.
struct Run<'a> {
    envelope: &'a Envelope,
    /// Nothing is told of it.
    quiet: bool,
    answered: oneshot::Receiver<Answer>,
    latest: watch::Receiver<Option<Progress>>,
    lost: &'a CancellationToken,
    /// Cancelled when the job is not wanted any more; the handler has it too.
    stop: &'a CancellationToken,
}

type Answer = std::thread::Result<Result<super::Done, super::Failure>>;

async fn watch_run(worker: &Worker, received: &mut Received, run: Run<'_>) -> Option<Outcome> {
    let Run { envelope, quiet, mut answered, mut latest, lost, stop } = run;
    let limit = worker.row.timeout.mul_f64(worker.time_scale);
    let deadline = Instant::now() + limit;
    let timed_out = || match stop.is_cancelled() {
        true => Outcome::Cancelled,
        false => Outcome::TimedOut { seconds: limit.as_secs_f64() },
    };
    // One timer for both: most runs end before it rings, and thousands of them a second have one each.
    let timer = sleep_until(if quiet { deadline } else { deadline.min(Instant::now() + TELL) });
    tokio::pin!(timer);
    tokio::select! {
        biased;
        outcome = end(&mut answered, lost, stop) => return outcome,
        () = &mut timer => {}
    }
    if Instant::now() >= deadline {
        return Some(timed_out());
    }
    timer.as_mut().reset(deadline);
    // A broker or a database that does not answer must not hold up the end.
    let beside = async {
        let telling = async {
            if !quiet {
                keep_telling(worker, received, &mut latest).await;
            }
        };
        tokio::join!(keep_asking(worker, envelope, stop), telling);
        pending::<Infallible>().await
    };
    tokio::select! {
        biased;
        outcome = end(&mut answered, lost, stop) => outcome,
        () = &mut timer => Some(timed_out()),
        // Boxed: what few runs need must not be part of every run's future, which is moved and allocated for each.
        never = Box::pin(beside) => match never {},
    }
}

/// The end of a run by itself; `None` when `lost` was cancelled before.
async fn end(
    answered: &mut oneshot::Receiver<Answer>,
    lost: &CancellationToken,
    stop: &CancellationToken,
) -> Option<Outcome> {
    tokio::select! {
        biased;
        // First, because a handler that heeds its token answers at the same moment.
        () = lost.cancelled() => None,
        answer = answered => Some(match answer {
            // It stops where it can: cut off, it might go on with an effect that nobody hears of. What was done all the same is
            // done.
            Ok(Ok(Err(failure))) if stop.is_cancelled() && !matches!(failure, Failure::Refused { .. }) => {
                Outcome::Cancelled
            }
            Ok(Ok(answer)) => Outcome::Answered(answer),
            Ok(Err(panic)) => Outcome::Panicked { message: format!("the handler panicked: {}", panic_message(&*panic)) },
            Err(_) => Outcome::Panicked { message: "the handler's thread ended".to_owned() },
        }),
    }
}

/// Asks whether the job is still wanted until it is not.
async fn keep_asking(worker: &Worker, envelope: &Envelope, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        sleep(ASK.mul_f64(worker.time_scale)).await;
        if worker.handlers.mark_of(envelope.id, envelope.replays).await == JobMark::CancelRequested {
            tracing::info!(job.id = %envelope.id, "a running job is not wanted any more");
            stop.cancel();
        }
    }
}

async fn keep_telling(worker: &Worker, received: &mut Received, latest: &mut watch::Receiver<Option<Progress>>) {
    loop {
        tell(worker, received, latest).await;
        sleep(TELL).await;
    }
}

/// Tells that the run lasts, and how far it is. It is news, not state: the final event tells the same and is insisted on.
async fn tell(worker: &Worker, received: &mut Received, latest: &mut watch::Receiver<Option<Progress>>) {
    if !received.told {
        received.told = true;
        if let Some(event) = received.event(EventBody::Started {})
            && let Err(error) = worker.publisher.publish_event(&event).await
        {
            tracing::debug!(%error, "tell that a job has started");
        }
    }
    let news = if latest.has_changed().unwrap_or(false) { latest.borrow_and_update().clone() } else { None };
    if let Some(progress) = news
        && let Some(event) = received.event(EventBody::Progressed { progress })
        && let Err(error) = worker.publisher.hint_event(&event).await
    {
        tracing::debug!(%error, "tell a job's progress");
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}
