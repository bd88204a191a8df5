//! Reads of what is stored, gathered: what is asked for while one question is under way makes the next, a single `MGET`, which costs
//! Redis and this process a part of what a `GET` for each does.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::entries::{Entries, Stored};
use crate::RedisError;

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
    answer: oneshot::Sender<Found>,
}

/// What a read found.
#[derive(Clone, Debug)]
pub(crate) enum Found {
    Stored(Stored),
    /// There is nothing, or too many ask.
    Nothing,
    /// Redis does not answer.
    Silence,
}

impl Reads {
    pub(crate) fn of(entries: Entries) -> Self {
        let (queue, reads) = mpsc::channel(QUEUE);
        tokio::spawn(answer(entries, reads));
        Self { queue }
    }

    /// What is stored under a key after this was called.
    pub(crate) async fn read(&self, key: String) -> Found {
        let (answer, answered) = oneshot::channel();
        match self.queue.try_send(Read { key, answer }) {
            Ok(()) => answered.await.unwrap_or(Found::Nothing),
            Err(_) => Found::Nothing,
        }
    }
}

/// Until nobody can ask any more.
async fn answer(entries: Entries, mut reads: mpsc::Receiver<Read>) {
    let mut gathered = Vec::with_capacity(GATHERED);
    while reads.recv_many(&mut gathered, GATHERED).await > 0 {
        let mut waiting = HashMap::<String, Vec<oneshot::Sender<Found>>>::with_capacity(gathered.len());
        for Read { key, answer } in gathered.drain(..) {
            waiting.entry(key).or_default().push(answer);
        }
        let (keys, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let asked = Instant::now();
        let found: Vec<Found> = match entries.read(&keys).await {
            Ok(stored) => stored.into_iter().map(|stored| stored.map_or(Found::Nothing, Found::Stored)).collect(),
            Err(RedisError::Deadline { .. } | RedisError::Away { .. }) => vec![Found::Silence; keys.len()],
            Err(_) => vec![Found::Nothing; keys.len()],
        };
        let silent = matches!(found.as_slice(), [Found::Silence, ..]);
        for (found, waiting) in found.into_iter().zip(waiting) {
            for answer in waiting {
                // Who has given up needs none.
                drop(answer.send(found.clone()));
            }
        }
        if asked.elapsed() > SLOW {
            // Whoever has come meanwhile would wait as long again, and some of them many times.
            while let Ok(read) = reads.try_recv() {
                drop(read.answer.send(if silent { Found::Silence } else { Found::Nothing }));
            }
        }
    }
}
