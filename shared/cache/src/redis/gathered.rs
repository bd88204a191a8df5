//! Calls of scripts, gathered: what is asked for while a piece is under way makes the next, sent and answered in one.
//! Where many ask at once, most of what a call costs Redis and this process is the way there and back.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, ConnectionManager};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::WRITE_QUEUE;

/// Calls in one piece, whose answers come together: no more than a slow server, too, answers within a deadline.
const GATHERED: usize = 16;
/// Pieces under way at once.
const PIECES: usize = 8;
/// How long a piece is the only one.
const QUICK: Duration = Duration::from_millis(10);

/// A connection that can be replaced.
pub(super) type Replaceable = Arc<RwLock<ConnectionManager>>;

/// The connection as it is now.
pub(super) fn current(connection: &RwLock<ConnectionManager>) -> ConnectionManager {
    connection.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The calls of one process to one server. Clones gather the same.
#[derive(Clone)]
pub(super) struct Gathered {
    connection: Replaceable,
    queue: mpsc::Sender<Call>,
}

struct Call {
    command: Cmd,
    /// When its caller gives up.
    until: Instant,
    answer: oneshot::Sender<RedisResult<Value>>,
}

impl Gathered {
    /// Called within a Tokio runtime.
    pub(super) fn over(connection: Replaceable) -> Self {
        let (queue, calls) = mpsc::channel(WRITE_QUEUE);
        tokio::spawn(ask(Arc::clone(&connection), calls));
        Self { connection, queue }
    }

    /// For one caller, who gives up at `until`.
    pub(super) fn until(&self, until: Instant) -> Asking<'_> {
        Asking { gathered: self, until }
    }
}

/// Asks for one caller, as if by a connection of its own.
pub(super) struct Asking<'g> {
    gathered: &'g Gathered,
    until: Instant,
}

impl ConnectionLike for Asking<'_> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let call = Call { command: command.clone(), until: self.until, answer };
            let ended = |_| RedisError::from((ErrorKind::Client, "nobody asks redis any more"));
            self.gathered.queue.send(call).await.map_err(ended)?;
            let unanswered = |_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
            answered.await.map_err(unanswered)?
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        // It is a piece already.
        let mut connection = current(&self.gathered.connection);
        Box::pin(async move { connection.req_packed_commands(pipeline, offset, count).await })
    }

    fn get_db(&self) -> i64 {
        current(&self.gathered.connection).get_db()
    }
}

/// Until nobody can ask any more. A piece is the only one as long as it is quick, so that the next one gathers.
async fn ask(connection: Replaceable, mut calls: mpsc::Receiver<Call>) {
    let (mut pieces, mut gathered) = (FuturesUnordered::new(), Vec::with_capacity(GATHERED));
    loop {
        tokio::select! {
            Some(()) = pieces.next() => {}
            taken = calls.recv_many(&mut gathered, GATHERED), if pieces.len() < PIECES => {
                if taken == 0 {
                    break;
                }
                pieces.push(send(current(&connection), std::mem::take(&mut gathered)));
                // One that is late goes on beside the next.
                drop(timeout(QUICK, pieces.next()).await);
            }
        }
    }
    pieces.collect::<()>().await;
}

async fn send(mut connection: ConnectionManager, mut calls: Vec<Call>) {
    // Who has given up has gone another way; nothing more is begun for them.
    calls.retain(|call| !call.answer.is_closed());
    let Some(until) = calls.iter().map(|call| call.until).max() else { return };
    let mut pipeline = Pipeline::with_capacity(calls.len());
    let (commands, waiting): (Vec<_>, Vec<_>) = calls.into_iter().map(|call| (call.command, call.answer)).unzip();
    for command in commands {
        pipeline.add_command(command);
    }
    // What a server refuses is among the values; an error is one of the connection. Nobody waits for a later answer.
    match timeout_at(until, connection.req_packed_commands(&pipeline, 0, waiting.len())).await {
        Ok(Ok(values)) => waiting.into_iter().zip(values).for_each(|(waiting, value)| tell(waiting, Ok(value))),
        Ok(Err(error)) => waiting.into_iter().for_each(|waiting| tell(waiting, Err(error.clone()))),
        Err(_) => {}
    }
}

fn tell(waiting: oneshot::Sender<RedisResult<Value>>, answer: RedisResult<Value>) {
    // Who has given up needs none.
    drop(waiting.send(answer));
}
