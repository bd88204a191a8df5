//! Deadlines, recovery, and which errors pass by themselves.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::{Executor, PgPool};
use store::database::ping;
use store::jobs::find_job;
use store::{DatabaseError, DatabaseSettings};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;
use uuid::Uuid;

use crate::{TestStore, settings};

/// Stands between a pool and the server. Told to freeze, it neither forwards nor closes what is open, as a network does
/// that lost its other end; what is opened later goes through.
struct Proxy {
    address: SocketAddr,
    freeze: watch::Sender<()>,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (freeze, frozen) = watch::channel(());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut frozen = frozen.clone();
                frozen.mark_unchanged();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = frozen.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, freeze }
    }
}

fn through(proxy: &Proxy, url: &str) -> DatabaseSettings {
    let mut url: Url = url.parse().unwrap();
    url.set_port(Some(proxy.address.port())).unwrap();
    DatabaseSettings { max_connections: 1, ..settings(url.as_str()) }
}

fn server(url: &str) -> SocketAddr {
    url.parse::<Url>().unwrap().socket_addrs(|| None).unwrap()[0]
}

#[tokio::test]
async fn a_pool_needs_no_server_to_be_made_and_its_calls_fail_in_time() {
    // Nothing listens on the first; the second takes connections and never says a word.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let calls = [closed, silent.local_addr().unwrap()].map(async |address| {
        let pool = store::connect(&settings(&format!("postgres://postroom:secret@{address}/postroom"))).unwrap();
        let start = Instant::now();
        let error = ping(&pool).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
        assert!(error.is_transient(), "{error:?}");
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_malformed_address_is_refused_without_repeating_it() {
    let error = store::connect(&settings("postgres//postroom:hunter2@db/postroom")).unwrap_err();
    assert!(matches!(error, DatabaseError::Address) && !error.is_transient());
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// A pool with one place and a connection in it, on a server that then goes silent.
async fn silenced(store: &TestStore, at_rest: bool) -> (PgPool, Proxy) {
    let proxy = Proxy::to(server(&store.database.url())).await;
    let pool = store::connect(&through(&proxy, &store.database.url())).unwrap();
    ping(&pool).await.unwrap();
    while at_rest && pool.num_idle() == 0 {
        tokio::task::yield_now().await;
    }
    proxy.freeze.send(()).unwrap();
    (pool, proxy)
}

#[tokio::test]
async fn a_call_to_a_server_that_went_silent_is_cut_off_and_frees_its_place_in_the_pool() {
    let store = TestStore::empty().await;
    let (pool, _proxy) = silenced(&store, true).await;
    // The clock jumps to the next deadline as soon as nothing else is left to do.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let error = ping(&pool).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    tokio::time::resume();
    assert!(matches!(error, DatabaseError::Deadline { .. }) && error.is_transient(), "{error:?}");
    // The pool has one place: without it back, this would fail.
    ping(&pool).await.expect("a new connection goes through");
}

#[tokio::test]
async fn a_call_whose_caller_gave_up_frees_its_place_in_the_pool() {
    let store = TestStore::empty().await;
    let (pool, _proxy) = silenced(&store, true).await;
    let gave_up = tokio::time::timeout(Duration::from_millis(50), ping(&pool)).await;
    assert!(gave_up.is_err());
    ping(&pool).await.expect("a new connection goes through");
}

#[tokio::test]
async fn a_server_that_goes_silent_while_a_connection_is_given_back_takes_no_place_in_the_pool() {
    let store = TestStore::empty().await;
    let (pool, _proxy) = silenced(&store, false).await;
    assert_eq!((pool.size(), pool.num_idle()), (1, 0), "it is on its way");
    tokio::time::pause();
    let freed = async {
        while pool.size() > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(10), freed).await;
    tokio::time::resume();
    freed.expect("the place is free");
    ping(&pool).await.expect("a new connection goes through");
}

#[tokio::test]
async fn connections_that_died_while_resting_are_replaced_unseen() {
    let store = TestStore::empty().await;
    let pool = store.pool.clone();
    ping(&pool).await.unwrap();
    let other = sqlx::PgPool::connect(&store.database.url()).await.unwrap();
    sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .execute(&other)
        .await
        .unwrap();
    // Only after a rest is a connection asked whether it lives.
    wait_until_rested().await;
    ping(&pool).await.expect("a fresh connection");
    other.close().await;
}

/// The pool measures rest by the system's clock, which no test can turn.
async fn wait_until_rested() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

async fn failure(pool: &PgPool, statements: &'static str) -> DatabaseError {
    let mut connection = pool.acquire().await.unwrap();
    let source = connection.execute(statements).await.unwrap_err();
    DatabaseError::Failed { action: "try the statements", source }
}

#[tokio::test]
async fn errors_that_pass_by_themselves_are_told_from_those_that_stay() {
    let store = TestStore::create().await;
    let pool = &store.pool;
    for (statements, transient) in [
        ("SET statement_timeout = '10ms'; SELECT pg_sleep(5)", true),
        ("SELECT * FROM not_migrated_yet", true),
        ("SELECT not_migrated_yet FROM jobs", true),
        ("SELECT pg_terminate_backend(pg_backend_pid())", true),
        ("SELECT 1 / 0", false),
        ("SELEKT 1", false),
        ("INSERT INTO users (id) VALUES (NULL)", false),
    ] {
        let outcome = failure(pool, statements).await;
        assert_eq!(outcome.is_transient(), transient, "{statements}: {outcome:?}");
    }
}

#[tokio::test]
async fn transactions_that_lost_against_another_may_be_tried_again() {
    let store = TestStore::create().await;
    sqlx::query("CREATE TABLE one (n integer)").execute(&store.pool).await.unwrap();
    sqlx::query("INSERT INTO one VALUES (1)").execute(&store.pool).await.unwrap();
    let mut loser = store.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query("SELECT n FROM one").execute(&mut *loser).await.unwrap();
    sqlx::query("UPDATE one SET n = 2").execute(&store.pool).await.unwrap();
    let source = sqlx::query("UPDATE one SET n = 3").execute(&mut *loser).await.unwrap_err();
    assert!(DatabaseError::Failed { action: "update the row", source }.is_transient());

    let mut holder = store.pool.begin().await.unwrap();
    sqlx::query("UPDATE one SET n = 4").execute(&mut *holder).await.unwrap();
    let error = failure(&store.pool, "SET lock_timeout = '10ms'; UPDATE one SET n = 5").await;
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_service_that_is_faster_than_the_migrations_tries_again() {
    let store = TestStore::empty().await;
    let error = find_job(&store.pool, Uuid::new_v4(), "alice").await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}
