//! Publishes over one channel in confirm mode, and tells of each message what became of it.
//!
//! One task does all of it. A confirm names its message by a number that lapin counts in the order of calls and the broker in the
//! order of arrival (AMQP 0-9-1 has none on the wire): threads that publish at once could swap two of them. And a returned message
//! has no number at all: lapin gives it to whichever confirm comes next, so that only who sees all of them knows whose it is.

use std::collections::HashSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Messages that are taken over at once.
const BATCH: usize = 64;
/// Returned messages that nobody waits for any more; beyond it the channel is given up.
const STRAYS: usize = 1024;

/// A message on its way.
pub(crate) struct Message {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
    /// Whether it is a failure that no queue takes it.
    pub(crate) mandatory: bool,
    pub(crate) fate: oneshot::Sender<Fate>,
    /// Kept until the broker has spoken, whether or not anybody still waits.
    pub(crate) place: OwnedSemaphorePermit,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Every queue that it was routed to has it.
    Taken,
    /// No queue took it.
    Returned,
    /// A queue refused it.
    Refused,
    /// Any of these.
    Unknown,
}

/// Publishes until nobody hands messages in any more and each has its fate, or until `lost`. A channel that fails one publish fails
/// them all: then `lost` is cancelled here.
pub(crate) async fn publish_all(channel: Channel, mut messages: mpsc::Receiver<Message>, lost: CancellationToken) {
    let (mut open, mut strays, mut batch) = (Open::new(), Strays::default(), Vec::with_capacity(BATCH));
    let mut wanted = true;
    while wanted || !open.publishes.is_empty() {
        tokio::select! {
            biased;
            () = lost.cancelled() => return,
            ended = open.ended() => {
                if let Err(error) = strays.tell(ended) {
                    tracing::warn!(%error, "publish");
                    lost.cancel();
                }
            }
            taken = messages.recv_many(&mut batch, BATCH), if wanted => {
                wanted = taken > 0;
                open.publishes.extend(batch.drain(..).map(|message| publish(&channel, message)));
            }
        }
    }
}

/// A publish that the broker, or lapin, has spoken about.
struct Ended {
    /// Of a message that may be returned.
    id: Option<ShortString>,
    confirmation: lapin::Result<Confirmation>,
    fate: oneshot::Sender<Fate>,
    place: OwnedSemaphorePermit,
}

async fn publish(channel: &Channel, message: Message) -> Ended {
    let Message { exchange, routing_key, properties, body, mandatory, fate, place } = message;
    let id = if mandatory { properties.message_id().clone() } else { None };
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let confirmed = async {
        #[expect(clippy::disallowed_methods, reason = "this is what the publisher publishes with")]
        let written = channel.basic_publish(exchange, routing_key, options, &body, properties);
        written.await?.await
    };
    Ended { id, confirmation: confirmed.await, fate, place }
}

/// Publishes that have not ended.
struct Open<F> {
    publishes: FuturesUnordered<F>,
    bell: Arc<Bell>,
}

/// Tells whether anything woke the publishes since it was last looked at.
#[derive(Default)]
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        self.task.wake();
    }
}

impl<F: Future<Output = Ended>> Open<F> {
    fn new() -> Self {
        Self { publishes: FuturesUnordered::new(), bell: Arc::default() }
    }

    /// All that have ended by now, once there is one. lapin ends them one after the other, in one thread: whatever was ended before one
    /// of these is among them, or was told earlier.
    async fn ended(&mut self) -> Vec<Ended> {
        let waker = Waker::from(Arc::clone(&self.bell));
        poll_fn(|context| {
            self.bell.task.register(context.waker());
            let (mut all, mut context) = (Vec::new(), Context::from_waker(&waker));
            loop {
                self.bell.rung.store(false, Ordering::SeqCst);
                while let Poll::Ready(Some(ended)) = self.publishes.poll_next_unpin(&mut context) {
                    all.push(ended);
                }
                // It pauses now and then, and rings by itself to go on.
                if !self.bell.rung.load(Ordering::SeqCst) {
                    break;
                }
            }
            if all.is_empty() { Poll::Pending } else { Poll::Ready(all) }
        })
        .await
    }
}

/// Returned messages that came with the confirm of another, by their ids.
#[derive(Default)]
struct Strays(HashSet<Option<ShortString>>);

#[derive(Debug, thiserror::Error)]
enum ChannelError {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("more than {STRAYS} messages were returned that nobody waits for")]
    Strays,
}

impl Strays {
    /// Tells each its fate. The broker returns a message before it confirms it, so a return that is not with its own confirm is with
    /// one that ended before.
    fn tell(&mut self, ended: Vec<Ended>) -> Result<(), ChannelError> {
        let id = |message: &BasicReturnMessage| message.properties.message_id().clone();
        for Ended { id: own, confirmation, .. } in &ended {
            if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = confirmation
                && id(message) != *own
            {
                self.0.insert(id(message));
            }
        }
        let mut result = Ok(());
        for Ended { id: own, confirmation, fate, place } in ended {
            let end = match confirmation {
                Ok(Confirmation::Ack(Some(message))) if id(&message) == own => Fate::Returned,
                Ok(Confirmation::Ack(_) | Confirmation::Nack(_)) if own.is_some() && self.0.remove(&own) => {
                    Fate::Returned
                }
                Ok(Confirmation::Ack(None)) => Fate::Taken,
                Ok(Confirmation::Nack(_)) => Fate::Refused,
                // Its own return may come with a later one.
                Ok(Confirmation::Ack(Some(_)) | Confirmation::NotRequested) => Fate::Unknown,
                Err(error) => {
                    result = Err(error.into());
                    Fate::Unknown
                }
            };
            drop(place);
            // Nobody listens any more after a deadline.
            fate.send(end).ok();
        }
        if self.0.len() > STRAYS { Err(ChannelError::Strays) } else { result }
    }
}
