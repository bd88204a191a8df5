//! Publishes over one channel in confirm mode, and tells of each message what became of it.
//!
//! One task does all of it. A confirm names its message by a number that lapin counts in the order of calls and the broker in the
//! order of arrival (AMQP 0-9-1 has none on the wire): threads that publish at once could swap two of them. And a returned message
//! has no number at all: lapin gives it to whichever confirm comes next, so that only who sees all of them knows whose it is.

use std::collections::HashMap;
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
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::publisher::WINDOW;

/// Messages that are taken over at once.
const BATCH: usize = 64;
/// Confirms that have not come, also those that nobody waits for any more; and returned messages of which nobody knows whose they are.
/// Beyond it the channel is given up: memory must end somewhere.
pub(crate) const OPEN: usize = 4 * WINDOW;

/// A message on its way.
pub(crate) struct Message {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
    /// Whether it is a failure that no queue takes it.
    pub(crate) mandatory: bool,
    pub(crate) fate: oneshot::Sender<Fate>,
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
/// them all, and one that confirms nothing is no better: then `lost` is cancelled here.
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
                if open.publishes.len() > OPEN {
                    tracing::warn!("the broker has not confirmed {OPEN} messages: the connection is made anew");
                    lost.cancel();
                }
            }
        }
    }
}

/// A publish that the broker, or lapin, has spoken about.
struct Ended {
    /// Of a message that may be returned: its id, where it has one.
    returnable: Option<Id>,
    confirmation: lapin::Result<Confirmation>,
    fate: oneshot::Sender<Fate>,
}

/// A foreign message may have none, and two may have the same.
type Id = Option<ShortString>;

async fn publish(channel: &Channel, message: Message) -> Ended {
    let Message { exchange, routing_key, properties, body, mandatory, fate } = message;
    let returnable = mandatory.then(|| properties.message_id().clone());
    let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
    let confirmed = async {
        #[expect(clippy::disallowed_methods, reason = "this is what the publisher publishes with")]
        let written = channel.basic_publish(exchange, routing_key, options, &body, properties);
        written.await?.await
    };
    Ended { returnable, confirmation: confirmed.await, fate }
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

/// How many messages of an id were returned with the confirm of another.
#[derive(Default)]
struct Strays(HashMap<Id, usize>);

#[derive(Debug, thiserror::Error)]
enum ChannelError {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("more than {OPEN} messages were returned of which nobody knows whose they are")]
    Strays,
}

impl Strays {
    /// Tells each its fate. The broker returns a message before it confirms it, so a return that is not with its own confirm is with
    /// one that ended before.
    fn tell(&mut self, ended: Vec<Ended>) -> Result<(), ChannelError> {
        let id = |message: &BasicReturnMessage| message.properties.message_id().clone();
        for Ended { returnable, confirmation, .. } in &ended {
            if let Ok(Confirmation::Ack(Some(message)) | Confirmation::Nack(Some(message))) = confirmation
                && returnable.as_ref() != Some(&id(message))
            {
                *self.0.entry(id(message)).or_default() += 1;
            }
        }
        let mut result = Ok(());
        for Ended { returnable, confirmation, fate } in ended {
            let end = match confirmation {
                Ok(Confirmation::Ack(Some(message))) if returnable == Some(id(&message)) => Fate::Returned,
                Ok(_) if returnable.as_ref().is_some_and(|id| self.take(id)) => Fate::Returned,
                Ok(Confirmation::Ack(None)) => Fate::Taken,
                Ok(Confirmation::Nack(_)) => Fate::Refused,
                // Its own return may come with a later one.
                Ok(Confirmation::Ack(Some(_)) | Confirmation::NotRequested) => Fate::Unknown,
                Err(error) => {
                    result = Err(error.into());
                    Fate::Unknown
                }
            };
            // Nobody listens any more after a deadline.
            fate.send(end).ok();
        }
        if self.0.len() > OPEN { Err(ChannelError::Strays) } else { result }
    }

    fn take(&mut self, id: &Id) -> bool {
        let Some(count) = self.0.get_mut(id) else { return false };
        *count -= 1;
        if *count == 0 {
            self.0.remove(id);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use lapin::Confirmation::{self, Ack, Nack};
    use lapin::message::{BasicReturnMessage, Delivery};
    use tokio::sync::oneshot;

    use super::Fate::{Refused, Returned, Taken, Unknown};
    use super::{Ended, Fate, Strays};

    /// An event, which is never returned.
    const EVENT: Option<Option<&str>> = None;

    fn returned(id: Option<&str>) -> Option<BasicReturnMessage> {
        let mut delivery = Delivery::mock(0, "".into(), "".into(), false, Vec::new());
        if let Some(id) = id {
            delivery.properties = delivery.properties.with_message_id(id.into());
        }
        Some(BasicReturnMessage { delivery, reply_code: 312, reply_text: "NO_ROUTE".into() })
    }

    fn fates<const N: usize>(strays: &mut Strays, ended: [(Option<Option<&str>>, Confirmation); N]) -> [Fate; N] {
        let (ended, told): (Vec<_>, Vec<_>) = ended
            .into_iter()
            .map(|(id, confirmation)| {
                let (fate, told) = oneshot::channel();
                let returnable = id.map(|id| id.map(Into::into));
                (Ended { returnable, confirmation: Ok(confirmation), fate }, told)
            })
            .unzip();
        strays.tell(ended).unwrap();
        let fates: Vec<Fate> = told.into_iter().map(|mut told| told.try_recv().unwrap()).collect();
        fates.try_into().unwrap()
    }

    #[test]
    fn a_return_counts_for_its_own_message_with_whichever_confirm_it_comes() {
        let (job, other) = (Some(Some("job")), Some(Some("other")));
        let mut strays = Strays::default();
        let own = [(job, Ack(returned(Some("job")))), (other, Ack(None)), (EVENT, Ack(None)), (other, Nack(None))];
        assert_eq!(fates(&mut strays, own), [Returned, Taken, Taken, Refused]);
        // In one go, whatever the order, and one after the other.
        assert_eq!(fates(&mut strays, [(job, Ack(None)), (other, Ack(returned(Some("job"))))]), [Returned, Unknown]);
        assert_eq!(fates(&mut strays, [(other, Nack(returned(Some("job"))))]), [Refused]);
        assert_eq!(
            fates(&mut strays, [(other, Ack(None)), (job, Ack(None)), (job, Ack(None))]),
            [Taken, Returned, Taken]
        );
        assert!(strays.0.is_empty());
    }

    #[test]
    fn messages_without_an_id_and_of_the_same_id_are_counted() {
        let (foreign, twin) = (Some(None), Some(Some("twin")));
        let mut strays = Strays::default();
        let with_events =
            [(EVENT, Ack(returned(None))), (EVENT, Ack(None)), (foreign, Ack(None)), (foreign, Ack(None))];
        assert_eq!(fates(&mut strays, with_events), [Unknown, Taken, Returned, Taken]);
        let stolen = [(EVENT, Ack(returned(Some("twin")))), (EVENT, Ack(returned(Some("twin"))))];
        assert_eq!(fates(&mut strays, stolen), [Unknown, Unknown]);
        assert_eq!(
            fates(&mut strays, [(twin, Ack(None)), (twin, Ack(None)), (twin, Ack(None))]),
            [Returned, Returned, Taken]
        );
    }
}
