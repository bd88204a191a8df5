//! Consumers and publishers in another language: the pages under `tests/consumers/`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{DEADLINE, alice, mail_arrived, sales, user_of};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/consumers/python");
/// `tests/run` makes it.
const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");

fn page(name: &str) -> Command {
    let mut command = Command::new(PYTHON);
    command
        .arg(format!("{FOLDER}/{name}"))
        .env("AMQP_URL", backing::broker_url("postroom", "partner"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("a line in time").unwrap();
    line.expect("the page goes on")
}

struct ReportReady {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl ReportReady {
    async fn start() -> Self {
        let mut child = page("report_ready.py").spawn().expect("target/python is made by tests/run");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(next_line(&mut lines).await, "listening");
        Self { lines, _child: child }
    }

    /// The line about a report; those of other tests' reports are passed over.
    async fn line_about(&mut self, id: &str) -> String {
        loop {
            let line = next_line(&mut self.lines).await;
            if line.starts_with(id) {
                return line;
            }
        }
    }
}

#[tokio::test]
async fn a_page_of_python_hears_of_each_report_as_it_becomes_ready() {
    let mut page = ReportReady::start().await;
    let id = alice().accepted(&sales("2025-01-06", "2025-01-12")).await;
    let line = page.line_about(&id).await;
    let owner = user_of("alice@shop.example").await;
    assert!(line.contains("2025-01-06..2025-01-12") && line.contains(&format!("for {owner}")), "{line}");
}

#[tokio::test]
async fn a_page_of_python_publishes_a_report_that_the_rust_worker_makes() {
    let mut listening = ReportReady::start().await;
    let publish = page("publish_report.py").args(["2025-04-01", "2025-04-30", "ann@shop.example"]).output();
    let output = tokio::time::timeout(Duration::from_secs(30), publish).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let line = listening.line_about(&id).await;
    assert!(line.contains("for partner"), "{line}");
    let mails = mail_arrived(&id).await;
    assert_eq!(mails[0]["to"][0]["address"], "ann@shop.example");
}
