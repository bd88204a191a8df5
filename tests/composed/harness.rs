//! What a caller, a reader of mail and an operator do.

use std::process::{Command, Output};
use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

/// Long enough for a retry on a loaded machine; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// A caller of the HTTP API.
pub(crate) struct Caller {
    client: Client,
    token: &'static str,
}

/// One server-sent event.
#[derive(Clone, Debug)]
pub(crate) struct SentEvent {
    pub(crate) id: u64,
    pub(crate) event: String,
}

pub(crate) fn alice() -> Caller {
    Caller::new(backing::composed("POSTROOM_TOKEN_ALICE"))
}

pub(crate) fn bob() -> Caller {
    Caller::new(backing::composed("POSTROOM_TOKEN_BOB"))
}

pub(crate) fn url(path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", backing::composed("POSTROOM_WEB_PORT"))
}

/// The body that asks for a sales report.
pub(crate) fn sales(from: &str, to: &str) -> Value {
    json!({"report": "sales", "period": {"from": from, "to": to}})
}

impl Caller {
    pub(crate) fn new(token: &'static str) -> Self {
        Self { client: Client::builder().timeout(DEADLINE).build().unwrap(), token }
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(url(path)).bearer_auth(self.token).send().await.expect("web answers")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(url(path)).bearer_auth(self.token).json(body).send().await.expect("web answers")
    }

    /// Sends any body as any content type.
    pub(crate) async fn post_raw(&self, path: &str, content_type: &str, body: Vec<u8>) -> Response {
        let request =
            self.client.post(url(path)).bearer_auth(self.token).header("content-type", content_type).body(body);
        request.send().await.expect("web answers")
    }

    /// Asks for a report; its id. The Location of the `202` must be there from the first moment.
    pub(crate) async fn accepted(&self, body: &Value) -> String {
        let response = self.post("/v1/reports", body).await;
        let status = response.status();
        let location = response.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
        let text = response.text().await.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
        let location = location.expect("a Location");
        assert_eq!(self.get(&location).await.status(), StatusCode::OK, "{location}");
        location.rsplit('/').next().unwrap().to_owned()
    }

    pub(crate) async fn job(&self, id: &str) -> Value {
        let response = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    /// The job once it is in a final state.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let request =
                self.client.get(url(&format!("/v1/jobs/{id}"))).bearer_auth(self.token).header("prefer", "wait=10");
            if let Ok(response) = request.send().await
                && response.status() == StatusCode::OK
            {
                let job: Value = response.json().await.unwrap();
                if ["succeeded", "refused", "dead", "cancelled"].contains(&job["state"].as_str().unwrap()) {
                    return job;
                }
                assert!(Instant::now() < end, "the job has not ended: {job:#}");
            } else {
                assert!(Instant::now() < end, "the job's state cannot be read");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// The job's events until the stream ends by itself.
    pub(crate) async fn events(&self, id: &str, after: Option<u64>) -> Vec<SentEvent> {
        let mut events = Vec::new();
        self.each_event(id, after, |event| {
            events.push(event.clone());
            true
        })
        .await;
        events
    }

    /// Hears the job's events until `go_on` says no, or the stream ends.
    pub(crate) async fn each_event(&self, id: &str, after: Option<u64>, mut go_on: impl FnMut(&SentEvent) -> bool) {
        let mut request = self.client.get(url(&format!("/v1/jobs/{id}/events"))).bearer_auth(self.token);
        if let Some(after) = after {
            request = request.header("last-event-id", after.to_string());
        }
        let response = request.send().await.expect("web answers");
        assert_eq!(
            response.headers()["content-type"].to_str().unwrap().split(';').next().unwrap(),
            "text/event-stream"
        );
        let mut stream = response.bytes_stream();
        let mut text = String::new();
        while let Some(chunk) = stream.next().await {
            text.push_str(std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap());
            while let Some(end) = text.find("\n\n") {
                let block: String = text.drain(..end + 2).collect();
                if let Some(event) = parse_event(&block)
                    && !go_on(&event)
                {
                    return;
                }
            }
        }
    }

    /// The report's PDF.
    pub(crate) async fn pdf(&self, id: &str) -> Vec<u8> {
        let response = self.get(&format!("/v1/reports/{id}/pdf")).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/pdf");
        response.bytes().await.unwrap().to_vec()
    }
}

fn parse_event(block: &str) -> Option<SentEvent> {
    let field =
        |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_start);
    Some(SentEvent { id: field("id")?.parse().unwrap(), event: field("event")?.to_owned() })
}

/// Every mail that speaks of a report, as the mail server received it.
pub(crate) async fn mails_about(report: &str) -> Vec<Value> {
    let all: Value = Client::new().get(mail_url("/email")).send().await.unwrap().json().await.unwrap();
    let speaks = |mail: &&Value| {
        ["text", "html"].iter().any(|part| mail[part].as_str().is_some_and(|text| text.contains(report)))
    };
    all.as_array().unwrap().iter().filter(speaks).cloned().collect()
}

/// The mails that speak of a report, once there is one.
pub(crate) async fn mail_arrived(report: &str) -> Vec<Value> {
    let end = Instant::now() + DEADLINE;
    loop {
        let mails = mails_about(report).await;
        if !mails.is_empty() {
            return mails;
        }
        assert!(Instant::now() < end, "no mail about {report}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until no job is ready, delayed or being done.
pub(crate) async fn all_work_done() {
    let end = Instant::now() + DEADLINE;
    loop {
        let broker = Container("rabbitmq").name();
        let list = run(
            "docker",
            &["exec", &broker, "rabbitmqctl", "--quiet", "list_queues", "--vhost", "postroom", "name", "messages"],
        );
        let list = String::from_utf8(list.stdout).unwrap();
        let busy = list.lines().filter(|line| {
            let (queue, count) = line.split_once('\t').unwrap_or_default();
            ["report.normal", "email.normal", "report.delay.", "email.delay."]
                .iter()
                .any(|part| queue.starts_with(part))
                && count != "0"
        });
        if list.contains("report.normal") && busy.count() == 0 {
            return;
        }
        assert!(Instant::now() < end, "work is left: {list}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The bytes of a mail's first attachment.
pub(crate) async fn attachment(mail: &Value) -> Vec<u8> {
    let (id, name) = (mail["id"].as_str().unwrap(), mail["attachments"][0]["generatedFileName"].as_str().unwrap());
    let response = Client::new().get(mail_url(&format!("/email/{id}/attachment/{name}"))).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.bytes().await.unwrap().to_vec()
}

fn mail_url(path: &str) -> String {
    format!("http://127.0.0.1:{}/api{path}", backing::composed("POSTROOM_MAIL_PORT"))
}

/// The composed database.
pub(crate) async fn database() -> PgConnection {
    let (password, port) =
        (backing::composed("POSTROOM_DATABASE_PASSWORD"), backing::composed("POSTROOM_POSTGRES_PORT"));
    PgConnection::connect(&format!("postgres://postroom:{password}@127.0.0.1:{port}/postroom"))
        .await
        .expect("PostgreSQL answers")
}

/// Runs a program to its end; its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A container of the composed system.
pub(crate) struct Container(pub(crate) &'static str);

impl Container {
    fn name(&self) -> String {
        #[expect(clippy::disallowed_methods, reason = "compose reads it too")]
        let project = std::env::var("COMPOSE_PROJECT_NAME").unwrap_or_else(|_| "postroom".to_owned());
        format!("{project}-{}-1", self.0)
    }

    /// Ends it with no chance to say a word.
    pub(crate) fn kill(&self) {
        run("docker", &["kill", "--signal", "KILL", &self.name()]);
    }

    /// Asks it to end, as an orchestrator would, and waits; its exit code.
    pub(crate) fn stop(&self) -> i32 {
        run("docker", &["stop", "--time", "30", &self.name()]);
        self.inspect("{{.State.ExitCode}}").parse().unwrap()
    }

    pub(crate) fn start(&self) {
        run("docker", &["start", &self.name()]);
    }

    fn inspect(&self, what: &str) -> String {
        let output = run("docker", &["inspect", "--format", what, &self.name()]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Waits until its health check is content.
    pub(crate) async fn healthy(&self) {
        let end = Instant::now() + DEADLINE;
        while self.inspect("{{.State.Health.Status}}") != "healthy" {
            assert!(Instant::now() < end, "{} is not healthy", self.0);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}
