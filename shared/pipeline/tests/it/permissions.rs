use backing::{Vhost, connect};
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel};
use pipeline::topology;

use crate::harness::{broker, empty_vhost};

/// What a user tries.
#[derive(Debug)]
enum Act {
    Consume(&'static str),
    Publish(&'static str),
    Ask(&'static str),
    Delete(&'static str),
    Declare(&'static str),
}

/// Whether the broker lets a user do it. A refusal closes the channel, so each try has a channel of its own.
async fn may(vhost: &Vhost, user: &str, act: &Act) -> bool {
    let (connection, channel) = connect(&vhost.url(user)).await;
    let allowed = attempt(&channel, act).await.is_ok();
    connection.close(200, "done".into()).await.unwrap();
    allowed
}

async fn attempt(channel: &Channel, act: &Act) -> lapin::Result<()> {
    match act {
        Act::Consume(queue) => {
            let consumer = channel.basic_consume(
                (*queue).into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            drop(consumer.await?);
        }
        Act::Publish(exchange) => publish(channel, exchange, "none").await?,
        Act::Ask(key) => publish(channel, topology::JOBS, key).await?,
        Act::Delete(queue) => {
            channel.queue_delete((*queue).into(), QueueDeleteOptions { if_empty: true, ..Default::default() }).await?;
        }
        Act::Declare(queue) => {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare((*queue).into(), options, FieldTable::default()).await?;
        }
    }
    Ok(())
}

async fn publish(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.confirm_select(Default::default()).await?;
    #[expect(clippy::disallowed_methods, reason = "tries what the publisher never would")]
    let publish = channel.basic_publish(
        exchange.into(),
        key.into(),
        BasicPublishOptions::default(),
        b"",
        BasicProperties::default(),
    );
    publish.await?.await?;
    Ok(())
}

#[tokio::test]
async fn each_service_can_declare_its_part_of_the_topology() {
    let vhost = empty_vhost().await;
    for row in topology::SERVICES {
        broker(&vhost, row.name).await.close().await;
    }
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn no_user_may_do_what_its_service_does_not_need() {
    use Act::{Ask, Consume, Declare, Delete, Publish};
    let vhost = empty_vhost().await;
    for row in topology::SERVICES {
        broker(&vhost, row.name).await.close().await;
    }
    let allowed = [
        ("email-worker", Consume("email.normal")),
        ("web", Ask("report.render.none")),
        ("pdf-report", Ask("email.send.none")),
        ("dispatcher", Ask("email.send.none")),
        ("web", Publish("postroom.control")),
        ("partner", Ask("report.render.none")),
        ("partner", Declare("partner.reports")),
        ("web", Consume("tracker.lifecycle")),
    ];
    for (user, act) in &allowed {
        assert!(may(&vhost, user, act).await, "{user} must be able to {act:?}");
    }
    let refused = [
        ("email-worker", Ask("email.send.none")),
        ("email-worker", Publish("postroom.control")),
        ("partner", Publish("postroom.control")),
        ("dispatcher", Ask("noop.run.none")),
        ("dispatcher", Consume("noop.normal")),
        ("web", Ask("email.send.none")),
        ("pdf-report", Ask("report.render.none")),
        ("partner", Ask("email.send.none")),
        ("email-worker", Consume("report.normal")),
        ("email-worker", Delete("report.dead")),
        ("pdf-report", Consume("noop.normal")),
        ("web", Consume("email.normal")),
        ("web", Delete("email.dead")),
        ("web", Publish("")),
        ("partner", Consume("report.normal")),
        ("partner", Consume("tracker.lifecycle")),
        ("partner", Publish("postroom.events")),
        ("partner", Publish("postroom.dead")),
        ("partner", Publish("postroom.return")),
        ("partner", Declare("report.extra")),
        ("partner", Delete("email.dead")),
    ];
    for (user, act) in &refused {
        assert!(!may(&vhost, user, act).await, "{user} must not be able to {act:?}");
    }
    vhost.finish(&[]).await;
}
