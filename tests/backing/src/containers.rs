//! What an operator does: the composed system's containers, killed, stopped, started and asked how they are.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use tokio::time::Instant;

/// Long enough for a loaded machine; who waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(180);
/// The services that are not ours.
const BACKING: [&str; 7] = ["rabbitmq", "rabbitmq-2", "rabbitmq-3", "postgres", "redis-cache", "redis-durable", "mail"];
/// Where an inspected container has the name of its service.
const SERVICE: &str = r#"{{index .Config.Labels "com.docker.compose.service"}}"#;
/// Where a service says how it is; the port is not published.
const HEALTH_PORT: u16 = 9090;
/// For one answer of it.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// What a part of `/readyz` says when it can do its work.
const READY: [&str; 4] = ["as declared", "connected", "consuming", "listening"];

/// Some containers of the composed system, by name or id.
pub struct Containers(Vec<String>);

/// Every copy of a service, as compose names it.
pub fn copies_of(service: &str) -> Containers {
    let found = all().into_iter().filter(|(_, of)| of == service).map(|(name, _)| name).collect::<Vec<_>>();
    assert!(!found.is_empty(), "no container of {service}: run compose/up");
    Containers(found)
}

/// Every copy of every service of ours.
pub fn ours() -> Containers {
    let ours = all().into_iter().filter(|(_, service)| !BACKING.contains(&service.as_str()));
    Containers(ours.map(|(name, _)| name).collect())
}

/// The container in which a worker's process runs, by the name that its events bear: `<service>@<host>:<process id>`.
pub fn container_of(worker: &str) -> Containers {
    let host = worker.split_once('@').and_then(|(_, rest)| rest.split_once(':')).expect("a worker's name").0;
    Containers(vec![host.to_owned()])
}

/// The network of the composed system.
fn network() -> String {
    format!("{}_default", project())
}

fn project() -> String {
    #[expect(clippy::disallowed_methods, reason = "compose reads it too")]
    std::env::var("COMPOSE_PROJECT_NAME").unwrap_or_else(|_| "postroom".to_owned())
}

/// What the names of our images begin with.
pub(crate) fn images() -> String {
    #[expect(clippy::disallowed_methods, reason = "compose reads it too")]
    std::env::var("POSTROOM_IMAGES").unwrap_or_else(|_| project())
}

/// Name and service of each container that is to run all the time.
fn all() -> Vec<(String, String)> {
    let project = format!("label=com.docker.compose.project={}", project());
    let filters = ["--filter", &project, "--filter", "label=com.docker.compose.oneoff=False"];
    let format = ["--format", r#"{{.Names}} {{.Label "com.docker.compose.service"}}"#];
    let list = docker(&[&["ps", "--all"], &filters[..], &format[..]].concat());
    list.lines().filter_map(|line| line.split_once(' ')).map(|(name, of)| (name.to_owned(), of.to_owned())).collect()
}

impl Containers {
    /// These and others.
    pub fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Ends them with no chance to say a word.
    pub fn kill(&self) {
        self.each("kill", &["--signal", "KILL"]);
    }

    /// Has every process in them stand still, in the middle of whatever it does. By signal: `docker pause` gives up on a process
    /// that waits for the disk.
    pub fn pause(&self) {
        self.signal_processes("STOP");
    }

    /// Lets them go on.
    pub fn unpause(&self) {
        self.signal_processes("CONT");
    }

    /// Every process but the container's first and the one that sends it.
    fn signal_processes(&self, signal: &str) {
        for name in &self.0 {
            docker(&["exec", name, "sh", "-c", &format!("kill -{signal} -1")]);
        }
    }

    /// Takes them out of the network. Nobody is told.
    pub fn cut_off(&self) {
        self.0.iter().for_each(|name| drop(docker(&["network", "disconnect", &network(), name])));
    }

    /// Takes them in again, under the name of their service.
    pub fn let_back(&self) {
        for name in &self.0 {
            let service = docker(&["inspect", "--format", SERVICE, name]);
            docker(&["network", "connect", "--alias", &service, &network(), name]);
        }
    }

    /// One of them, by any number.
    #[must_use]
    pub fn one(&self, number: usize) -> Self {
        Self(vec![self.0[number % self.0.len()].clone()])
    }

    /// Asks them to end, as an orchestrator would, and waits; their exit codes.
    pub fn stop(&self) -> Vec<String> {
        self.each("stop", &["--time", "30"]);
        self.inspect("{{.State.ExitCode}}")
    }

    /// Starts them again, all at once: `docker start` takes one after the other.
    pub fn start(&self) {
        std::thread::scope(|threads| {
            for name in &self.0 {
                threads.spawn(|| docker(&["start", name]));
            }
        });
    }

    /// Since when each runs, and how often the engine had to start it again.
    pub fn starts(&self) -> Vec<String> {
        self.inspect("{{.Name}} {{.State.StartedAt}} {{.RestartCount}}")
    }

    /// Runs a program in the first of them; what it wrote.
    pub fn run(&self, program: &[&str]) -> String {
        docker(&[&["exec", &self.0[0]], program].concat())
    }

    /// Waits until the health check of each is content.
    pub async fn healthy(&self) {
        self.until("healthy", |name| docker(&["inspect", "--format", "{{.State.Health.Status}}", name]) == "healthy")
            .await;
    }

    /// Waits until each says that it is alive.
    pub async fn alive(&self) {
        self.until_all_answer("/livez", "alive").await;
    }

    /// Waits until each says that it can do all of its work.
    pub async fn ready(&self) {
        self.until_all_answer("/readyz", "ready").await;
    }

    /// Waits until they have done so many jobs of a kind since they were started, all together.
    pub async fn have_done(&self, kind: &str, jobs: u64) {
        let end = Instant::now() + DEADLINE;
        let counter = format!("jobs_total{{kind=\"{kind}\",outcome=\"succeeded\"}} ");
        loop {
            let metrics = self.ask("/metrics").into_iter().flatten();
            let counts = metrics.map(|(_, text)| {
                text.lines().find_map(|line| line.strip_prefix(&counter)?.parse::<u64>().ok()).unwrap_or_default()
            });
            let done: u64 = counts.sum();
            if done == jobs {
                return;
            }
            assert!(Instant::now() < end, "{done} jobs of {kind} done, not {jobs}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a counter stands at in each of them, by name: the sum of its lines with this label.
    #[must_use]
    pub fn counters(&self, counter: &str, label: &str) -> BTreeMap<String, u64> {
        let count = |(name, answer): (&String, Option<Answer>)| {
            let (_, metrics) = answer?;
            let lines = metrics.lines().filter(|line| line.starts_with(counter) && line.contains(label));
            Some((name.clone(), lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()))
        };
        self.0.iter().zip(self.ask("/metrics")).filter_map(count).collect()
    }

    /// Waits until just these parts of them cannot do their work, each as `web database`.
    pub async fn lack(&self, parts: &[&str]) {
        let end = Instant::now() + DEADLINE;
        loop {
            let missing = self.missing_parts();
            if missing == parts {
                return;
            }
            assert!(Instant::now() < end, "{missing:?} cannot work, not {parts:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The parts that cannot do their work, as each container's `/readyz` tells.
    fn missing_parts(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, answer) in self.0.iter().zip(self.ask("/readyz")) {
            let (status, body) = answer.expect("the service says how it is");
            let parts: BTreeMap<String, String> = serde_json::from_str(&body).expect("readiness by part");
            let service = docker(&["inspect", "--format", SERVICE, name]);
            let waits = parts.iter().filter(|(_, state)| !READY.contains(&state.as_str()));
            let mut waits: Vec<String> = waits.map(|(part, _)| format!("{service} {part}")).collect();
            // Who consumes is on its way, too, while it is no more than "connected".
            if (status == 200) != waits.is_empty() {
                waits.push(format!("{service} {status} {body}"));
            }
            missing.extend(waits);
        }
        missing.sort();
        missing.dedup();
        missing
    }

    async fn until(&self, what: &str, question: impl Fn(&str) -> bool) {
        let end = Instant::now() + DEADLINE;
        for name in &self.0 {
            while !question(name) {
                assert!(Instant::now() < end, "{name} is not {what}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Waits until each answers a path with 200; it is `what` then.
    async fn until_all_answer(&self, path: &str, what: &str) {
        let end = Instant::now() + DEADLINE;
        loop {
            let answers = self.ask(path);
            let lacking = answers.iter().position(|answer| !matches!(answer, Some((200, _))));
            let Some(lacking) = lacking else {
                return;
            };
            assert!(Instant::now() < end, "{} is not {what}: {:?}", self.0[lacking], answers[lacking]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What each answers on its health port; `None` from one that does not. All at once by their addresses, which change whenever
    /// one is started.
    fn ask(&self, path: &str) -> Vec<Option<Answer>> {
        let addresses = self.inspect("{{.Name}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        let answer = |line: &String| {
            let address = line.split(' ').nth(1)?.parse().ok()?;
            ask(SocketAddr::new(address, HEALTH_PORT), path).ok()
        };
        addresses.iter().map(answer).collect()
    }

    fn each(&self, command: &str, options: &[&str]) {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        docker(&[&[command], options, &names].concat());
    }

    fn inspect(&self, what: &str) -> Vec<String> {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let output = docker(&[&["inspect", "--format", what], &names[..]].concat());
        output.lines().map(ToOwned::to_owned).collect()
    }
}

/// Status and body.
type Answer = (u16, String);

fn ask(health: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&health, ANSWER_DEADLINE)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {health}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

fn docker(arguments: &[&str]) -> String {
    String::from_utf8(run("docker", arguments).stdout).expect("text").trim().to_owned()
}

/// Runs a program to its end; its output.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
