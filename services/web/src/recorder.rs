//! Writes accepted jobs down, row and first line of the timeline: those of many requests at once, because PostgreSQL commits a
//! hundred rows as fast as one. What cannot be written down now the tracker is asked to write later.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use cache::Redis;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pipeline::{Event, Publisher};
use store::PgPool;
use store::idempotency::note_claims;
use store::jobs::{NewJob, apply_events_unannounced};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::JobStatus;
use crate::tracker::queued_event;
use crate::unwritten;

/// Jobs in one commit.
const BATCH: usize = 256;
/// Jobs that wait for theirs, no more than a shutdown has time for. What does not find room is the tracker's.
const WAITING: usize = 4 * BATCH;
/// Batches at once, so that one that waits for a lock or a silent connection does not hold up the others.
const WRITERS: usize = 2;
/// How long a batch is the only one: rows in one commit cost PostgreSQL half of what they do in two. Where a commit takes nearly as
/// long, that leaves some 5,000 rows a second.
const ALONE: Duration = Duration::from_millis(50);

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Recorder {
    waiting: mpsc::Sender<Waiting>,
    later: Later,
}

/// Where goes what cannot be written down now.
#[derive(Clone)]
struct Later {
    publisher: Publisher,
    redis: Redis,
}

/// What is to be written down, and who is to be told once that has been seen to.
#[derive(Debug)]
struct Waiting {
    queued: Event,
    /// Dropped then.
    _done: oneshot::Sender<Infallible>,
}

impl Recorder {
    /// With what has to run for it. One batch may take as long as `patience`.
    pub(crate) fn new(
        pool: PgPool,
        status: JobStatus,
        publisher: Publisher,
        redis: Redis,
        patience: Duration,
    ) -> (Self, Recording) {
        let (waiting, queue) = mpsc::channel(WAITING);
        let later = Later { publisher, redis };
        let writer = Writer { pool, status, later: later.clone(), patience };
        (Self { waiting, later }, Recording { writer: Arc::new(writer), queue })
    }

    /// Has a job written down, soon, by its `job.queued`, and the claim of its key where the event has the payload's hash. What this
    /// returns ends when that has been seen to.
    pub(crate) async fn take(&self, queued: Event) -> oneshot::Receiver<Infallible> {
        let (done, told) = oneshot::channel();
        if let Err(TrySendError::Full(left) | TrySendError::Closed(left)) =
            self.waiting.try_send(Waiting { queued, _done: done })
        {
            self.later.take(&left.queued).await;
        }
        told
    }
}

/// Writes accepted jobs down while it runs.
pub struct Recording {
    writer: Arc<Writer>,
    queue: mpsc::Receiver<Waiting>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Recording").finish_non_exhaustive()
    }
}

impl Recording {
    /// Runs until every answer has been given, and what was accepted is written down.
    pub(crate) async fn run(mut self, answered: &CancellationToken) {
        let (mut writers, mut batch) = (JoinSet::new(), Vec::new());
        loop {
            tokio::select! {
                () = answered.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                taken = self.queue.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        break;
                    }
                    writers.spawn(Arc::clone(&self.writer).write(std::mem::take(&mut batch)));
                    wait_for_a_turn(&mut writers).await;
                }
            }
        }
        while let end @ Some(_) = writers.join_next().await {
            ended(end);
        }
    }
}

struct Writer {
    pool: PgPool,
    status: JobStatus,
    later: Later,
    patience: Duration,
}

impl Writer {
    async fn write(self: Arc<Self>, batch: Vec<Waiting>) {
        let queued: Vec<_> = batch.iter().map(|waiting| &waiting.queued).collect();
        let written = timeout(self.patience, self.try_to_write(&queued)).await;
        let written = written.map_err(|_| anyhow!("no answer from the database in time")).flatten();
        if let Err(error) = written {
            tracing::warn!(jobs = queued.len(), error = format!("{error:#}"), "write accepted jobs down");
            let handing = queued.iter().map(|queued| self.later.take(queued));
            handing.collect::<FuturesUnordered<_>>().collect::<()>().await;
        }
    }

    async fn try_to_write(&self, queued: &[&Event]) -> anyhow::Result<()> {
        let events: Vec<_> = queued.iter().map(|queued| queued_event(queued)).collect();
        let (changed, repeated) = apply_events_unannounced(&self.pool, &events).await?;
        self.status.tell(&changed, &repeated).await?;
        let claims = queued.iter().filter_map(|queued| Some((queued.job.id, queued.payload_hash.as_deref()?)));
        Ok(note_claims(&self.pool, &claims.collect::<Vec<_>>()).await?)
    }
}

impl Later {
    /// Asks the tracker to write the job down, and has it be shown until then. Where that cannot be asked either, the job's other
    /// events make its row.
    async fn take(&self, event: &Event) {
        let noted = async {
            let Some(owner) = event.job.owner.clone() else { return };
            let (id, kind, caused_by) = (event.job.id, event.job.kind.clone(), event.job.caused_by);
            let job = NewJob { id, kind, owner, caused_by, at: event.at };
            if let Err(error) = unwritten::note(&self.redis, &job).await {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(job.id = %job.id, error, "note an accepted job");
            }
        };
        let (asked, ()) = tokio::join!(self.publisher.publish_unrecorded(event), noted);
        if let Err(error) = asked {
            let error = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(job.id = %event.job.id, error, "have an accepted job written down");
        }
    }
}

/// Ends when the next batch may be written.
async fn wait_for_a_turn(writers: &mut JoinSet<()>) {
    while let end @ Some(_) = writers.try_join_next() {
        ended(end);
    }
    if let Ok(end) = timeout(ALONE, writers.join_next()).await {
        ended(end);
    }
    while writers.len() >= WRITERS {
        ended(writers.join_next().await);
    }
}

/// A panic there is one here: a process that writes nothing down any more must end, and be restarted.
fn ended(end: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = end {
        std::panic::resume_unwind(error.into_panic());
    }
}
