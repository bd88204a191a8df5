//! The program itself: settings, health, logs, signals.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::harness::{
    ALICE, ALICE_ID, DEADLINE, closed_port, database, finish_tracked, november, redis, sid, vhost, wait,
};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_web"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let settings = [
        ("BROKER__URL", "amqp://a:b@127.0.0.1:1/none"),
        ("DATABASE__URL", "postgres://a:b@127.0.0.1:1/none"),
        ("REDIS__CACHE__URL", "redis://a:b@127.0.0.1:1"),
        ("HTTP__LISTEN", "127.0.0.1:0"),
        ("HEALTH__LISTEN", "127.0.0.1:0"),
        ("LINKS__SECRET", "a secret of at least 32 bytes ..."),
        (
            "LOG__FILTER",
            "info,web=trace,service=trace,hyper=trace,tower_http=trace,sqlx=trace,redis=trace,tower_sessions=trace,tower_sessions_core=trace",
        ),
        ("REDIS__DURABLE__URL", "redis://a:b@127.0.0.1:1"),
    ];
    for (name, value) in settings {
        command.env(format!("POSTROOM__{name}"), value);
    }
    command
}

async fn end(child: &mut Child) -> (ExitStatus, String) {
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).await.unwrap();
    (timeout(DEADLINE, child.wait()).await.expect("the program ends").unwrap(), text)
}

async fn part(client: &Client, health: SocketAddr, name: &str) -> Option<String> {
    let ready: Value = client.get(format!("http://{health}/readyz")).send().await.ok()?.json().await.ok()?;
    ready[name].as_str().map(str::to_owned)
}

#[tokio::test]
async fn the_program_starts_takes_work_tells_no_secret_and_ends_well() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let (http, health) = (closed_port(), closed_port());
    let folder = backing::Directory::new();
    let mut child = program()
        .env("POSTROOM__BROKER__URL", vhost.url("web"))
        .env("POSTROOM__DATABASE__URL", database.url())
        .env("POSTROOM__FILES__URL", folder.url())
        .env("POSTROOM__REDIS__CACHE__URL", backing::redis_url("cache"))
        .env("POSTROOM__REDIS__DURABLE__URL", backing::redis_url("durable"))
        .env("POSTROOM__REDIS__DURABLE__PREFIX", redis().prefix)
        .env("POSTROOM__HTTP__LISTEN", http.to_string())
        .env("POSTROOM__HEALTH__LISTEN", health.to_string())
        .spawn()
        .unwrap();
    let client = Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
    for (name, state) in [
        ("publishing", "connected"),
        ("tracking", "consuming"),
        ("database", "listening"),
        ("redis-cache", "connected"),
        ("redis-durable", "connected"),
    ] {
        wait(name, async || part(&client, health, name).await.as_deref() == Some(state)).await;
    }

    let ask =
        |token: &str| client.post(format!("http://{http}/v1/reports")).bearer_auth(token).json(&november()).send();
    assert_eq!(ask("a-token-canary-that-is-nobodys").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let accepted = ask(ALICE).await.unwrap();
    assert_eq!(accepted.status(), StatusCode::ACCEPTED);
    let job = format!("http://{http}{}", accepted.headers()["location"].to_str().unwrap());
    wait("the event is tracked", async || {
        let job: Value = client.get(&job).bearer_auth(ALICE).send().await.unwrap().json().await.unwrap();
        job["timeline"][0]["events"][0]["type"] == "job.queued"
    })
    .await;
    let link =
        format!("http://{http}/v1/reports/{}/pdf?expires=99999999999&signature=0123canary", uuid::Uuid::now_v7());
    assert_eq!(client.get(link).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let post = |path: &str, body: Value| client.post(format!("http://{http}{path}")).json(&body);
    let registration = json!({"name": "Ada Canary", "email": "ada.canary@shop.example", "password": "password canary", "country": "DE"});
    for wrong in [json!({"password": "canary"}), registration.clone()] {
        post("/v1/register", wrong).send().await.unwrap();
    }
    let login =
        |password: &str| post("/v1/login", json!({"email": "ada.canary@shop.example", "password": password})).send();
    assert_eq!(login("wrong canary").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let sid = sid(&login("password canary").await.unwrap()).unwrap();
    let made = post("/v1/tokens", json!({"name": "canary", "scopes": ["jobs:read"]}))
        .header("cookie", format!("__Host-sid={sid}"));
    let made: Value = made.send().await.unwrap().json().await.unwrap();
    let token = made["token"].as_str().unwrap();
    let metrics = client.get(format!("http://{health}/metrics")).send().await.unwrap().text().await.unwrap();
    for line in [
        r#"http_requests_total{route="/v1/reports",status="202"} 1"#,
        r#"http_requests_total{route="/v1/reports",status="401"} 1"#,
        r#"http_request_seconds_count{route="/v1/reports/{id}/pdf"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }

    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let (status, log) = end(&mut child).await;
    assert!(status.success(), "{status}: {log}");
    assert!(
        log.contains(r#""http.route":"/v1/reports""#) && log.contains(&format!(r#""caller.id":"{ALICE_ID}""#)),
        "{log}"
    );
    for secret in [ALICE, &sid, token, "$argon2id", "canary", "Canary", "2025-11-01", "a secret of at"] {
        assert!(!log.contains(secret), "the log tells \"{secret}\": {log}");
    }
    finish_tracked(vhost, ("report.normal", 1)).await;
}

#[tokio::test]
async fn settings_that_cannot_be_meant_end_the_program_and_are_named() {
    let rows = [
        ("POSTROOM__REDIS__DURABLE__PREFIXES", "two", "prefixes"),
        ("POSTROOM__LINKS__SECRET", "short", "links.secret"),
        ("POSTROOM__HTTP__LISTEN", "8080", "POSTROOM__HTTP__LISTEN"),
        ("POSTROOM__DATABASE__URL", "not-a-url", "database.url"),
        ("POSTROOM__REDIS__CACHE__URL", "not-a-url", "redis.cache"),
        ("POSTROOM__REDIS__DURABLE__URL", "not-a-url", "redis.durable"),
        ("POSTROOM__HTTP__TRUSTED_PROXIES", "10.0.0.1,a-proxy", "POSTROOM__HTTP__TRUSTED_PROXIES"),
        ("POSTROOM__LIMITS__REQUESTS_PER_MINUTE", "0", "limits.requests_per_minute"),
    ];
    for (name, value, told) in rows {
        let folder = backing::Directory::new();
        let mut child = program().env("POSTROOM__FILES__URL", folder.url()).env(name, value).spawn().unwrap();
        let (status, log) = end(&mut child).await;
        assert!(!status.success(), "{name}: {log}");
        assert!(log.contains(told), "{name}: \"{told}\" is not in: {log}");
    }
}
