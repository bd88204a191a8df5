//! From the message to what it brings about.

use pipeline::{SealedEvent, SealedJob, topology};
use serde_json::{Value, json};
use store::orders::{Outcome, find};
use store::outbox::{self, Carries, DueRow};

use crate::fixture::{ADA, Fixture, LAMP, MUG, Worker, order};

/// What the order has put into the outbox: jobs first.
async fn outbox_of(fixture: &Fixture) -> Vec<DueRow> {
    let batch = outbox::take_due(&fixture.pool, 10).await.unwrap().expect("something goes out");
    let mut rows = batch.rows().to_vec();
    rows.sort_unstable_by_key(|row| row.carries == Carries::Event);
    rows
}

#[tokio::test]
async fn an_order_stands_and_its_mail_and_its_event_go_out_in_its_trace() {
    let fixture = Fixture::new().await;
    let worker = Worker::start(&fixture, &fixture.database.url()).await;
    let parts = worker.ready().await.unwrap().1;
    assert_eq!((&parts["consuming"], &parts["publishing"]), (&json!("consuming"), &json!("connected")), "{parts}");
    let mut events = fixture.vhost.listen(topology::EVENTS, "job.succeeded").await;
    let web = fixture.web().await;
    let job = order(&[(LAMP, 2), (MUG, 1)]);
    web.publisher().publish_job(&job).await.unwrap();
    let (_, event) = events.next_json().await;
    assert_eq!(event["job"], json!({"id": job.id, "kind": "order.place", "owner": ADA}));

    let stands = find(&fixture.pool, job.id).await.unwrap().unwrap();
    let Outcome::Placed(placed) = &stands.outcome else { panic!("{stands:?}") };
    assert_eq!((stands.customer, stands.accepted_at), (ADA, job.payload.accepted_at));
    let result = json!({
        "number": placed.number, "placed_at": placed.placed_at, "currency": "EUR", "total_minor": 5800,
    });
    assert_eq!(event["result"], result);

    let rows = outbox_of(&fixture).await;
    let [mail, fact] = &rows[..] else { panic!("{rows:?}") };
    let mail: SealedJob = serde_json::from_str(&mail.message).unwrap();
    assert_eq!((mail.kind.as_str(), mail.job.correlation_id), ("email.send", Some(job.id)));
    assert_eq!(mail.job.owner, Some(ADA.to_string()));
    let lines = json!([
        {"name": "Lamp", "quantity": 2, "unit_price_minor": 2500}, {"name": "Mug", "quantity": 1, "unit_price_minor": 800},
    ]);
    let said = json!({
        "to": {"name": "Ada", "address": "ada@shop.example"},
        "template": "order-placed",
        "data": {
            "order_id": job.id, "number": placed.number, "placed_at": placed.placed_at, "currency": "EUR",
            "total_minor": 5800, "lines": lines,
        },
    });
    assert_eq!(mail.job.payload, said);
    let fact: SealedEvent = serde_json::from_str(&fact.message).unwrap();
    let fact = fact.opened();
    assert_eq!((fact.job.id, fact.at), (job.id, placed.placed_at));
    let told: Value = serde_json::to_value(&fact).unwrap();
    assert_eq!((&told["type"], &told["order"]["customer"]), (&json!("order.placed"), &json!(ADA)));
    assert_eq!(told["order"]["lines"][1], json!({"product_id": MUG, "quantity": 1, "unit_price_minor": 800}));
    let trace = job.trace.as_ref().unwrap().id();
    assert_eq!((mail.job.trace.unwrap().id(), fact.trace.unwrap().id()), (trace, trace));

    // The same message once more, and one with other lines under the same id: the same answer, and nothing more goes out.
    let other = pipeline::OutgoingJob { payload: order(&[(LAMP, 9)]).payload, ..job.clone() };
    for again in [&job, &other] {
        web.publisher().publish_job(again).await.unwrap();
        let (_, event) = events.next_json().await;
        assert_eq!((&event["job"]["id"], &event["result"]), (&json!(job.id), &result));
    }
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 2);
    assert_eq!(find(&fixture.pool, job.id).await.unwrap(), Some(stands));
    web.close().await;
    let (code, log, errors) = worker.terminate().await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(!log.contains("ada@shop.example"), "{log}");
    fixture.finish().await;
}

#[tokio::test]
async fn an_order_that_cannot_be_ends_refused_with_a_mail_and_not_among_the_dead_letters() {
    let fixture = Fixture::new().await;
    let worker = Worker::start(&fixture, &fixture.database.url()).await;
    let mut events = fixture.vhost.listen(topology::EVENTS, "job.refused").await;
    let web = fixture.web().await;
    let job = order(&[(LAMP, 1), (MUG, 2)]);
    let refusal = json!({"code": "out-of-stock", "reason": "Of \"Mug\" there is only 1 left, and 2 were ordered."});
    for _ in 0..2 {
        web.publisher().publish_job(&job).await.unwrap();
        let (_, event) = events.next_json().await;
        assert_eq!((&event["job"]["id"], &event["refusal"]), (&json!(job.id), &refusal));
    }
    let rows = outbox_of(&fixture).await;
    let [mail] = &rows[..] else { panic!("{rows:?}") };
    let mail: SealedJob = serde_json::from_str(&mail.message).unwrap();
    assert_eq!(mail.job.correlation_id, Some(job.id));
    assert_eq!(mail.job.payload["template"], "order-refused");
    assert_eq!(mail.job.payload["data"], json!({"order_id": job.id, "reason": refusal["reason"]}));
    assert_eq!(fixture.vhost.ready("order.dead").await, Some(0));
    assert_eq!(fixture.count("SELECT sum(stock)::bigint FROM products").await, 1_000_001);
    web.close().await;
    worker.terminate().await;
    fixture.finish().await;
}

#[tokio::test]
async fn an_order_is_placed_for_a_customer_who_cannot_be_written_to() {
    let fixture = Fixture::new().await;
    // As the database allows, and no mail does.
    sqlx::query("UPDATE users SET name = repeat('A', 150)").execute(&fixture.pool).await.unwrap();
    let worker = Worker::start(&fixture, &fixture.database.url()).await;
    let mut events = fixture.vhost.listen(topology::EVENTS, "job.succeeded").await;
    let web = fixture.web().await;
    let job = order(&[(LAMP, 1)]);
    web.publisher().publish_job(&job).await.unwrap();
    assert_eq!(events.next_json().await.1["job"]["id"], json!(job.id));
    let rows = outbox_of(&fixture).await;
    assert_eq!(rows.iter().map(|row| row.carries).collect::<Vec<_>>(), [Carries::Event]);
    web.close().await;
    let (_, log, _) = worker.terminate().await;
    assert!(log.contains("the customer of an order cannot be written to"), "{log}");
    fixture.finish().await;
}

#[tokio::test]
async fn a_cancelled_order_ends_cancelled_and_never_stands() {
    let fixture = Fixture::new().await;
    let job = order(&[(LAMP, 1)]);
    let row = store::jobs::NewJob {
        id: job.id,
        kind: "order.place".to_owned(),
        owner: ADA.to_string(),
        caused_by: None,
        at: job.payload.accepted_at,
    };
    store::jobs::record_queued(&fixture.pool, &row).await.unwrap();
    let worker = Worker::start(&fixture, &fixture.database.url()).await;
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &["job.cancelled", "job.retrying"]).await;
    let web = fixture.web().await;
    // The worker asks for the mark before each run, and again within the transaction: here it is the latter that hears of it.
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM jobs FOR UPDATE").execute(&mut *lock).await.unwrap();
    web.publisher().publish_job(&job).await.unwrap();
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    fixture.vhost.wait("the order waits", || async { fixture.count(waiting).await == 1 }).await;
    sqlx::query("UPDATE jobs SET cancel_requested_at = now(), cancel_replays = 0").execute(&mut *lock).await.unwrap();
    lock.commit().await.unwrap();
    let (told, event) = events.next_json().await;
    assert_eq!((told.as_str(), &event["job"]["id"]), ("job.cancelled", &json!(job.id)));
    assert_eq!(find(&fixture.pool, job.id).await.unwrap(), None);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox").await, 0);
    web.close().await;
    worker.terminate().await;
    fixture.finish().await;
}
