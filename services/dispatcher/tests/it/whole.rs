//! The program itself: settings, health, signals.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use backing::redis_url;
use pipeline::topology;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::fixture::{Fixture, QUEUE};

/// Where nothing listens.
const NO_REDIS: &str = "redis://a:b@127.0.0.1:1";

/// A dispatcher process; killed with this.
struct Program {
    child: Child,
    health: SocketAddr,
}

impl Program {
    fn start(fixture: &Fixture, broker_url: &str, database_url: &str, redis_url: &str) -> Self {
        let health = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
            .env_clear()
            .env("POSTROOM__HEALTH__LISTEN", health.to_string())
            .env("POSTROOM__BROKER__URL", broker_url)
            .env("POSTROOM__DATABASE__URL", database_url)
            .env("POSTROOM__REDIS__CACHE__URL", redis_url)
            .env("POSTROOM__REDIS__CACHE__PREFIX", "test-dispatcher")
            .env("POSTROOM__FILES__URL", fixture.directory.url())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, health }
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let response = reqwest::get(format!("http://{}{path}", self.health)).await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    /// Asks it to end; its exit code and all that it said.
    async fn terminate(self) -> (Option<i32>, String) {
        let process = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(process).status().await.unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.child.wait_with_output());
        let output = ended.await.expect("it does not end").unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }
}

#[tokio::test]
async fn the_program_sends_what_is_due_counts_it_and_ends_well() {
    let fixture = Fixture::new().await;
    let program =
        Program::start(&fixture, &fixture.vhost.url("dispatcher"), &fixture.database.url(), &redis_url("cache"));
    let ready = || async { program.get("/readyz").await.is_some_and(|(status, _)| status == 200) };
    fixture.vhost.wait("ready", ready).await;
    let parts: Value = serde_json::from_str(&program.get("/readyz").await.unwrap().1).unwrap();
    assert_eq!((&parts["publishing"], &parts["database"]), (&json!("connected"), &json!("listening")), "{parts}");
    assert_eq!(parts["redis-cache"], "connected", "{parts}");

    fixture.execute("INSERT INTO cache_invalidations (entry) VALUES ('thing:1:a')").await;
    fixture.put(3).await;
    fixture.take(3).await;
    fixture.wait_sent(3).await;
    let counted = || async {
        let metrics = program.get("/metrics").await.unwrap().1;
        [
            "outbox_sent_total 3",
            "outbox_failed_total 0",
            "outbox_due 0",
            r#"cache_invalidations_total{outcome="done"} 1"#,
            "cache_invalidations_waiting 0",
            "cache_invalidations_oldest_seconds 0",
            r#"schedule_firings_total{outcome="missed"} 0"#,
        ]
        .iter()
        .all(|wanted| metrics.lines().any(|line| line == *wanted))
    };
    fixture.vhost.wait("the metrics", counted).await;
    let (code, log) = program.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("\"message\":\"sent\"") && !log.contains("alice@shop.example"), "{log}");
    fixture.finish().await;
}

#[tokio::test]
async fn without_redis_the_program_sends_what_is_due_and_counts_what_waits() {
    let fixture = Fixture::new().await;
    fixture.execute("INSERT INTO cache_invalidations (entry) VALUES ('thing:1:a'), ('thing:1:b')").await;
    let program = Program::start(&fixture, &fixture.vhost.url("dispatcher"), &fixture.database.url(), NO_REDIS);
    fixture.put(3).await;
    fixture.wait_sent(3).await;
    fixture.take(3).await;
    let counted = || async {
        let metrics = program.get("/metrics").await.unwrap().1;
        metrics.lines().any(|line| line == "cache_invalidations_waiting 2")
    };
    fixture.vhost.wait("the metrics", counted).await;
    let (status, parts) = program.get("/readyz").await.unwrap();
    let parts: Value = serde_json::from_str(&parts).unwrap();
    assert_eq!((status, &parts["redis-cache"]), (503, &json!("reconnecting")), "{parts}");
    let (code, log) = program.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    fixture.finish().await;
}

#[tokio::test]
async fn without_broker_and_database_the_program_lives_says_so_and_ends_well() {
    let fixture = Fixture::new().await;
    let program = Program::start(&fixture, "amqp://a:b@127.0.0.1:1/none", "postgres://a:b@127.0.0.1:1/none", NO_REDIS);
    let alive = || async { program.get("/livez").await.is_some_and(|(status, _)| status == 200) };
    fixture.vhost.wait("alive", alive).await;
    let (status, parts) = program.get("/readyz").await.unwrap();
    let parts: Value = serde_json::from_str(&parts).unwrap();
    assert_eq!(status, 503);
    for part in ["publishing", "database"] {
        assert!(parts[part].as_str().unwrap().starts_with("reconnecting"), "{parts}");
    }
    let (code, log) = program.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    fixture.vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_program_that_ends_leaves_no_row_half_sent() {
    let fixture = Fixture::new().await;
    fixture.put(200).await;
    let program =
        Program::start(&fixture, &fixture.vhost.url("dispatcher"), &fixture.database.url(), &redis_url("cache"));
    let begun = || async { fixture.vhost.ready(QUEUE).await.unwrap_or_default() > 0 };
    fixture.vhost.wait("it has begun to send", begun).await;
    let (code, log) = program.terminate().await;
    assert_eq!(code, Some(0), "{log}");
    let marked = fixture.count("SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL").await;
    assert_eq!(
        fixture.vhost.ready(QUEUE).await.map(i64::from),
        Some(marked),
        "every message is marked, and only those"
    );
    fixture.vhost.purge(QUEUE).await;
    fixture.vhost.purge(topology::TRACKER_LIFECYCLE).await;
    fixture.vhost.finish(&[]).await;
}
