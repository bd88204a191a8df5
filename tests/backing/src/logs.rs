//! What this process logs, as a service writes it: one JSON object a line.

use std::io;
use std::sync::{Mutex, OnceLock};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

#[derive(Clone, Copy)]
struct Kept;

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LINES.lock().expect("no test panics while it holds the lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Kept {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// Keeps what is logged from now on, of every test of this process.
///
/// # Panics
/// When somebody else has installed a subscriber.
pub fn keep() {
    static KEPT: OnceLock<()> = OnceLock::new();
    KEPT.get_or_init(|| {
        let builder = tracing_subscriber::fmt().with_env_filter("info,pipeline=debug").with_writer(Kept);
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init();
    });
}

/// The lines so far that hold a text.
///
/// # Panics
/// When a test panicked in the middle of a line.
pub fn with(text: &str) -> Vec<Value> {
    let lines = LINES.lock().expect("no test panics while it holds the lock");
    let lines = String::from_utf8_lossy(&lines);
    // The last may still be being written.
    lines.lines().filter(|line| line.contains(text)).filter_map(|line| serde_json::from_str(line).ok()).collect()
}
