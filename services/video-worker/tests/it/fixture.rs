//! A virtual host, a database and a store of files of its own, and workers that are processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use backing::{Directory, Vhost};
use pipeline::jobs::{TranscodeVideo, VideoSource};
use pipeline::{Broker, BrokerSettings, BrokerState, OutgoingJob, TraceContext, topology};
use reqwest::Method;
use serde_json::{Value, json};
use store::files::{video_folder, video_source_key};
use store::{DatabaseSettings, Files, FilesSettings};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use uuid::Uuid;

use crate::studio::{PROGRAMS, processes_in, runs_in};

pub(crate) const OWNER: &str = "0000000a-0000-0000-0000-000000000000";

/// The queues' waits, shortened.
const TIME_SCALE: f64 = 0.05;

/// What a worker works on.
pub(crate) struct Fixture {
    pub(crate) vhost: Vhost,
    pub(crate) files: Files,
    database: backing::Database,
    directory: Directory,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let definitions = topology::definitions();
        let (database, vhost) = tokio::join!(backing::Database::create(), Vhost::create(&definitions));
        let pool = store::connect(&DatabaseSettings { url: database.url().into(), max_connections: 2 }).unwrap();
        store::MIGRATOR.run(&pool).await.expect("migrate the database");
        let directory = Directory::new();
        let url = format!("file://{}/files", directory.0.display()).parse().unwrap();
        Self { vhost, files: Files::open(&FilesSettings { url }).unwrap(), database, directory }
    }

    /// Web's broker, which publishes videos.
    pub(crate) async fn web(&self) -> Broker {
        let settings = json!({"url": self.vhost.url("web"), "time_scale": TIME_SCALE, "queue_length": 200_000});
        let settings: BrokerSettings = serde_json::from_value(settings).unwrap();
        let broker = Broker::start(&settings, "web").unwrap();
        let state = broker.publishing_state();
        self.vhost.wait("connected", || async { state() == BrokerState::Connected }).await;
        broker
    }

    /// Stores an upload, and the job that asks for its renditions.
    pub(crate) async fn upload(&self, path: &Path) -> OutgoingJob<TranscodeVideo> {
        let id = Uuid::now_v7();
        let key = video_source_key(id, id);
        let bytes = self.files.put_file(&key, path).await.unwrap();
        let payload = json!({
            "title": "Holiday",
            "source": VideoSource { key, bytes, sha256: "0".repeat(64) },
            "recipient": {"name": "Ada", "address": "ada@shop.example"},
        });
        let payload: TranscodeVideo = serde_json::from_value(payload).unwrap();
        let (owner, trace) = (Some(OWNER.to_owned()), Some(TraceContext::root()));
        OutgoingJob { owner, trace, ..OutgoingJob::new(id, payload) }
    }

    /// Where a file of a video is.
    pub(crate) fn made(&self, id: Uuid, name: &str) -> PathBuf {
        self.directory.0.join("files").join(video_folder(id)).join(name)
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.0.join("scratch")
    }

    /// Waits until no process works here.
    pub(crate) async fn wait_idle(&self) {
        let idle = || async { processes_in(&self.scratch()).is_empty() };
        self.vhost.wait("no process is left", idle).await;
    }

    /// Waits until a worker hears what it is told about single jobs.
    pub(crate) async fn wait_listening(&self) {
        let listening = || async {
            let bindings = self.vhost.manage(Method::GET, "exchanges", "/postroom.control/bindings/source", None).await;
            bindings.as_array().is_some_and(|bindings| bindings.len() == 1)
        };
        self.vhost.wait("it listens for orders", listening).await;
    }

    /// Nobody tracks here: what was told of the jobs is not minded. All else must be gone.
    pub(crate) async fn finish(self) {
        assert_eq!((processes_in(&self.scratch()), runs_in(&self.scratch())), (Vec::new(), 0));
        self.vhost.purge(topology::TRACKER_LIFECYCLE).await;
        self.vhost.purge(topology::TRACKER_PROGRESS).await;
        self.vhost.finish(&[]).await;
    }
}

/// A worker process; killed with this.
pub(crate) struct Worker {
    child: Child,
    health: SocketAddr,
    /// Standard output and standard error, read as they come: a worker that nobody reads stands still once the pipe is full.
    said: [JoinHandle<String>; 2],
}

impl Worker {
    /// One that works by the host's ffmpeg.
    pub(crate) async fn start(fixture: &Fixture) -> Self {
        Self::start_with(fixture, Path::new(PROGRAMS)).await
    }

    /// One that works by these programs.
    pub(crate) async fn start_with(fixture: &Fixture, programs: &Path) -> Self {
        let worker = Self::spawn(fixture, programs);
        let ready = || async { worker.ready().await == Some(200) };
        fixture.vhost.wait("ready", ready).await;
        worker
    }

    /// One that starts, whatever it finds.
    pub(crate) fn spawn(fixture: &Fixture, programs: &Path) -> Self {
        let health = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_video-worker"))
            .env_clear()
            .env("POSTROOM__LOG__FORMAT", "pretty")
            .env("POSTROOM__HEALTH__LISTEN", health.to_string())
            .env("POSTROOM__BROKER__URL", fixture.vhost.url("video-worker"))
            .env("POSTROOM__BROKER__TIME_SCALE", TIME_SCALE.to_string())
            .env("POSTROOM__DATABASE__URL", fixture.database.url())
            .env("POSTROOM__FILES__URL", format!("file://{}/files", fixture.directory.0.display()))
            .env("POSTROOM__SCRATCH__DIRECTORY", fixture.scratch())
            .env("POSTROOM__ENCODER__PROGRAMS", programs)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = [read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap())];
        Self { child, health, said }
    }

    async fn ready(&self) -> Option<u16> {
        let response = reqwest::get(format!("http://{}/readyz", self.health)).await.ok()?;
        Some(response.status().as_u16())
    }

    /// Ends it as a power cut would.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks it to end; see [`Worker::ended`].
    pub(crate) async fn terminate(self) -> (Option<i32>, String, String) {
        let process = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").arg(process).status().await.unwrap().success());
        self.ended().await
    }

    /// Its exit code, standard output and standard error, once it has ended.
    pub(crate) async fn ended(mut self) -> (Option<i32>, String, String) {
        let ended = timeout(Duration::from_secs(30), self.child.wait()).await.expect("it does not end").unwrap();
        let [log, errors] = self.said;
        (ended.code(), log.await.unwrap(), errors.await.unwrap())
    }
}

fn read(mut from: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut text = String::new();
        from.read_to_string(&mut text).await.unwrap();
        text
    })
}

/// What the mail says that a job has asked for.
pub(crate) async fn mail(fixture: &Fixture, of: &OutgoingJob<TranscodeVideo>) -> Value {
    let delivery = fixture.vhost.take("email.normal").await;
    let properties = &delivery.properties;
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), of.id.to_string());
    let id = Uuid::new_v5(&of.id, b"email.send").to_string();
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id, "one mail, however often the job runs");
    let headers = properties.headers().as_ref().unwrap().inner();
    let trace = headers.iter().find(|(name, _)| name.as_str() == "traceparent").unwrap().1;
    let trace = trace.as_long_string().unwrap().to_string();
    assert!(trace.contains(&of.trace.as_ref().unwrap().id().to_string()), "{trace}");
    serde_json::from_slice(&delivery.data).unwrap()
}
