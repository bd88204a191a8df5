//! Workers that die in the middle.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::fixture::{Fixture, LAMP, MUG, Worker, order};

const ORDERS: usize = 300;
const LAMPS: i64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_order_is_decided_on_once_though_workers_are_killed() {
    let fixture = Fixture::new().await;
    sqlx::query("UPDATE products SET stock = $1").bind(LAMPS).execute(&fixture.pool).await.unwrap();
    let url = fixture.database.url();
    let mut workers = vec![Worker::start(&fixture, &url).await, Worker::start(&fixture, &url).await];
    let web = fixture.web().await;
    let mut wanted = BTreeSet::new();
    for place in 0..ORDERS {
        let job = order(if place % 2 == 0 { &[(LAMP, 1), (MUG, 1)] } else { &[(MUG, 1), (LAMP, 1)] });
        web.publisher().publish_job(&job).await.unwrap();
        wanted.insert(job.id);
    }
    let decided = "SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM order_refusals)";
    for killed_after in [20, 60, 100, 140, 180, 220] {
        fixture.vhost.wait("some are decided on", || async { fixture.count(decided).await >= killed_after }).await;
        workers.remove(0).kill().await;
        workers.push(Worker::spawn(&fixture, &url));
    }
    fixture.vhost.wait("all are decided on", || async { fixture.count(decided).await >= ORDERS as i64 }).await;
    let settled = || async {
        let mut left = 0;
        for queue in ["order.normal", "order.suspect"] {
            left += fixture.vhost.ready(queue).await.unwrap();
        }
        left == 0
    };
    fixture.vhost.wait("no order waits", settled).await;
    for worker in workers {
        worker.terminate().await;
    }

    let found: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM orders UNION ALL SELECT id FROM order_refusals")
        .fetch_all(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(found.len(), ORDERS);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), wanted);
    assert_eq!(fixture.count("SELECT count(*) FROM orders").await, LAMPS);
    assert_eq!(fixture.count("SELECT sum(stock)::bigint FROM products").await, 0);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox WHERE kind = 'email.send'").await, ORDERS as i64);
    assert_eq!(fixture.count("SELECT count(*) FROM outbox WHERE kind = 'order.placed'").await, LAMPS);
    assert_eq!(fixture.vhost.ready("order.dead").await, Some(0));
    web.close().await;
    fixture.finish().await;
}
