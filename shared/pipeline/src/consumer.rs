//! Consumes one queue across connection losses, with bounded concurrency, until it is drained.

mod acks;
mod permits;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, BasicRejectOptions,
    ChannelFlowOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer, ErrorKind};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Link, LinkState, up};
use acks::{Settled, acknowledge};
use permits::Permit;

pub(crate) use permits::{Permits, shared_places};

/// One call to the broker.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries to consume over a link that is up, for example while the queue is missing.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a channel is looked at that reports nothing.
const LOOK: Duration = Duration::from_secs(1);

/// What to consume and how.
pub(crate) struct Consume {
    pub(crate) link: watch::Receiver<LinkState>,
    pub(crate) queue: String,
    pub(crate) prefetch: u16,
    pub(crate) permits: Permits,
    /// What is away without which nothing can be done: nothing is consumed while there is any.
    pub(crate) away: watch::Receiver<BTreeSet<&'static str>>,
    pub(crate) drain: CancellationToken,
    /// The queues that are being consumed right now, for health.
    pub(crate) consuming: watch::Sender<BTreeSet<String>>,
}

/// What is done with deliveries.
pub(crate) trait Consumes: Send + Sync + 'static {
    /// Handles a delivery and settles it. Called in the order of delivery; what is returned runs beside the others.
    fn handle(&self, delivery: Delivery, settle: Settle) -> impl Future<Output = ()> + Send + 'static;
    /// Settles a delivery that was not begun and must not be now, because something is away.
    fn put_back(&self, delivery: Delivery, settle: Settle) -> impl Future<Output = ()> + Send + 'static;
}

/// The right and the duty to settle one delivery. Dropped unsettled, it gives the whole session up: the channel is closed, and
/// the broker delivers again what was not acked.
pub(crate) struct Settle {
    tag: u64,
    told: bool,
    channel: Arc<Channel>,
    settled: mpsc::Sender<Settled>,
    place: Option<Permit>,
    /// Cancelled when the delivery can no longer be settled: the broker gives it to somebody else.
    pub(crate) lost: CancellationToken,
}

impl Settle {
    /// Leaves the delivery's place to the next one: what is left to do is to wait. How many may do so the prefetch bounds.
    pub(crate) fn leave_place(&mut self) {
        self.place = None;
    }

    /// Acks the delivery, without waiting for it. `false` when it can no longer be settled.
    pub(crate) fn done(mut self) -> bool {
        self.tell(Settled::Done(self.tag))
    }

    /// Acks the delivery, and waits until the broker has read the ack: it reads a channel in order, so an answer to whatever is
    /// asked after the ack says so. `false` when it can no longer be settled.
    pub(crate) async fn acked(mut self) -> bool {
        let acked = async {
            self.channel.basic_ack(self.tag, BasicAckOptions::default()).await?;
            // The call that changes least: the flow is on already.
            self.channel.channel_flow(ChannelFlowOptions { active: true }).await
        };
        matches!(timeout(CALL_DEADLINE, acked).await, Ok(Ok(_))) && self.tell(Settled::Told(self.tag))
    }

    /// Rejects the delivery: the broker moves it to its dead letters.
    pub(crate) async fn reject(mut self, delivery: &Delivery) -> bool {
        let rejected = delivery.acker.reject(BasicRejectOptions { requeue: false });
        matches!(timeout(CALL_DEADLINE, rejected).await, Ok(Ok(true))) && self.tell(Settled::Told(self.tag))
    }

    fn tell(&mut self, settled: Settled) -> bool {
        // There is room for each delivery that may be open at once, and each is told once.
        self.told = !self.lost.is_cancelled() && self.settled.try_send(settled).is_ok();
        self.told
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if !self.told {
            self.lost.cancel();
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ConsumeError {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("no answer from the broker in {} s", CALL_DEADLINE.as_secs())]
    Late(#[from] tokio::time::error::Elapsed),
}

impl ConsumeError {
    fn is_missing_queue(&self) -> bool {
        matches!(self, Self::Broker(error) if says_not_found(error))
    }
}

/// Whether the broker says that it does not have what was named.
pub(crate) fn says_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
}

/// Why no further delivery is begun.
enum Stop {
    Drain,
    Away,
    Lost,
}

/// Ends when the channel is no longer open. The broker may close it alone (a consumer timeout), and while every permit is taken
/// nobody reads the consumer that would tell.
async fn closed(channel: &Channel) {
    let mut look = tokio::time::interval(LOOK);
    while channel.status().connected() {
        look.tick().await;
    }
}

/// Ends when something is away, or nothing is any more.
async fn until_away(away: &watch::Receiver<BTreeSet<&'static str>>, wanted: bool) {
    let changed = away.clone().wait_for(|away| away.is_empty() != wanted).await.is_err();
    if changed {
        // Nobody is left to say so.
        std::future::pending::<()>().await;
    }
}

/// One channel's life, from its first delivery to its last.
struct Session<'a, C> {
    consume: &'a Consume,
    open: Open,
    consumes: &'a C,
}

/// A channel, and what was begun on it.
#[derive(Clone)]
struct Open {
    channel: Arc<Channel>,
    lost: CancellationToken,
    begun: TaskTracker,
    settled: mpsc::Sender<Settled>,
}

impl Consume {
    /// Hands each delivery to `consumes`, which settles it. Returns when drained: what was begun is finished, what was not is
    /// given back.
    pub(crate) async fn run<C: Consumes>(mut self, consumes: C) {
        let drain = self.drain.clone();
        let ended = TaskTracker::new();
        while drain.run_until_cancelled(until_away(&self.away, false)).await.is_some() {
            let Some(Some(link)) = drain.run_until_cancelled(up(&mut self.link)).await else { break };
            let result = self.session(&link, &consumes, &ended).await;
            self.tell(false);
            if let Err(error) = result {
                tracing::warn!(queue = self.queue, %error, "consume");
                if error.is_missing_queue() {
                    // Somebody deleted it. A new connection declares it again.
                    link.lost.cancel();
                }
            }
            drain.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
        ended.close();
        ended.wait().await;
    }

    fn tell(&self, consuming: bool) {
        self.consuming.send_modify(|queues| {
            if consuming {
                queues.insert(self.queue.clone());
            } else {
                queues.remove(&self.queue);
            }
        });
    }

    /// Consumes over one channel until it ends, the link is lost, something is away or the drain begins. What was begun winds up
    /// among `ended`: a run that takes long must not hold up the next session.
    async fn session<C: Consumes>(&self, link: &Link, consumes: &C, ended: &TaskTracker) -> Result<(), ConsumeError> {
        let channel = Arc::new(timeout(CALL_DEADLINE, link.connection.create_channel()).await??);
        let lost = link.lost.child_token();
        let (settled, told) = mpsc::channel(usize::from(self.prefetch).max(1));
        let acks = tokio::spawn(acknowledge(Arc::clone(&channel), told, lost.clone()));
        let open = Open { channel, lost, begun: TaskTracker::new(), settled };
        let result = Session { consume: self, open: open.clone(), consumes }.deliveries().await;
        ended.spawn(open.wind_up(self.queue.clone(), acks));
        result
    }
}

impl Open {
    /// Waits until what was begun is settled, or can no longer be, and closes the channel.
    async fn wind_up(self, queue: String, acks: JoinHandle<()>) {
        let Self { channel, lost, begun, settled } = self;
        begun.close();
        tokio::select! {
            () = begun.wait() => {}
            () = closed(&channel) => {
                // The broker gives these deliveries to somebody else now.
                lost.cancel();
                begun.wait().await;
            }
        }
        drop(settled);
        if let Err(error) = acks.await {
            tracing::error!(queue, %error, "the task that acks failed");
        }
        if channel.status().connected() {
            // A channel that is dropped instead can take its connection down with it.
            match timeout(CALL_DEADLINE, channel.close(200, "done".into())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(queue, %error, "close a channel"),
                Err(_) => tracing::warn!(queue, "the broker did not answer the close of a channel"),
            }
        }
    }
}

impl<C: Consumes> Session<'_, C> {
    async fn deliveries(&self) -> Result<(), ConsumeError> {
        let Consume { queue, prefetch, permits, .. } = self.consume;
        timeout(CALL_DEADLINE, self.open.channel.basic_qos(*prefetch, BasicQosOptions::default())).await??;
        let consume = self.open.channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = timeout(CALL_DEADLINE, consume).await??;
        self.consume.tell(true);
        let stop = self.stop();
        tokio::pin!(stop);
        loop {
            let delivery = tokio::select! {
                biased;
                why = &mut stop => return self.end(why, consumer, None).await,
                delivery = consumer.next() => match delivery {
                    Some(delivery) => delivery?,
                    None => return Ok(()),
                },
            };
            let permit = tokio::select! {
                biased;
                why = &mut stop => return self.end(why, consumer, Some(delivery)).await,
                permit = permits.acquire() => permit,
            };
            let settle = self.settle(&delivery, Some(permit));
            self.open.begun.spawn(self.consumes.handle(delivery, settle));
        }
    }

    async fn stop(&self) -> Stop {
        tokio::select! {
            biased;
            () = self.consume.drain.cancelled() => Stop::Drain,
            () = self.open.lost.cancelled() => Stop::Lost,
            () = closed(&self.open.channel) => Stop::Lost,
            () = until_away(&self.consume.away, true) => Stop::Away,
        }
    }

    fn settle(&self, delivery: &Delivery, place: Option<Permit>) -> Settle {
        let Open { channel, settled, lost, .. } = &self.open;
        let (channel, settled) = (Arc::clone(channel), settled.clone());
        Settle { tag: delivery.delivery_tag, told: false, channel, settled, place, lost: lost.clone() }
    }

    /// Begins nothing more. `held` is a delivery that was taken and not begun.
    async fn end(&self, why: Stop, mut consumer: Consumer, held: Option<Delivery>) -> Result<(), ConsumeError> {
        if matches!(why, Stop::Lost) {
            return Ok(());
        }
        self.consume.tell(false);
        let cancel = self.open.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        timeout(CALL_DEADLINE, cancel).await??;
        let end = async {
            let mut count: u64 = 0;
            let mut next = held.map(Ok);
            while let Some(delivery) = match next.take() {
                Some(delivery) => Some(delivery),
                None => consumer.next().await,
            } {
                let delivery: Delivery = delivery?;
                count += 1;
                match why {
                    Stop::Drain => {
                        delivery.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await?;
                    }
                    _ => {
                        let settle = self.settle(&delivery, None);
                        self.open.begun.spawn(self.consumes.put_back(delivery, settle));
                    }
                }
            }
            let queue = &self.consume.queue;
            match why {
                Stop::Drain => tracing::info!(queue, count, "gave back what was not begun"),
                _ => tracing::info!(queue, count, "paused, and put back what was not begun"),
            }
            Ok::<_, lapin::Error>(())
        };
        timeout(CALL_DEADLINE, end).await??;
        Ok(())
    }
}
