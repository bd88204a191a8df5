//! Consumes what the tracker's queues hold: events, and the dead letters that have none.

use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::connection::LinkState;
use crate::consumer::Consume;
use crate::events::{DeadLetter, Event, FailureReport, JobReference};
use crate::message::{Envelope, noted_failure};
use crate::topology::{TRACKER_DEAD_LETTERS, TRACKER_LIFECYCLE, TRACKER_PROGRESS};

/// Read ahead by a screenful; what is not acked waits in the broker.
const PREFETCH: u16 = 64;
const SETTLE_DEADLINE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps what happened.
pub trait TrackEvents: Send + Sync + 'static {
    /// Keeps one event. It may come again, and events may come in any order.
    fn event(&self, event: Event) -> impl Future<Output = Result<(), TrackError>> + Send;
    /// Keeps the end of a job that the broker gave up. It may come again.
    fn dead_letter(&self, letter: DeadLetter) -> impl Future<Output = Result<(), TrackError>> + Send;
}

/// Why something could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackError {
    /// The store is away: the same is tried again until it is back.
    #[error("not now: {0}")]
    Later(String),
    /// It can never be kept: it goes to `tracker.dead`.
    #[error("never: {0}")]
    Never(String),
}

/// What one delivery of the tracker's queues says.
enum News {
    Event(Box<Event>),
    DeadLetter(DeadLetter),
    /// A dead letter that a worker of ours has told of by an event.
    Told,
}

/// Consumes until `drain`. One at a time and queue, so that what a job's runs told in order is kept in order.
pub(crate) async fn track<T: TrackEvents>(
    link: watch::Receiver<LinkState>,
    tracker: T,
    consuming: watch::Sender<bool>,
    drain: CancellationToken,
) {
    let tracker = Arc::new(tracker);
    let mut queues = JoinSet::new();
    for queue in [TRACKER_LIFECYCLE, TRACKER_PROGRESS, TRACKER_DEAD_LETTERS] {
        let consume = Consume {
            link: link.clone(),
            queue: queue.to_owned(),
            prefetch: PREFETCH,
            permits: Arc::new(Semaphore::new(1)),
            drain: drain.clone(),
            consuming: consuming.clone(),
        };
        let (tracker, drain) = (Arc::clone(&tracker), drain.clone());
        queues
            .spawn(consume.run(move |delivery, lost| keep(Arc::clone(&tracker), queue, delivery, lost, drain.clone())));
    }
    while let Some(ended) = queues.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

async fn keep<T: TrackEvents>(
    tracker: Arc<T>,
    queue: &'static str,
    delivery: Delivery,
    lost: CancellationToken,
    drain: CancellationToken,
) {
    let stop = async {
        tokio::select! {
            () = lost.cancelled() => {}
            () = drain.cancelled() => {}
        }
    };
    tokio::pin!(stop);
    let kept = async {
        let news = read(queue, &delivery)?;
        let mut pause = FIRST_PAUSE;
        loop {
            let result = match &news {
                News::Event(event) => tracker.event(Event::clone(event)).await,
                News::DeadLetter(letter) => tracker.dead_letter(letter.clone()).await,
                News::Told => Ok(()),
            };
            match result {
                Err(TrackError::Later(reason)) => tracing::warn!(queue, reason, "keep an event: trying again"),
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    };
    let settled = tokio::select! {
        biased;
        kept = kept => match kept {
            Ok(()) => timeout(SETTLE_DEADLINE, delivery.acker.ack(BasicAckOptions::default())).await,
            Err(error) => {
                tracing::error!(queue, %error, "an event cannot be kept: it goes to tracker.dead");
                timeout(SETTLE_DEADLINE, delivery.acker.reject(BasicRejectOptions { requeue: false })).await
            }
        },
        // Unsettled, the broker delivers it again when the channel closes.
        () = &mut stop => return,
    };
    // Unsettled, it comes again, and changes nothing.
    match settled {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(queue, %error, "settle an event"),
        Err(late) => tracing::warn!(queue, error = %late, "settle an event"),
    }
}

fn read(queue: &str, delivery: &Delivery) -> Result<News, TrackError> {
    if queue == TRACKER_DEAD_LETTERS {
        return Ok(read_dead_letter(delivery));
    }
    let mut event: Event =
        serde_json::from_slice(&delivery.data).map_err(|error| TrackError::Never(error.to_string()))?;
    let id = delivery.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
    event.id = id.ok_or_else(|| TrackError::Never("the message_id is not a UUID".to_owned()))?;
    Ok(News::Event(Box::new(event)))
}

fn read_dead_letter(delivery: &Delivery) -> News {
    let failure = noted_failure(&delivery.properties);
    // What names no job belongs to nobody's page; it lies in the dead queue for an operator.
    let Some(envelope) = Envelope::read(&delivery.properties).ok().filter(|_| failure.by_broker) else {
        return News::Told;
    };
    let counters = format!("dead {} {}", envelope.replays, envelope.attempt);
    News::DeadLetter(DeadLetter {
        event_id: Uuid::new_v5(&envelope.id, counters.as_bytes()),
        job: JobReference { id: envelope.id, kind: envelope.kind, owner: envelope.owner },
        replays: envelope.replays,
        attempt: envelope.attempt,
        failure: FailureReport { kind: failure.kind, reason: failure.reason },
    })
}
