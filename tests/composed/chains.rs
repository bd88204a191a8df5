//! What a job causes: on its page, and once, however often the job is replayed.

use std::collections::HashMap;
use std::time::Duration;

use backing::{Delivery, replay};
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::harness::{Caller, DEADLINE, alice, all_work_done, bob, database, mails_of, sales, sent_mail};

/// Everything that is put to work from now on.
async fn listen(channel: &Channel) -> Consumer {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let queue = channel.queue_declare("".into(), options, arguments).await.unwrap().name().clone();
    for kind in ["report.render", "order.place", "email.send"] {
        for lane in ["urgent", "normal", "bulk"] {
            let (exchange, options) = (format!("postroom.jobs.{kind}"), QueueBindOptions::default());
            let bound = channel.queue_bind(
                queue.clone(),
                exchange.as_str().into(),
                lane.into(),
                options,
                FieldTable::default(),
            );
            bound.await.unwrap();
        }
    }
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.unwrap()
}

/// The message of a job; those of others are kept.
async fn message_of(messages: &mut Consumer, kept: &mut HashMap<String, Delivery>, id: &str) -> Delivery {
    loop {
        if let Some(message) = kept.remove(id) {
            return message;
        }
        let next = timeout(DEADLINE, messages.next()).await.expect("a message in time");
        let message = next.expect("the consumer goes on").unwrap();
        let id = message.properties.message_id().as_ref().expect("an id").to_string();
        kept.insert(id, message);
    }
}

/// The job's page, once it is as wanted.
async fn page(caller: &Caller, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + DEADLINE;
    loop {
        let job = caller.job(id).await;
        if is_so(&job) {
            return job;
        }
        assert!(Instant::now() < end, "{what}: {job:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn some_product(database: &mut PgConnection) -> Uuid {
    let query = "SELECT id FROM products WHERE stock > 1000 AND currency = 'EUR' ORDER BY id LIMIT 1";
    sqlx::query_scalar(query).fetch_one(database).await.unwrap()
}

#[tokio::test]
async fn what_a_report_and_an_order_cause_is_on_their_pages_and_a_replay_repeats_none_of_it() {
    let (_connection, channel) = backing::connect(&backing::broker_url("postroom", "operator")).await;
    let (mut messages, mut kept) = (listen(&channel).await, HashMap::new());
    let mut database = database().await;
    let (asking, buying) = (alice(), bob());
    let report = asking.accepted(&sales("2025-03-01", "2025-03-31")).await;
    let product = some_product(&mut database).await;
    let order = buying.ordered(&json!({"items": [{"product_id": product, "quantity": 1}]})).await;
    for (queue, caller, id) in [("report.normal", &asking, &report), ("order.normal", &buying, &order)] {
        let mail = Uuid::new_v5(&id.parse().unwrap(), b"email.send").to_string();
        let link = format!("/v1/jobs/{mail}");
        let caused = json!([{"id": mail, "kind": "email.send", "state": "succeeded", "link": link}]);
        sent_mail(id).await;
        let first = page(caller, id, "the mail is on its page", |job| job["caused"] == caused).await;
        let shown = caller.job(&mail).await;
        assert_eq!((&shown["caused_by"], &shown["links"]["caused_by"]), (&json!(id), &first["links"]["self"]));
        let message = message_of(&mut messages, &mut kept, id).await;
        let mail_message = message_of(&mut messages, &mut kept, &mail).await;

        replay(&channel, &message, queue).await;
        let again =
            page(caller, id, "it is done again", |job| job["replays"] == 1 && job["state"] == "succeeded").await;
        assert_eq!((&again["result"], &again["caused"]), (&first["result"], &caused));
        replay(&channel, &mail_message, "email.normal").await;
        page(caller, &mail, "it is done again", |job| job["replays"] == 1 && job["state"] == "succeeded").await;
        all_work_done().await;
        assert_eq!(mails_of(id).await.len(), 1);
        assert_eq!(
            page(caller, id, "its mail is done", |job| job["caused"] == caused).await["result"],
            first["result"]
        );
    }
    let placed = "SELECT count(*) FROM orders WHERE id = $1::uuid";
    let orders: i64 = sqlx::query_scalar(placed).bind(&order).fetch_one(&mut database).await.unwrap();
    assert_eq!(orders, 1);
}
