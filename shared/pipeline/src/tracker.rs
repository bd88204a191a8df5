//! Consumes what the tracker's queues hold: events, and the dead letters that have none.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::message::Delivery;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::connection::LinkState;
use crate::consumer::{Consume, Consumes, Permits, Settle};
use crate::events::{DeadLetter, Event, FailureReport};
use crate::message::{Envelope, PAYLOAD_HASH, noted_failure, text};
use crate::topology::{TRACKER_DEAD_LETTERS, TRACKER_QUEUES};

/// Read ahead by two batches; what is not acked waits in the broker.
const PREFETCH: u16 = 1024;
/// Events kept in one call.
const BATCH: usize = 512;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps what happened.
pub trait TrackEvents: Send + Sync + 'static {
    /// Keeps events, in the order given. They may come again, and in any order. `Ok` when all are kept.
    fn keep(&self, news: &[News]) -> impl Future<Output = Result<(), TrackError>> + Send;
}

/// Why something could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackError {
    /// The store is away: the same is tried again until it is back.
    #[error("not now: {0}")]
    Later(String),
    /// At least one can never be kept. Each is tried alone, and what fails alone goes to `tracker.dead`.
    #[error("never: {0}")]
    Never(String),
}

/// What one delivery of the tracker's queues says.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// An event.
    Event(Box<Event>),
    /// The end of a job that the broker gave up.
    DeadLetter(DeadLetter),
}

/// One delivery on its way into the store.
struct Item {
    news: News,
    /// Told what became of it; nothing when the tracker ends first.
    kept: oneshot::Sender<Result<(), String>>,
}

/// Consumes until `drain`.
pub(crate) async fn track<T: TrackEvents>(
    link: watch::Receiver<LinkState>,
    tracker: T,
    consuming: watch::Sender<BTreeSet<String>>,
    drain: CancellationToken,
) {
    let tracker = Arc::new(tracker);
    let (_nothing, away) = watch::channel(BTreeSet::new());
    let mut tasks = JoinSet::new();
    for queue in TRACKER_QUEUES {
        let consume = Consume {
            link: link.clone(),
            queue: queue.to_owned(),
            prefetch: PREFETCH,
            permits: Permits::new(PREFETCH),
            away: away.clone(),
            drain: drain.clone(),
            consuming: consuming.clone(),
        };
        // Each delivery that is open has room.
        let (items, taken) = mpsc::channel(usize::from(PREFETCH));
        tasks.spawn(keep_in_batches(Arc::clone(&tracker), queue, taken, drain.clone()));
        tasks.spawn(consume.run(Tracked { queue, items }));
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Hands the deliveries of one queue on, in their order.
struct Tracked {
    queue: &'static str,
    items: mpsc::Sender<Item>,
}

impl Consumes for Tracked {
    fn handle(&self, delivery: Delivery, settle: Settle) -> impl Future<Output = ()> + Send + 'static {
        let queue = self.queue;
        let (kept, answer) = oneshot::channel();
        // Sent here and not in the future, so that the order of delivery is kept.
        let known = match read(queue, &delivery) {
            Ok(Some(news)) => match self.items.try_send(Item { news, kept }) {
                Ok(()) => Known::Asked(answer),
                // What an earlier session left there, while the store is away, takes the room.
                Err(TrySendError::Full(item)) => Known::Waits(item, answer),
                Err(TrySendError::Closed(_)) => Known::Ended,
            },
            Ok(None) => Known::Kept(Ok(())),
            Err(reason) => Known::Kept(Err(reason)),
        };
        let items = self.items.clone();
        async move {
            let lost = settle.lost.clone();
            let known = match known {
                Known::Waits(item, answer) => match lost.run_until_cancelled(items.send(item)).await {
                    Some(Ok(())) => Known::Asked(answer),
                    _ => return,
                },
                known => known,
            };
            let kept = match known {
                Known::Kept(kept) => kept,
                Known::Ended | Known::Waits(..) => return,
                // Unsettled, the broker delivers it again when the channel closes.
                Known::Asked(answer) => match lost.run_until_cancelled(answer).await {
                    Some(Ok(kept)) => kept,
                    _ => return,
                },
            };
            let settled = match kept {
                Ok(()) => settle.done(),
                Err(reason) => {
                    tracing::error!(queue, error = reason, "an event cannot be kept: it goes to tracker.dead");
                    settle.reject(&delivery).await
                }
            };
            if !settled {
                // It comes again, and changes nothing.
                tracing::debug!(queue, "settle an event: the connection was lost");
            }
        }
    }

    fn put_back(&self, _delivery: Delivery, _settle: Settle) -> impl Future<Output = ()> + Send + 'static {
        // Nothing is ever away here: a store that is away is waited for. Unsettled, the delivery comes again.
        std::future::ready(())
    }
}

enum Known {
    Kept(Result<(), String>),
    Asked(oneshot::Receiver<Result<(), String>>),
    Waits(Item, oneshot::Receiver<Result<(), String>>),
    Ended,
}

/// Keeps what is there, all of it in one call: a database commits hundreds as fast as one.
async fn keep_in_batches<T: TrackEvents>(
    tracker: Arc<T>,
    queue: &'static str,
    mut items: mpsc::Receiver<Item>,
    drain: CancellationToken,
) {
    let mut batch = Vec::new();
    while drain.run_until_cancelled(items.recv_many(&mut batch, BATCH)).await.is_some_and(|count| count > 0) {
        let (news, kept): (Vec<_>, Vec<_>) = batch.drain(..).map(|item| (item.news, item.kept)).unzip();
        let Some(outcomes) = drain.run_until_cancelled(keep_all(&*tracker, queue, &news)).await else { return };
        for (kept, outcome) in kept.into_iter().zip(outcomes) {
            // Nobody listens where the connection was lost meanwhile.
            drop(kept.send(outcome));
        }
    }
}

/// What became of each.
async fn keep_all<T: TrackEvents>(tracker: &T, queue: &str, news: &[News]) -> Vec<Result<(), String>> {
    match insist(tracker, queue, news).await {
        Ok(()) => news.iter().map(|_| Ok(())).collect(),
        Err(reason) if news.len() == 1 => vec![Err(reason)],
        Err(_) => {
            let mut outcomes = Vec::with_capacity(news.len());
            for one in news {
                outcomes.push(insist(tracker, queue, std::slice::from_ref(one)).await);
            }
            outcomes
        }
    }
}

async fn insist<T: TrackEvents>(tracker: &T, queue: &str, news: &[News]) -> Result<(), String> {
    let mut pause = FIRST_PAUSE;
    loop {
        match tracker.keep(news).await {
            Ok(()) => return Ok(()),
            Err(TrackError::Never(reason)) => return Err(reason),
            Err(TrackError::Later(reason)) => tracing::warn!(queue, reason, "keep events: trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// What a delivery says; `None` for a dead letter that a worker of ours has told of by an event.
fn read(queue: &str, delivery: &Delivery) -> Result<Option<News>, String> {
    if queue == TRACKER_DEAD_LETTERS {
        return Ok(read_dead_letter(delivery).map(News::DeadLetter));
    }
    let mut event: Event = serde_json::from_slice(&delivery.data).map_err(|error| error.to_string())?;
    let id = delivery.properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok());
    event.id = id.ok_or("the message_id is not a UUID")?;
    event.payload_hash = text(&delivery.properties, PAYLOAD_HASH);
    Ok(Some(News::Event(Box::new(event))))
}

fn read_dead_letter(delivery: &Delivery) -> Option<DeadLetter> {
    let failure = noted_failure(&delivery.properties);
    // What names no job belongs to nobody's page; it lies in the dead queue for an operator.
    let envelope = Envelope::read(&delivery.properties).ok().filter(|_| failure.by_broker)?;
    let counters = format!("dead {} {}", envelope.replays, envelope.attempt);
    Some(DeadLetter {
        event_id: Uuid::new_v5(&envelope.id, counters.as_bytes()),
        job: envelope.job(),
        replays: envelope.replays,
        attempt: envelope.attempt,
        failure: FailureReport { kind: failure.kind, reason: failure.reason },
    })
}
