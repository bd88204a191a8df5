//! Consumes one queue across connection losses, with bounded concurrency, until it is drained.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer, ErrorKind};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Link, LinkState, up};

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
    /// One permit for each delivery that is being handled.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) drain: CancellationToken,
    /// Whether it is consuming right now, for health.
    pub(crate) consuming: watch::Sender<bool>,
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
        const NOT_FOUND: u16 = 404;
        matches!(self, Self::Broker(error) if matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND))
    }
}

/// Ends when the channel is no longer open. The broker may close it alone (a consumer timeout), and while every permit is taken
/// nobody reads the consumer that would tell.
async fn closed(channel: &Channel) {
    let mut look = tokio::time::interval(LOOK);
    while channel.status().connected() {
        look.tick().await;
    }
}

impl Consume {
    /// Hands each delivery to `handle`, with a token that is cancelled when the delivery can no longer be settled; `handle`
    /// settles it. Returns when drained: what was begun is finished, what was not is given back.
    pub(crate) async fn run<F, Handled>(mut self, handle: F)
    where
        F: Fn(Delivery, CancellationToken) -> Handled,
        Handled: Future<Output = ()> + Send + 'static,
    {
        let drain = self.drain.clone();
        while let Some(Some(link)) = drain.run_until_cancelled(up(&mut self.link)).await {
            let result = self.session(&link, &handle).await;
            self.consuming.send_replace(false);
            if drain.is_cancelled() {
                return;
            }
            if let Err(error) = result {
                tracing::warn!(queue = self.queue, %error, "consume");
                if error.is_missing_queue() {
                    // Somebody deleted it. A new connection declares it again.
                    link.lost.cancel();
                }
            }
            drain.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
        }
    }

    /// Consumes over one channel until it ends, the link is lost or the drain begins.
    async fn session<F, Handled>(&self, link: &Link, handle: &F) -> Result<(), ConsumeError>
    where
        F: Fn(Delivery, CancellationToken) -> Handled,
        Handled: Future<Output = ()> + Send + 'static,
    {
        let channel = timeout(CALL_DEADLINE, link.connection.create_channel()).await??;
        let lost = link.lost.child_token();
        let begun = TaskTracker::new();
        let result = self.deliveries(&channel, &lost, &begun, handle).await;
        if !channel.status().connected() || lost.is_cancelled() {
            // The broker gives these deliveries to somebody else now.
            lost.cancel();
        }
        begun.close();
        begun.wait().await;
        if channel.status().connected() {
            // A channel that is dropped instead can take its connection down with it.
            timeout(CALL_DEADLINE, channel.close(200, "done".into())).await??;
        }
        result
    }

    async fn deliveries<F, Handled>(
        &self,
        channel: &Channel,
        lost: &CancellationToken,
        begun: &TaskTracker,
        handle: &F,
    ) -> Result<(), ConsumeError>
    where
        F: Fn(Delivery, CancellationToken) -> Handled,
        Handled: Future<Output = ()> + Send + 'static,
    {
        timeout(CALL_DEADLINE, channel.basic_qos(self.prefetch, BasicQosOptions::default())).await??;
        let consume = channel.basic_consume(
            self.queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let mut consumer = timeout(CALL_DEADLINE, consume).await??;
        self.consuming.send_replace(true);
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.drain.cancelled() => return self.give_back(channel, consumer, None).await,
                () = lost.cancelled() => return Ok(()),
                () = closed(channel) => return Ok(()),
                delivery = consumer.next() => match delivery {
                    Some(delivery) => delivery?,
                    None => return Ok(()),
                },
            };
            let permit = tokio::select! {
                biased;
                () = self.drain.cancelled() => return self.give_back(channel, consumer, Some(delivery)).await,
                () = lost.cancelled() => return Ok(()),
                () = closed(channel) => return Ok(()),
                permit = Arc::clone(&self.permits).acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            let handled = handle(delivery, lost.clone());
            begun.spawn(async move {
                handled.await;
                drop(permit);
            });
        }
    }

    /// Stops the deliveries and returns those that were not begun to the queue.
    async fn give_back(
        &self,
        channel: &Channel,
        mut consumer: Consumer,
        first: Option<Delivery>,
    ) -> Result<(), ConsumeError> {
        self.consuming.send_replace(false);
        timeout(CALL_DEADLINE, channel.basic_cancel(consumer.tag(), BasicCancelOptions::default())).await??;
        let give_back = async {
            let requeue = BasicNackOptions { requeue: true, multiple: false };
            let mut returned: u64 = 0;
            if let Some(delivery) = first {
                delivery.acker.nack(requeue).await?;
                returned += 1;
            }
            while let Some(delivery) = consumer.next().await {
                delivery?.acker.nack(requeue).await?;
                returned += 1;
            }
            tracing::info!(queue = self.queue, returned, "gave back what was not begun");
            Ok::<_, lapin::Error>(())
        };
        timeout(CALL_DEADLINE, give_back).await??;
        Ok(())
    }
}
