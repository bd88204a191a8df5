//! A virtual host of its own for one test, with the product's users and their permissions.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, Consumer};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// Long enough for a loaded machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const NO_ANSWER: &str = "RabbitMQ does not answer: start it with `compose/up rabbitmq postgres mail`";

/// A virtual host, deleted when this is dropped. [`Vhost::finish`] fails the test that left messages behind.
#[derive(Debug)]
pub struct Vhost {
    name: String,
    finished: bool,
    connection: Connection,
    channel: Channel,
}

impl Vhost {
    /// Makes one. `definitions` are the broker's definitions, whose users get the same permissions here.
    ///
    /// # Panics
    /// When RabbitMQ does not answer.
    pub async fn create(definitions: &Value) -> Self {
        let name = format!("test-{}", Uuid::new_v4().simple());
        manage(Method::PUT, &format!("vhosts/{name}"), Some(json!({"default_queue_type": "quorum"}))).await;
        for permission in definitions["permissions"].as_array().expect("definitions with permissions") {
            let user = permission["user"].as_str().expect("a user");
            manage(Method::PUT, &format!("permissions/{name}/{user}"), Some(permission.clone())).await;
        }
        let (connection, channel) = connect(&broker_url(&name, "operator")).await;
        Self { name, finished: false, connection, channel }
    }

    /// Where it is, for a user.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        broker_url(&self.name, user)
    }

    /// Where the broker's management API is.
    #[must_use]
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", crate::composed("POSTROOM_MANAGEMENT_PORT"))
    }

    /// Asks the management API as a user, about anything; `{vhost}` in the path is this virtual host. What it answers.
    pub async fn manage_as(&self, user: &str, method: Method, path: &str, body: Option<Value>) -> StatusCode {
        ask_management(user, method, &path.replace("{vhost}", &self.name), body).await.expect(NO_ANSWER).status()
    }

    /// A channel of the operator's, who may do everything here.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Asks the management API about this virtual host: `path` comes before its name, as in `connections` or `policies`.
    pub async fn manage(&self, method: Method, path: &str, rest: &str, body: Option<Value>) -> Value {
        manage(method, &format!("{path}/{}{rest}", self.name), body).await
    }

    /// The names of the client connections of this virtual host but the test's own, as far as the management API knows.
    pub async fn client_connections(&self) -> Vec<String> {
        let connections = self.manage(Method::GET, "vhosts", "/connections", None).await;
        let others = connections.as_array().into_iter().flatten().filter(|connection| connection["user"] != "operator");
        others.filter_map(|connection| connection["name"].as_str()).map(ToOwned::to_owned).collect()
    }

    /// Closes them, as an operator would; how many there were.
    pub async fn close_connections(&self) -> usize {
        let names = self.client_connections().await;
        for name in &names {
            let name = name.replace(' ', "%20").replace('>', "%3E");
            manage(Method::DELETE, &format!("connections/{name}"), None).await;
        }
        names.len()
    }

    /// Messages ready in a queue; `None` when there is no such queue.
    pub async fn ready(&self, queue: &str) -> Option<u32> {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        let count = declared.ok().map(|queue| queue.message_count());
        if count.is_some() {
            channel.close(200, "asked".into()).await.expect("close a channel");
        }
        count
    }

    /// Waits until a queue holds just so many ready messages.
    ///
    /// # Panics
    /// When it does not within a minute.
    pub async fn wait_ready(&self, queue: &str, wanted: u32) {
        let end = Instant::now() + DEADLINE;
        loop {
            let found = self.ready(queue).await;
            if found == Some(wanted) {
                return;
            }
            let seconds = DEADLINE.as_secs();
            assert!(Instant::now() < end, "not within {seconds} s: {wanted} messages in {queue}, but {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until the answer is yes.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub async fn wait<F: Future<Output = bool>>(&self, what: &str, mut question: impl FnMut() -> F) {
        let end = Instant::now() + DEADLINE;
        while !question().await {
            assert!(Instant::now() < end, "not within {} s: {what}", DEADLINE.as_secs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes the next message out of a queue, waiting for it.
    ///
    /// # Panics
    /// When none comes within a minute.
    pub async fn take(&self, queue: &str) -> Delivery {
        let end = Instant::now() + DEADLINE;
        loop {
            let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.expect("get a message");
            if let Some(message) = got {
                message.delivery.acker.ack(BasicAckOptions::default()).await.expect("ack a message");
                return message.delivery;
            }
            assert!(Instant::now() < end, "no message in {queue} within {} s", DEADLINE.as_secs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Listens to an exchange by a queue of the test's own, from now on.
    pub async fn listen(&self, exchange: &str, key: &str) -> Listener {
        self.listen_to(exchange, &[key]).await
    }

    /// The same, for any of several routing keys.
    pub async fn listen_to(&self, exchange: &str, keys: &[&str]) -> Listener {
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        let queue = self.channel.queue_declare("".into(), options, arguments).await.expect("a queue").name().clone();
        for key in keys {
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            let bound = self.channel.queue_bind(queue.clone(), exchange.into(), (*key).into(), options, arguments);
            bound.await.expect("bind a queue");
        }
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = self.channel.basic_consume(queue, "".into(), options, FieldTable::default());
        Listener { consumer: consumer.await.expect("consume") }
    }

    /// Empties a queue of which a test does not mind how much is in it.
    pub async fn purge(&self, queue: &str) {
        self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.expect("purge a queue");
    }

    /// Ends the test: every queue must be empty but those named, which must hold just as many.
    ///
    /// # Panics
    /// When something was left behind.
    pub async fn finish(self, expected: &[(&str, u32)]) {
        self.finish_but(&[], expected).await;
    }

    /// The same, whatever is in the queues of which the test does not mind that: what a consumer held that is gone comes back to its queue
    /// when the broker has noticed.
    ///
    /// # Panics
    /// When something was left behind elsewhere.
    pub async fn finish_but(mut self, unminded: &[&str], expected: &[(&str, u32)]) {
        self.finished = true;
        let queues = self.manage(Method::GET, "queues", "", None).await;
        let names = queues.as_array().into_iter().flatten().filter(|queue| queue["exclusive"] != true);
        let mut found = Vec::new();
        for name in names.filter_map(|queue| queue["name"].as_str()).filter(|name| !unminded.contains(name)) {
            let ready = self.ready(name).await.unwrap_or_default();
            if ready > 0 {
                found.push((name.to_owned(), ready));
            }
        }
        found.sort();
        let mut wanted: Vec<_> =
            expected.iter().filter(|(_, count)| *count > 0).map(|(name, count)| ((*name).to_owned(), *count)).collect();
        wanted.sort();
        assert_eq!(found, wanted, "messages left behind (left: found, right: expected)");
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let name = self.name.clone();
        crate::run_to_end(async move {
            manage(Method::DELETE, &format!("vhosts/{name}"), None).await;
        });
        assert!(self.finished || std::thread::panicking(), "a test must end with Vhost::finish");
    }
}

/// What a queue of the test's own hears.
pub struct Listener {
    consumer: Consumer,
}

impl Listener {
    /// The next message.
    ///
    /// # Panics
    /// When none comes within a minute.
    pub async fn next(&mut self) -> Delivery {
        let next = timeout(DEADLINE, self.consumer.next()).await.expect("no message within a minute");
        next.expect("the consumer ended").expect("a delivery")
    }

    /// The next message's routing key and body.
    ///
    /// # Panics
    /// When none comes within a minute, or it is no JSON.
    pub async fn next_json(&mut self) -> (String, Value) {
        let delivery = self.next().await;
        (delivery.routing_key.to_string(), serde_json::from_slice(&delivery.data).expect("a JSON body"))
    }
}

/// Sends a job's message to its queue once more, as an operator does who has it replayed: one replay more, attempts from the first.
///
/// # Panics
/// When the broker does not take it.
#[expect(clippy::disallowed_methods, reason = "what an operator does, past the publisher")]
pub async fn replay(channel: &Channel, message: &Delivery, queue: &str) {
    let mut headers = message.properties.headers().clone().unwrap_or_default();
    let replays = headers.inner().get("replays").and_then(|value| value.as_long_long_int()).unwrap_or(0);
    headers.insert("replays".into(), AMQPValue::LongLongInt(replays + 1));
    headers.insert("attempt".into(), AMQPValue::LongLongInt(1));
    let options = BasicPublishOptions::default();
    let key = format!("{queue}.replay");
    let properties = message.properties.clone().with_headers(headers);
    let publish = channel.basic_publish("postroom.return".into(), key.into(), options, &message.data, properties);
    publish.await.expect("publish a message").await.expect("a channel");
}

/// Connects as a user; the test's own way to be somebody whom the product does not know.
///
/// # Panics
/// When RabbitMQ does not answer.
pub async fn connect(url: &str) -> (Connection, Channel) {
    let connected = Connection::connect(url, ConnectionProperties::default()).await;
    let connection = connected.expect(NO_ANSWER);
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Where a virtual host is, for a user. The composed system's is `postroom`.
#[must_use]
pub fn broker_url(vhost: &str, user: &str) -> String {
    let (password, port) = (crate::broker_password(user), crate::composed("POSTROOM_AMQP_PORT"));
    format!("amqp://{user}:{password}@127.0.0.1:{port}/{vhost}")
}

async fn manage(method: Method, path: &str, body: Option<Value>) -> Value {
    let response = ask_management("operator", method, path, body).await.expect(NO_ANSWER);
    let status = response.status();
    assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{path}: {status}");
    response.json().await.unwrap_or(Value::Null)
}

/// Asks RabbitMQ's management API as a user: `path` is what comes after `/api/`.
///
/// # Errors
/// It does not answer.
pub async fn ask_management(user: &str, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Response> {
    let port = crate::composed("POSTROOM_MANAGEMENT_PORT");
    let request = Client::new()
        .request(method, format!("http://127.0.0.1:{port}/api/{path}"))
        .basic_auth(user, Some(crate::broker_password(user)))
        .timeout(Duration::from_secs(30));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    request.send().await
}
