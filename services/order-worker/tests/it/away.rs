//! While the database is away.

use std::collections::BTreeSet;

use backing::Proxy;
use pipeline::topology;
use uuid::Uuid;

use crate::fixture::{Fixture, LAMP, Worker, order};

#[tokio::test]
async fn orders_that_come_while_the_database_is_away_stand_once_when_it_is_back() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::start(&fixture.database.url()).await;
    let first = Worker::start(&fixture, &proxy.url).await;
    let web = fixture.web().await;
    proxy.cut(true);
    let mut wanted = BTreeSet::new();
    for _ in 0..40 {
        let job = order(&[(LAMP, 1)]);
        web.publisher().publish_job(&job).await.unwrap();
        wanted.insert(job.id);
    }
    let paused = || async { first.ready().await.is_some_and(|(_, parts)| parts["consuming"] == "paused: postgres") };
    fixture.vhost.wait("the worker pauses", paused).await;
    // It may be started anew meanwhile.
    first.terminate().await;
    let second = Worker::spawn(&fixture, &proxy.url);
    let paused = || async { second.ready().await.is_some_and(|(_, parts)| parts["consuming"] == "paused: postgres") };
    fixture.vhost.wait("the other pauses too", paused).await;
    assert_eq!(fixture.count("SELECT count(*) FROM orders").await, 0);

    let mut events = fixture.vhost.listen(topology::EVENTS, "job.succeeded").await;
    proxy.cut(false);
    let mut told = BTreeSet::new();
    while told.len() < wanted.len() {
        let (_, event) = events.next_json().await;
        assert_eq!(event["run"]["attempt"], 1, "none was spent on it");
        told.insert(event["job"]["id"].as_str().unwrap().parse::<Uuid>().unwrap());
    }
    assert_eq!(told, wanted);
    let found: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM orders").fetch_all(&fixture.pool).await.unwrap();
    assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (wanted.len(), wanted));
    assert_eq!(fixture.vhost.ready("order.dead").await, Some(0));
    web.close().await;
    second.terminate().await;
    fixture.finish().await;
}
