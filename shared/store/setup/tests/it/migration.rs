//! `migrate` waits for what passes, and for nothing else.

use std::time::{Duration, Instant};

use backing::Database;
use store_setup::migration::migrate;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::{PATIENCE, migrated, pool};

#[tokio::test]
async fn migrating_twice_is_as_good_as_once() {
    let (_database, pool) = migrated().await;
    migrate(&pool, PATIENCE).await.unwrap();
    for table in ["users", "products", "orders", "order_items", "jobs", "job_events", "sent_mails"] {
        let there: bool =
            sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(&pool).await.unwrap();
        assert!(there, "{table}");
    }
}

#[tokio::test]
async fn a_server_that_comes_up_late_is_waited_for() {
    let database = Database::create().await;
    let mut url: Url = database.url().parse().unwrap();
    let server = url.socket_addrs(|| None).unwrap()[0];
    // A port on which nobody listens, until the first try has been refused.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    url.set_port(Some(address.port())).unwrap();
    let late = pool(url.as_str());
    assert!(store::database::ping(&late).await.unwrap_err().is_transient());

    let comes_up = async {
        let listener = TcpListener::bind(address).await.unwrap();
        // It listens before it is ready, and hangs up on whoever comes too early.
        for _ in 0..2 {
            drop(listener.accept().await.unwrap());
        }
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                copy_bidirectional(&mut client, &mut server).await
            });
        }
    };
    tokio::select! {
        biased;
        outcome = migrate(&late, PATIENCE) => outcome.unwrap(),
        () = comes_up => {}
    }
    sqlx::query("SELECT FROM jobs").fetch_all(&pool(&database.url())).await.unwrap();
}

#[tokio::test]
async fn patience_ends() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let never = pool(&format!("postgres://postroom:secret@{address}/postroom"));
    let start = Instant::now();
    let error = migrate(&never, Duration::from_secs(1)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_fails_at_once() {
    let database = Database::create().await;
    let mut url: Url = database.url().parse().unwrap();
    url.set_password(Some("wrong")).unwrap();
    let start = Instant::now();
    let error = migrate(&pool(url.as_str()), Duration::from_secs(90)).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(45), "{:?}", start.elapsed());
    assert!(format!("{error:#}").contains("password"), "{error:#}");
}
