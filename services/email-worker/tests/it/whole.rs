//! The program itself: a job from the real RabbitMQ, its mail in the real SMTP server.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use backing::{Vhost, replay};
use pipeline::jobs::{EmailAddress, Job, SendEmail};
use pipeline::{Broker, BrokerSettings, BrokerState, OutgoingJob, topology};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::fixture::{self, Fixture};

/// A worker process; killed with this.
pub(crate) struct Worker {
    child: Child,
    health: SocketAddr,
}

impl Worker {
    fn start(fixture: &Fixture, vhost: &Vhost, smtp: &str) -> Self {
        Self::start_at(1.0, &fixture.database_url(), fixture, vhost, smtp)
    }

    pub(crate) fn start_at(time_scale: f64, database: &str, fixture: &Fixture, vhost: &Vhost, smtp: &str) -> Self {
        let health = free_address();
        let child = Command::new(env!("CARGO_BIN_EXE_email-worker"))
            .env_clear()
            .env("POSTROOM__LOG__FORMAT", "pretty")
            .env("POSTROOM__HEALTH__LISTEN", health.to_string())
            .env("POSTROOM__BROKER__URL", vhost.url("email-worker"))
            .env("POSTROOM__BROKER__TIME_SCALE", time_scale.to_string())
            .env("POSTROOM__DATABASE__URL", database)
            .env("POSTROOM__FILES__URL", fixture.directory.url())
            .env("POSTROOM__LINKS__SECRET", fixture::SECRET)
            .env("POSTROOM__SMTP__URL", smtp)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, health }
    }

    /// What `/readyz` says; `None` while nobody answers.
    pub(crate) async fn ready(&self) -> Option<(u16, Value)> {
        let response = reqwest::get(format!("http://{}/readyz", self.health)).await.ok()?;
        Some((response.status().as_u16(), response.json().await.ok()?))
    }

    pub(crate) async fn metrics(&self) -> String {
        reqwest::get(format!("http://{}/metrics", self.health)).await.unwrap().text().await.unwrap()
    }

    /// Asks it to end; its exit code, standard output and standard error.
    pub(crate) async fn terminate(self) -> (Option<i32>, String, String) {
        let process = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(process).status().await.unwrap().success());
        let output = tokio::time::timeout(Duration::from_secs(30), self.child.wait_with_output())
            .await
            .expect("it does not end")
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub(crate) fn smtp() -> String {
    format!("smtp://127.0.0.1:{}", backing::composed("POSTROOM_SMTP_PORT"))
}

async fn api(path: &str) -> reqwest::Response {
    let url = format!("http://127.0.0.1:{}/api/email{path}", backing::composed("POSTROOM_MAIL_PORT"));
    let response = reqwest::get(url).await.expect("the mail server does not answer: start it with `compose/up mail`");
    response.error_for_status().unwrap()
}

/// The mails to an address that the server shows.
pub(crate) async fn mails_to(address: &EmailAddress) -> Vec<Value> {
    let mails: Vec<Value> = api("").await.json().await.unwrap();
    mails.into_iter().filter(|mail| mail["to"][0]["address"] == address.as_str()).collect()
}

async fn publish(vhost: &Vhost, id: Uuid, payload: &SendEmail) {
    publish_at(1.0, vhost, &[(id, payload)]).await;
}

pub(crate) async fn publish_at(time_scale: f64, vhost: &Vhost, jobs: &[(Uuid, &SendEmail)]) {
    let settings: BrokerSettings = serde_json::from_value(
        json!({"url": vhost.url("pdf-report"), "time_scale": time_scale, "queue_length": 200_000}),
    )
    .unwrap();
    let broker = Broker::start(&settings, "pdf-report").unwrap();
    let state = broker.publishing_state();
    vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
    for (id, payload) in jobs {
        let owner = Some("alice".to_owned());
        let job = OutgoingJob { owner, ..OutgoingJob::new(*id, SendEmail::clone(payload)) };
        broker.publisher().publish_job(&job).await.unwrap();
    }
    broker.close().await;
}

#[tokio::test]
async fn a_job_from_the_broker_becomes_a_mail_in_the_inbox() {
    let (fixture, vhost) = (Fixture::new().await, Vhost::create(&topology::definitions()).await);
    let worker = Worker::start(&fixture, &vhost, &smtp());
    vhost.wait("ready", || async { worker.ready().await.is_some_and(|(status, _)| status == 200) }).await;
    let parts = worker.ready().await.unwrap().1;
    assert_eq!((&parts["consuming"], &parts["publishing"]), (&json!("consuming"), &json!("connected")), "{parts}");
    let mut events = vhost.listen(topology::EVENTS, "job.succeeded").await;

    let pdf: Vec<u8> =
        b"%PDF-1.7\n".iter().copied().chain((0..200_000).map(|place| (place * 31 % 251) as u8)).collect();
    let (id, job) = (Uuid::new_v4(), fixture.job(pdf.clone()).await);
    publish(&vhost, id, &job).await;
    let (_, event) = events.next_json().await;
    assert_eq!(event["job"], json!({"id": id, "kind": "email.send", "owner": "alice"}));
    assert_eq!(event["result"], json!({"message_id": format!("<{id}@shop.example>")}));

    let mails = mails_to(&job.to.address).await;
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert_eq!(mail["subject"], "Your report is ready: Sales report");
    assert_eq!(mail["from"][0]["address"], "postroom@shop.example");
    assert_eq!(mail["to"][0]["name"], "Alice Müller");
    assert_eq!(mail["headers"]["auto-submitted"], "auto-generated");
    assert_eq!(mail["headers"]["message-id"], format!("<{id}@shop.example>"));
    assert!(mail["text"].as_str().unwrap().contains("Pages:   12"));
    assert!(mail["html"].as_str().unwrap().contains("Download the report (PDF)"));
    let file = &mail["attachments"][0];
    assert_eq!(
        (&file["contentType"], &file["filename"]),
        (&json!("application/pdf"), &json!("sales 2025-01-01 to 2025-03-31.pdf"))
    );
    let (mail, file) = (mail["id"].as_str().unwrap(), file["generatedFileName"].as_str().unwrap());
    let arrived = api(&format!("/{mail}/attachment/{file}")).await.bytes().await.unwrap();
    assert!(arrived == pdf, "{} bytes arrived of {}", arrived.len(), pdf.len());

    // The same job once more: done, and no second mail.
    publish(&vhost, id, &job).await;
    let (_, again) = events.next_json().await;
    assert_eq!(again["result"], event["result"]);
    assert_eq!(mails_to(&job.to.address).await.len(), 1);
    let metrics = worker.metrics().await;
    for line in
        ["mails_total{outcome=\"sent\"} 1", "mails_total{outcome=\"already_sent\"} 1", "mail_maybe_sent_total 0"]
    {
        assert!(metrics.lines().any(|shown| shown == line), "no {line} in\n{metrics}");
    }

    let (code, log, errors) = worker.terminate().await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(
        log.contains("mail sent") && !log.contains(job.to.address.as_str()) && !log.contains("signature="),
        "{log}"
    );
    // Nobody tracks here.
    let told = vhost.ready(topology::TRACKER_LIFECYCLE).await.unwrap();
    vhost.finish(&[(topology::TRACKER_LIFECYCLE, told)]).await;
}

#[tokio::test]
async fn a_replay_of_a_mail_that_was_sent_sends_none() {
    let (fixture, vhost) = (Fixture::new().await, Vhost::create(&topology::definitions()).await);
    let worker = Worker::start(&fixture, &vhost, &smtp());
    vhost.wait("ready", || async { worker.ready().await.is_some_and(|(status, _)| status == 200) }).await;
    let mut messages = vhost.listen(&topology::jobs_exchange(SendEmail::KIND), "normal").await;
    let mut events = vhost.listen(topology::EVENTS, "job.succeeded").await;
    let (id, job) = (Uuid::new_v4(), fixture.job(b"%PDF-1.7".to_vec()).await);
    publish(&vhost, id, &job).await;
    let (_, first) = events.next_json().await;
    replay(vhost.channel(), &messages.next().await, "email.normal").await;
    let (_, again) = events.next_json().await;
    assert_eq!((&first["run"]["replays"], &again["run"]["replays"]), (&json!(0), &json!(1)));
    assert_eq!((&again["job"], &again["result"]), (&first["job"], &first["result"]));
    assert_eq!(mails_to(&job.to.address).await.len(), 1);
    worker.terminate().await;
    vhost.purge(topology::TRACKER_LIFECYCLE).await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn a_relay_that_asks_for_tls_is_an_error_at_start_that_names_the_setting() {
    let (fixture, vhost) = (Fixture::new().await, Vhost::create(&topology::definitions()).await);
    let worker = Worker::start(&fixture, &vhost, "smtps://user:secret@relay.example");
    let output = tokio::time::timeout(Duration::from_secs(30), worker.child.wait_with_output())
        .await
        .expect("it does not end")
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("TLS to the relay is not supported") && errors.contains("POSTROOM__SMTP__URL"), "{errors}");
    assert!(!errors.contains("secret"), "{errors}");
    vhost.finish(&[]).await;
}
