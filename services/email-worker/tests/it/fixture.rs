//! A database, files and a handler of its own for each test.

use std::time::Duration;

use backing::Directory;
use backing::relay::Relay;
use bytes::Bytes;
use email_worker::compose::Composer;
use email_worker::send_email::{Deadlines, SendEmailHandler};
use email_worker::settings::{Sender, SmtpUrl};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use pipeline::jobs::{FileReference, Message, Period, ReportReady, SendEmail};
use store::files::report_key;
use store::{DatabaseSettings, Files, FilesSettings, LinkSettings, PgPool, SignedLinks};
use uuid::Uuid;

pub(crate) const SECRET: &str = "an example secret of 32 bytes ok";

pub(crate) const DEADLINES: Deadlines = Deadlines {
    read: Duration::from_secs(5),
    send: Duration::from_secs(5),
    mark: Duration::from_secs(5),
    lease: Duration::from_secs(60),
};

/// What a handler works with.
pub(crate) struct Fixture {
    pub(crate) pool: PgPool,
    pub(crate) files: Files,
    pub(crate) directory: Directory,
    database: backing::Database,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database = backing::Database::create().await;
        let pool = pool(&database.url());
        store::MIGRATOR.run(&pool).await.expect("migrate the database");
        let directory = Directory::new();
        let files = Files::open(&FilesSettings { url: directory.url().parse().unwrap() }).unwrap();
        Self { pool, files, directory, database }
    }

    pub(crate) fn database_url(&self) -> String {
        self.database.url()
    }

    pub(crate) fn handler(&self, relay: SmtpUrl) -> SendEmailHandler {
        self.handler_with(relay, DEADLINES)
    }

    pub(crate) fn handler_with(&self, relay: SmtpUrl, deadlines: Deadlines) -> SendEmailHandler {
        SendEmailHandler::new(self.pool.clone(), self.files.clone(), composer(), relay, deadlines)
    }

    /// A job about a stored report of this content.
    pub(crate) async fn job(&self, content: Vec<u8>) -> SendEmail {
        let job = job();
        self.store(&job, content).await;
        job
    }

    pub(crate) async fn store(&self, job: &SendEmail, content: Vec<u8>) {
        let Message::ReportReady(ready) = &job.message else { unreachable!("the mail is about a report") };
        self.files.put(&ready.file.key, Bytes::from(content)).await.unwrap();
    }
}

/// Where a relay is, as the worker's settings say it.
pub(crate) fn at(relay: &Relay) -> SmtpUrl {
    SmtpUrl::try_from(relay.url()).unwrap()
}

pub(crate) fn pool(url: &str) -> PgPool {
    store::connect(&DatabaseSettings { url: url.into(), max_connections: 4 }).unwrap()
}

pub(crate) fn composer() -> Composer {
    let links = LinkSettings { base_url: "https://shop.example".parse().unwrap(), secret: SECRET.into() };
    let from = Sender::try_from("Postroom <postroom@shop.example>".to_owned()).unwrap();
    Composer::new(from, SignedLinks::new(&links).unwrap()).unwrap()
}

/// A job to a reader whom no other test writes to, about a report that is not stored.
pub(crate) fn job() -> SendEmail {
    let report_id = Uuid::new_v4();
    let to =
        serde_json::json!({ "name": "Alice Müller", "address": format!("alice-{}@shop.example", report_id.simple()) });
    SendEmail {
        to: serde_json::from_value(to).unwrap(),
        message: Message::ReportReady(ReportReady {
            report_id,
            title: "Sales report".to_owned(),
            period: Period::new("2025-01-01".parse().unwrap(), "2025-03-31".parse().unwrap()).unwrap(),
            pages: 12,
            file: FileReference {
                key: report_key(report_id),
                name: "sales 2025-01-01 to 2025-03-31.pdf".to_owned(),
                content_type: "application/pdf".to_owned(),
                bytes: 0,
            },
        }),
    }
}

/// The metrics of the code that runs on this thread: a test with `#[tokio::test]` has one.
pub(crate) struct Metrics {
    shown: PrometheusHandle,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Metrics {
    pub(crate) fn record() -> Self {
        let recorder = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
        Self { shown: recorder.handle(), _guard: metrics::set_default_local_recorder(recorder) }
    }

    /// The value of a counter, with its labels as they are shown: `mails_total{outcome="sent"}`.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        let text = self.shown.render();
        let line = text.lines().find_map(|line| line.strip_prefix(counter)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}
