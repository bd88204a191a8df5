//! A RabbitMQ of its own for one test, which may be set otherwise than the composed one.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::containers::{images, run};

/// Long enough for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// After so long it ends also when its test was killed.
const LONGEST: &str = "600";

/// A broker as the composed one, with its users and passwords and nothing in it; removed when this is dropped.
#[derive(Debug)]
pub struct OwnRabbit {
    name: String,
    port: u16,
}

impl OwnRabbit {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no image: `compose/up rabbitmq` makes it.
    #[must_use]
    pub fn start() -> Self {
        let name = format!("test-rabbitmq-{}", Uuid::new_v4().simple());
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let (published, image) = (format!("127.0.0.1:{port}:5672"), format!("{}/rabbitmq", images()));
        let settings = concat!(env!("CARGO_MANIFEST_DIR"), "/../../compose/.env");
        let options = ["run", "--detach", "--rm", "--init", "--memory", "1g", "--env-file", settings];
        let folder = ["--tmpfs", "/run/rabbitmq:uid=901,gid=901,mode=0700"];
        let place = ["--name", &name, "--publish", &published, "--entrypoint", "timeout"];
        run("docker", &[&options[..], &folder, &place, &[&image, LONGEST, "entrypoint"]].concat());
        let broker = Self { name, port };
        let end = Instant::now() + DEADLINE;
        while !broker.answers() {
            assert!(Instant::now() < end, "{} does not answer", broker.name);
        }
        broker
    }

    /// Where the product's virtual host is, for a user.
    #[must_use]
    pub fn url(&self, user: &str) -> String {
        format!("amqp://{user}:{}@127.0.0.1:{}/postroom", crate::broker_password(user), self.port)
    }

    /// Has every consumer lose its channel that holds a delivery for longer, as `consumer_timeout` says. Counts for channels that are
    /// opened from now on, and is looked at five times as often as it lasts.
    pub fn let_hold_for(&self, timeout: Duration) {
        let (held, look) = (timeout.as_millis(), (timeout / 5).as_millis());
        let set = |name: &str, millis: u128| format!("application:set_env(rabbit, {name}, {millis})");
        let both = format!("{}, {}.", set("consumer_timeout", held), set("channel_tick_interval", look));
        run("docker", &["exec", &self.name, "rabbitmqctl", "--quiet", "eval", &both]);
    }

    fn answers(&self) -> bool {
        let ask = ["exec", &self.name, "healthcheck"];
        let status = Command::new("docker").args(ask).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.expect("docker runs").success()
    }
}

impl Drop for OwnRabbit {
    fn drop(&mut self) {
        run("docker", &["rm", "--force", &self.name]);
    }
}
