//! What a caller and a reader of mail do, and what whoever looks into the database and the broker sees.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Decode, PgConnection, Postgres, Type};
use tokio::time::Instant;
use uuid::Uuid;

use backing::containers::copies_of;

/// Long enough for a retry on a loaded machine; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(180);

/// Where the copies of web are published.
const WEB_PORTS: [&str; 2] = ["POSTROOM_WEB_PORT", "POSTROOM_WEB_2_PORT"];

/// A caller of the HTTP API.
pub(crate) struct Caller {
    client: Client,
    token: &'static str,
    /// The one copy of web that it asks; else each in turn, as through a load balancer.
    web: Option<usize>,
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

/// An address of web; each time another copy's.
pub(crate) fn url(path: &str) -> String {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    url_of(ASKED.fetch_add(1, Ordering::Relaxed) % WEB_PORTS.len(), path)
}

fn url_of(web: usize, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", backing::composed(WEB_PORTS[web]))
}

/// The body that asks for a sales report.
pub(crate) fn sales(from: &str, to: &str) -> Value {
    json!({"report": "sales", "period": {"from": from, "to": to}})
}

impl Caller {
    pub(crate) fn new(token: &'static str) -> Self {
        // Web closes a connection that rests for 5 s; one that is used in that very moment would break off.
        let client = Client::builder().timeout(DEADLINE).pool_idle_timeout(Duration::from_secs(2));
        Self { client: client.build().unwrap(), token, web: None }
    }

    /// The same caller, who asks one copy of web only: 0 or 1.
    pub(crate) fn at(self, web: usize) -> Self {
        Self { web: Some(web), ..self }
    }

    fn url(&self, path: &str) -> String {
        self.web.map_or_else(|| url(path), |web| url_of(web, path))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).bearer_auth(self.token).send().await.expect("web answers")
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Response {
        self.client.post(self.url(path)).bearer_auth(self.token).json(body).send().await.expect("web answers")
    }

    pub(crate) async fn delete(&self, path: &str) -> Response {
        self.client.delete(self.url(path)).bearer_auth(self.token).send().await.expect("web answers")
    }

    /// Sends any body as any content type.
    pub(crate) async fn post_raw(&self, path: &str, content_type: &str, body: Vec<u8>) -> Response {
        let request =
            self.client.post(self.url(path)).bearer_auth(self.token).header("content-type", content_type).body(body);
        request.send().await.expect("web answers")
    }

    /// Asks for a report; its id. The Location of the `202` must be there from the first moment.
    pub(crate) async fn accepted(&self, body: &Value) -> String {
        self.accepted_at("/v1/reports", body).await
    }

    /// Orders; the order's id, which is its job's.
    pub(crate) async fn ordered(&self, body: &Value) -> String {
        self.accepted_at("/v1/orders", body).await
    }

    async fn accepted_at(&self, path: &str, body: &Value) -> String {
        let response = self.post(path, body).await;
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
            let request = self
                .client
                .get(self.url(&format!("/v1/jobs/{id}")))
                .bearer_auth(self.token)
                .header("prefer", "wait=10");
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

    /// The job, asked for once, as soon as it is final or the wait is over.
    pub(crate) async fn waited(&self, id: &str, seconds: u32) -> Value {
        let request = self.client.get(self.url(&format!("/v1/jobs/{id}"))).bearer_auth(self.token);
        let response = request.header("prefer", format!("wait={seconds}")).send().await.expect("web answers");
        assert_eq!(response.headers()["preference-applied"], format!("wait={seconds}"));
        response.json().await.unwrap()
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
        let mut request = self.client.get(self.url(&format!("/v1/jobs/{id}/events"))).bearer_auth(self.token);
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

/// Somebody with an account, by a session.
pub(crate) struct Member {
    client: Client,
    cookie: String,
}

impl Member {
    /// Makes an account and signs in to it.
    pub(crate) async fn sign_in() -> Self {
        let client = Client::builder().timeout(DEADLINE).pool_idle_timeout(Duration::from_secs(2)).build().unwrap();
        let (email, password) = (format!("{}@shop.example", Uuid::new_v4().simple()), "correct horse battery");
        let account = json!({"name": "Ada", "email": email, "password": password, "country": "DE"});
        let registered = client.post(url("/v1/register")).json(&account).send().await.expect("web answers");
        assert_eq!(registered.status(), StatusCode::ACCEPTED);
        let credentials = json!({"email": email, "password": password});
        let response = client.post(url("/v1/login")).json(&credentials).send().await.expect("web answers");
        assert_eq!(response.status(), StatusCode::OK);
        let cookie = response.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        Self { client, cookie }
    }

    /// What a copy of web, 0 or 1, answers to the session.
    pub(crate) async fn status_at(&self, web: usize) -> StatusCode {
        let request = self.client.get(url_of(web, "/v1/tokens")).header("cookie", &self.cookie);
        request.send().await.expect("web answers").status()
    }
}

/// What each run of a job told, the first run first.
pub(crate) fn runs(job: &Value) -> Vec<Vec<&str>> {
    let timeline = job["timeline"].as_array().expect("a timeline").iter().filter(|run| run["run_id"].is_string());
    let events = timeline.map(|run| run["events"].as_array().expect("its events").iter());
    events.map(|events| events.filter_map(|event| event["type"].as_str()).collect()).collect()
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

/// Every mail that a job asked for.
pub(crate) async fn mails_of(job: &str) -> Vec<Value> {
    let mail = Uuid::new_v5(&job.parse().unwrap(), b"email.send").to_string();
    let all: Value = Client::new().get(mail_url("/email")).send().await.unwrap().json().await.unwrap();
    let is_its = |received: &&Value| received["headers"]["message-id"].as_str().is_some_and(|id| id.contains(&mail));
    all.as_array().unwrap().iter().filter(is_its).cloned().collect()
}

/// The mails that a job asked for, once there is one.
pub(crate) async fn sent_mail(job: &str) -> Vec<Value> {
    let end = Instant::now() + DEADLINE;
    loop {
        let mails = mails_of(job).await;
        if !mails.is_empty() {
            return mails;
        }
        assert!(Instant::now() < end, "no mail of {job}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until no job is ready, delayed or being done.
pub(crate) async fn all_work_done() {
    let end = Instant::now() + DEADLINE;
    loop {
        let list = ["rabbitmqctl", "--quiet", "list_queues", "--vhost", "postroom", "name", "messages"];
        let list = copies_of("rabbitmq").run(&list);
        let busy = list.lines().filter(|line| {
            let (queue, count) = line.split_once('\t').unwrap_or_default();
            // In a lane or a delay; what died lies still.
            let works = ["report.", "email.", "order.", "video."].iter().any(|worker| queue.starts_with(worker));
            works && !queue.ends_with(".dead") && count != "0"
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
    PgConnection::connect(&backing::database_url("postroom")).await.expect("PostgreSQL answers")
}

/// The id of the user with an address.
pub(crate) async fn user_of(email: &str) -> String {
    let user = sqlx::query_scalar("SELECT id::text FROM users WHERE email = $1").bind(email);
    user.fetch_one(&mut database().await).await.unwrap()
}

/// Asks the database until it has an answer about one id.
async fn known<T>(query: &'static str, id: &str) -> T
where
    T: Send + Unpin + for<'row> Decode<'row, Postgres> + Type<Postgres>,
{
    let end = Instant::now() + DEADLINE;
    let mut database = database().await;
    loop {
        if let Some(answer) = sqlx::query_scalar(query).bind(id).fetch_optional(&mut database).await.unwrap() {
            return answer;
        }
        assert!(Instant::now() < end, "no row for {id}: {query}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Which process began the first run of a job, once it told: `<service>@<host>:<process id>`.
pub(crate) async fn who_began(id: &str) -> String {
    known(
        "SELECT worker FROM job_events WHERE job_id = $1::uuid AND event_type = 'job.started' ORDER BY number LIMIT 1",
        id,
    )
    .await
}

/// Waits until the worker that sent a mail has noted that.
pub(crate) async fn noted_as_sent(mail: &Value) {
    let message_id = mail["headers"]["message-id"].as_str().expect("a Message-ID");
    let job = message_id.trim_start_matches('<').split('@').next().expect("the id of its job");
    let _: bool = known("SELECT true FROM sent_mails WHERE job_id = $1::uuid AND sent_at IS NOT NULL", job).await;
}

/// The broker refuses every event of a type, until the connection is closed: a queue that takes nothing is bound for it.
pub(crate) async fn refuse_events(event: &str) -> lapin::Connection {
    let (connection, channel) = backing::connect(&backing::broker_url("postroom", "operator")).await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let queue = channel.queue_declare("".into(), options, arguments).await.unwrap();
    let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
    let exchange = "postroom.events".into();
    channel.queue_bind(queue.name().clone(), exchange, event.into(), options, arguments).await.unwrap();
    connection
}
