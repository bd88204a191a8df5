//! lapin and nothing else: what a client in Rust can reach with publisher confirms and acks by ranges.

use std::io::Write;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use chrono::Utc;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use pipeline::jobs::{Job, Noop};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::{count, done_file, say, say_span};

use crate::house::variable;
use crate::publishing::Outstanding;

/// Its queue in the comparison of jobs.
pub(super) const QUEUE: &str = "bench.lapin";
/// As the product's for kinds that take no time.
const PREFETCH: u16 = 256;

async fn connect() -> anyhow::Result<(Connection, Channel)> {
    let connection = Connection::connect(&variable("BENCH_URL")?, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

async fn declare(channel: &Channel) -> anyhow::Result<()> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(QUEUE.into(), options, arguments).await?;
    Ok(())
}

/// Publishes with so many confirms outstanding.
#[expect(clippy::disallowed_methods, reason = "this is what the product's publisher is compared with")]
pub(super) async fn publish(exchange: &str, routing_key: &str, body: Vec<u8>, window: usize) -> anyhow::Result<()> {
    let (connection, channel) = connect().await?;
    if exchange.is_empty() {
        declare(&channel).await?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let count = count()?;
    let begin = SystemTime::now();
    let publish = async |_| {
        confirmed(channel.basic_publish(exchange.into(), routing_key.into(), options, &body, properties()).await?).await
    };
    Outstanding(window).of(count, publish).await?;
    say_span(begin)?;
    channel.close(200, "done".into()).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}

/// What a no-op job's message says about itself, as `docs/messages.md` has it: the same as the product's.
fn properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("attempt".into(), AMQPValue::LongLongInt(1));
    headers.insert("replays".into(), AMQPValue::LongLongInt(0));
    BasicProperties::default()
        .with_message_id(Uuid::now_v7().to_string().into())
        .with_type(Noop::KIND.into())
        .with_content_type("application/json".into())
        .with_timestamp(u64::try_from(Utc::now().timestamp()).unwrap_or_default())
        .with_app_id("noop-worker".into())
        .with_delivery_mode(2)
        .with_headers(headers)
}

/// A channel that publishes one message after the other, or many at once.
pub(crate) struct Publishing {
    connection: Connection,
    channel: Channel,
}

impl Publishing {
    pub(crate) async fn start(url: &str) -> anyhow::Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { connection, channel })
    }

    #[expect(clippy::disallowed_methods, reason = "this is what the product's publisher is compared with")]
    pub(crate) async fn publish(&self, exchange: &str, routing_key: &str) -> anyhow::Result<()> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = br#"{"note":""}"#;
        let publish = self.channel.basic_publish(exchange.into(), routing_key.into(), options, body, properties());
        confirmed(publish.await?).await
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.channel.close(200, "done".into()).await?;
        Ok(self.connection.close(200, "done".into()).await?)
    }
}

async fn confirmed(publish: impl Future<Output = lapin::Result<Confirmation>>) -> anyhow::Result<()> {
    let confirmation = publish.await?;
    ensure!(matches!(confirmation, Confirmation::Ack(None)), "not confirmed: {confirmation:?}");
    Ok(())
}

/// Does nothing with each delivery, and acks what is at hand by one frame.
pub(super) async fn work() -> anyhow::Result<()> {
    let (connection, channel) = connect().await?;
    declare(&channel).await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let consume = channel.basic_consume(QUEUE.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default());
    let mut consumer = consume.await?;
    let mut done = done_file()?;
    let mut end = signal(SignalKind::terminate())?;
    say("ready");
    loop {
        let mut next = tokio::select! {
            next = consumer.next() => Some(next.context("the consumer ended")?),
            _ = end.recv() => break,
        };
        let (mut last, mut count) = (0, 0);
        while let Some(delivery) = next {
            let delivery = delivery?;
            let _job: Noop = serde_json::from_slice(&delivery.data)?;
            done.write_all(b".")?;
            (last, count) = (delivery.delivery_tag, count + 1);
            // What has arrived meanwhile is done before the ack, up to half of what may be open.
            next = if count < PREFETCH / 2 { consumer.next().now_or_never().flatten() } else { None };
        }
        channel.basic_ack(last, BasicAckOptions { multiple: true }).await?;
    }
    channel.close(200, "done".into()).await?;
    connection.close(200, "done".into()).await?;
    Ok(())
}
