use backing::{Vhost, connect};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ErrorKind};
use pipeline::topology;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::harness::{broker, empty_vhost};

/// How the broker says that a user may not do what it tries.
const ACCESS_REFUSED: u16 = 403;

/// What a user tries.
#[derive(Debug)]
enum Act {
    Consume(&'static str),
    Publish(&'static str),
    /// For a job of a kind.
    Ask(&'static str),
    Delete(&'static str),
    Declare(&'static str),
    /// A queue, to hear of every job of a kind.
    Bind(&'static str, &'static str),
}

/// Whether the broker lets a user do it. A refusal closes the channel, so each try has a channel of its own.
async fn may(vhost: &Vhost, user: &str, act: &Act) -> bool {
    let (connection, channel) = connect(&vhost.url(user)).await;
    let allowed = match attempt(&channel, act).await {
        Ok(()) => true,
        Err(error) => match error.kind() {
            ErrorKind::ProtocolError(refused) if refused.get_id() == ACCESS_REFUSED => false,
            _ => panic!("{user}, {act:?}: {error}"),
        },
    };
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
        Act::Ask(kind) => publish(channel, &topology::jobs_exchange(kind), "none").await?,
        Act::Delete(queue) => {
            channel.queue_delete((*queue).into(), QueueDeleteOptions { if_empty: true, ..Default::default() }).await?;
        }
        Act::Declare(queue) => {
            let options = QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare((*queue).into(), options, FieldTable::default()).await?;
        }
        Act::Bind(queue, kind) => {
            let (exchange, options) = (topology::jobs_exchange(kind), QueueBindOptions::default());
            let bound = channel.queue_bind(
                (*queue).into(),
                exchange.as_str().into(),
                "normal".into(),
                options,
                FieldTable::default(),
            );
            bound.await?;
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
    use Act::{Ask, Bind, Consume, Declare, Delete, Publish};
    let vhost = empty_vhost().await;
    for row in topology::SERVICES {
        broker(&vhost, row.name).await.close().await;
    }
    let allowed = [
        ("email-worker", Consume("email.normal")),
        ("order-worker", Consume("order.normal")),
        ("web", Ask("report.render")),
        ("web", Ask("order.place")),
        ("dispatcher", Ask("order.place")),
        ("pdf-report", Ask("email.send")),
        ("dispatcher", Ask("email.send")),
        ("web", Publish("postroom.control")),
        ("partner", Ask("report.render")),
        ("partner", Declare("partner.reports")),
        ("web", Consume("tracker.lifecycle")),
        ("email-worker", Bind("email.normal", "email.send")),
    ];
    for (user, act) in &allowed {
        assert!(may(&vhost, user, act).await, "{user} must be able to {act:?}");
    }
    let refused = [
        ("email-worker", Ask("email.send")),
        ("order-worker", Ask("email.send")),
        ("order-worker", Ask("order.place")),
        ("order-worker", Consume("email.normal")),
        ("email-worker", Consume("order.normal")),
        ("email-worker", Publish("postroom.control")),
        ("partner", Publish("postroom.control")),
        ("dispatcher", Ask("noop.run")),
        ("dispatcher", Consume("noop.normal")),
        ("web", Ask("email.send")),
        ("pdf-report", Ask("report.render")),
        ("partner", Ask("email.send")),
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
        ("partner", Bind("partner.reports", "report.render")),
        ("email-worker", Bind("email.normal", "report.render")),
    ];
    for (user, act) in &refused {
        assert!(!may(&vhost, user, act).await, "{user} must not be able to {act:?}");
    }
    vhost.finish(&[]).await;
}

/// A service sees the virtual host by the management API, to compare it with the topology. It can do nothing by it that it could
/// not do over AMQP.
#[tokio::test]
async fn the_management_api_lets_a_service_look_and_no_more() {
    let vhost = empty_vhost().await;
    for row in topology::SERVICES {
        broker(&vhost, row.name).await.close().await;
    }
    for what in ["exchanges", "queues", "bindings", "policies"] {
        for row in topology::SERVICES {
            let answer = vhost.manage_as(row.name, Method::GET, &format!("{what}/{{vhost}}"), None).await;
            assert_eq!(answer, StatusCode::OK, "{} must see {what}", row.name);
        }
        let answer = vhost.manage_as("partner", Method::GET, &format!("{what}/{{vhost}}"), None).await;
        assert_eq!(answer, StatusCode::UNAUTHORIZED, "partner must not see {what}");
    }
    let everything = json!({"configure": ".*", "write": ".*", "read": ".*"});
    let message = json!({"properties": {}, "routing_key": "normal", "payload": "", "payload_encoding": "string"});
    let refused = [
        (Method::GET, "definitions", None),
        (Method::GET, "definitions/{vhost}", None),
        (Method::GET, "users", None),
        (Method::GET, "permissions", None),
        (Method::GET, "nodes", None),
        (Method::GET, "parameters", None),
        (Method::PUT, "users/email-worker", Some(json!({"password": "a", "tags": "administrator"}))),
        (Method::PUT, "permissions/{vhost}/email-worker", Some(everything)),
        (Method::PUT, "policies/{vhost}/mine", Some(json!({"pattern": ".*", "definition": {"max-length": 1}}))),
        (
            Method::PUT,
            "operator-policies/{vhost}/mine",
            Some(json!({"pattern": ".*", "definition": {"max-length": 1}})),
        ),
        (Method::PUT, "vhosts/mine", None),
        (Method::PUT, "exchanges/{vhost}/mine", Some(json!({"type": "topic", "durable": true}))),
        (Method::PUT, "queues/{vhost}/report.extra", Some(json!({"durable": true}))),
        (Method::DELETE, "queues/{vhost}/report.dead", None),
        (Method::DELETE, "queues/{vhost}/report.normal/contents", None),
        (
            Method::POST,
            "queues/{vhost}/report.normal/get",
            Some(json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"})),
        ),
        (Method::POST, "exchanges/{vhost}/postroom.jobs.report.render/publish", Some(message)),
    ];
    for (method, path, body) in refused {
        let answer = vhost.manage_as("email-worker", method.clone(), path, body).await;
        assert!(
            [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST].contains(&answer),
            "email-worker must not {method} {path}: {answer}"
        );
    }
    vhost.finish(&[]).await;
}
