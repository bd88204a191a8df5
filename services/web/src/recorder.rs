//! Writes accepted jobs down, row and first line of the timeline: those of many requests at once, because PostgreSQL commits a
//! hundred rows as fast as one.

use std::sync::Arc;
use std::time::Duration;

use store::jobs::{JobEvent, apply_events};
use store::{DatabaseError, PgPool};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// Jobs in one commit. What does not find room waits, each request within its own patience.
const BATCH: usize = 256;
/// Batches at once, so that one that waits for a lock or a silent connection does not hold up the others.
const WRITERS: usize = 2;

/// Why a job has no row yet, for all that it is known.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unrecorded {
    #[error("no answer from the database in time")]
    Late,
    #[error(transparent)]
    Failed(Arc<DatabaseError>),
    #[error("nobody writes rows down any more")]
    Ended,
}

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    waiting: mpsc::Sender<Waiting>,
}

/// What is to be written down, and who is to be told.
#[derive(Debug)]
struct Waiting {
    queued: JobEvent,
    recorded: oneshot::Sender<Result<(), Unrecorded>>,
}

impl Recorder {
    /// With what has to run for it, which ends after the last clone. One batch may take as long as `patience`.
    pub(crate) fn new(pool: PgPool, patience: Duration) -> (Self, impl Future<Output = ()> + Send) {
        let (waiting, queue) = mpsc::channel(BATCH);
        (Self { waiting }, write_all(pool, patience, queue))
    }

    /// Returns once the job has its row and its timeline begins with `queued`.
    pub(crate) async fn record(&self, queued: JobEvent) -> Result<(), Unrecorded> {
        let (recorded, answer) = oneshot::channel();
        self.waiting.send(Waiting { queued, recorded }).await.map_err(|_| Unrecorded::Ended)?;
        answer.await.map_err(|_| Unrecorded::Ended)?
    }
}

async fn write_all(pool: PgPool, patience: Duration, mut queue: mpsc::Receiver<Waiting>) {
    let (mut writers, mut batch) = (JoinSet::new(), Vec::new());
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        writers.spawn(write(pool.clone(), patience, std::mem::take(&mut batch)));
        if writers.len() >= WRITERS {
            ended(writers.join_next().await);
        }
    }
    while let end @ Some(_) = writers.join_next().await {
        ended(end);
    }
}

/// A panic there is one here: a process that writes nothing down any more must end, and be restarted.
fn ended(end: Option<Result<(), JoinError>>) {
    if let Some(Err(error)) = end {
        std::panic::resume_unwind(error.into_panic());
    }
}

async fn write(pool: PgPool, patience: Duration, batch: Vec<Waiting>) {
    let (queued, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.queued, waiting.recorded)).unzip();
    let recorded = match timeout(patience, apply_events(&pool, &queued)).await {
        Ok(recorded) => recorded.map(drop).map_err(|error| Unrecorded::Failed(Arc::new(error))),
        Err(_) => Err(Unrecorded::Late),
    };
    for waiting in waiting {
        // Nobody listens where the request was given up.
        drop(waiting.send(recorded.clone()));
    }
}
