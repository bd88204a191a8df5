//! A Redis of its own for one test, which may be killed, frozen and started again.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::containers::run;

/// Long enough for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// After so long it ends also when its test was killed.
const LONGEST: &str = "600";

/// A server set as the composed `redis-cache`, removed when this is dropped.
#[derive(Debug)]
pub struct OwnRedis {
    name: String,
    port: u16,
    password: String,
}

impl OwnRedis {
    /// Starts one.
    ///
    /// # Panics
    /// When there is no image: `compose/up redis-cache` makes it.
    #[must_use]
    pub fn start() -> Self {
        let name = format!("test-redis-{}", Uuid::new_v4().simple());
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let server = Self { name, port, password: Uuid::new_v4().simple().to_string() };
        server.start_again();
        server
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://postroom:{}@127.0.0.1:{}", self.password, self.port)
    }

    /// Ends it with no chance to say a word. It forgets everything.
    pub fn kill(&self) {
        run("docker", &["rm", "--force", &self.name]);
    }

    /// Starts it again in its old place, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_again(&self) {
        let password = format!("POSTROOM_REDIS_PASSWORD={}", self.password);
        let port = format!("127.0.0.1:{}:6379", self.port);
        let image = format!("{}/redis", crate::containers::images());
        let options = ["--detach", "--rm", "--init", "--read-only", "--tmpfs", "/tmp", "--memory", "320m"];
        let place = ["--name", &self.name, "--publish", &port, "--env", &password, "--entrypoint", "timeout"];
        run("docker", &[&["run"], &options[..], &place[..], &[&image, LONGEST, "entrypoint", "cache"]].concat());
        let end = Instant::now() + DEADLINE;
        while !self.answers() {
            assert!(Instant::now() < end, "{} does not answer", self.name);
        }
    }

    /// Has it stand still, in the middle of whatever it does; nobody is told.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// To every process but the container's first and the one that sends it.
    fn signal(&self, signal: &str) {
        run("docker", &["exec", &self.name, "sh", "-c", &format!("kill -{signal} -1")]);
    }

    fn answers(&self) -> bool {
        let ask = ["exec", &self.name, "healthcheck"];
        let status = Command::new("docker").args(ask).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.expect("docker runs").success()
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}
