//! Reads of what is stored, gathered: what is asked for while one question is under way makes the next, a single `MGET`, which costs
//! Redis and this process a part of what a `GET` for each does.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::entries::{Entries, Stored};

/// Reads that may wait. Who finds no place goes the longer way, on which those who want the same share a flight.
const QUEUE: usize = 1024;
/// Reads that one question gathers: values are 1 MiB at most.
const GATHERED: usize = 128;

/// After a question that took so long, those who came meanwhile go the longer way too.
const SLOW: Duration = Duration::from_millis(50);

/// The reads of one process. Called within a Tokio runtime.
#[derive(Debug)]
pub(crate) struct Reads {
    queue: mpsc::Sender<Read>,
}

#[derive(Debug)]
struct Read {
    key: String,
    answer: oneshot::Sender<Stored>,
}

impl Reads {
    pub(crate) fn of(entries: Entries) -> Self {
        let (queue, reads) = mpsc::channel(QUEUE);
        tokio::spawn(answer(entries, reads));
        Self { queue }
    }

    /// What is stored under a key after this was called; `None` also when Redis did not say, or when too many ask.
    pub(crate) async fn read(&self, key: String) -> Option<Stored> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Read { key, answer }).ok()?;
        answered.await.ok()
    }
}

/// Until nobody can ask any more.
async fn answer(entries: Entries, mut reads: mpsc::Receiver<Read>) {
    let mut gathered = Vec::with_capacity(GATHERED);
    while reads.recv_many(&mut gathered, GATHERED).await > 0 {
        let mut waiting = HashMap::<String, Vec<oneshot::Sender<Stored>>>::with_capacity(gathered.len());
        for Read { key, answer } in gathered.drain(..) {
            waiting.entry(key).or_default().push(answer);
        }
        let (keys, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let asked = Instant::now();
        if let Ok(stored) = entries.read(&keys).await {
            let found = stored.into_iter().zip(waiting).filter_map(|(stored, waiting)| Some((stored?, waiting)));
            for (stored, waiting) in found {
                for answer in waiting {
                    // Who has given up needs none.
                    drop(answer.send(stored.clone()));
                }
            }
        }
        if asked.elapsed() > SLOW {
            // Whoever has come meanwhile would wait as long again, and some of them many times.
            while reads.try_recv().is_ok() {}
        }
    }
}
