//! The engine as its parent uses it: real child processes, through the renderer and, where that would hide what is
//! tested, by hand.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod by_hand;
mod confinement;
mod documents;
mod renderer;
mod templates;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pdf_report::protocol::{FileContent, OutputLimits, Request, Standard};
use pdf_report::renderer::{Limits, RenderError, Rendered, Renderer};
use rustix::process::Pid;

/// What cargo built for this test.
const ENGINE: &str = env!("CARGO_BIN_EXE_pdf-engine");

/// Nothing here takes nearly as long, even unoptimised on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An endless template: memory stays small, time does not.
const ENDLESS: &str = "#for a in range(30000) { for b in range(30000) { for c in range(30000) {} } }";

/// A request for one template of no particular standard.
fn request(template: &str) -> Request {
    Request {
        main: "/main.typ".to_owned(),
        files: BTreeMap::from([("/main.typ".to_owned(), FileContent::Text(template.to_owned()))]),
        data: serde_json::Value::Null,
        made_at: "2025-04-01T09:30:12Z".parse().unwrap(),
        standards: Vec::new(),
        limits: OutputLimits::default(),
    }
}

/// A request for a template with a title and a language, which PDF/UA wants.
fn standard_request(body: &str) -> Request {
    let template = format!("#set document(title: \"T\")\n#set text(lang: \"en\", font: \"Inter\")\n{body}");
    Request { standards: Standard::DEFAULT.to_vec(), ..request(&template) }
}

/// Limits that no other test has, so that its children can be told from others by their command line.
fn own_limits() -> Limits {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let memory_bytes = 1024 * 1024 * 1024 + NEXT.fetch_add(1, Ordering::Relaxed);
    Limits { memory_bytes, ..Limits::default() }
}

/// Renders in a child of its own.
async fn render(request: &Request) -> Result<Rendered, RenderError> {
    Renderer::new(ENGINE, 0, own_limits()).render(request, |_| {}).await
}

/// The living children that were started with these limits.
fn children(limits: &Limits) -> Vec<Pid> {
    let marker = format!("--memory-bytes={}\0", limits.memory_bytes);
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let ours = |pid: &String| {
        let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command_line).contains(&marker)
    };
    processes
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(ours)
        .filter_map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect()
}

/// Waits until something is so that sends no signal when it becomes so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::task::yield_now().await;
    }
}
