//! One engine process, from its start to its end.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::{Excess, Limits, Progress, RenderError, Rendered};
use crate::protocol::{self, Failure, Frame, OutputLimits, Request};

/// Booting takes 20 ms; this long means that the machine is in trouble.
const BOOT: Duration = Duration::from_secs(15);

/// Time for a child that closed its standard output to be gone.
const DYING: Duration = Duration::from_secs(1);

/// What is kept of a child's standard error.
const STDERR_BYTES: usize = 4 * 1024;

/// Room for a [`Failure`] with many diagnostics.
const FAILURE_BYTES: u32 = 1024 * 1024;

// From signal(7), the same on every Linux that Rust runs on but MIPS and SPARC.
const SIGABRT: i32 = 6;
const SIGXCPU: i32 = 24;

/// A booted engine that waits for its one request. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Child {
    process: tokio::process::Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// How the conversation with a child ended.
enum Answer {
    Document(Rendered),
    Failed(Failure),
    /// The child stopped talking, or talked nonsense.
    Broken(io::Error),
}

impl Child {
    /// Starts a child and waits until it is ready.
    pub(super) async fn start(engine: &Path, limits: &Limits) -> io::Result<Self> {
        let mut process = Command::new(engine)
            .arg(format!("--memory-bytes={}", limits.memory_bytes))
            .arg(format!("--cpu-seconds={}", limits.cpu.as_secs().max(1)))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("start {}: {error}", engine.display())))?;
        let pipe_missing = || io::Error::other("a pipe of the engine is missing");
        let mut child = Self {
            stdin: process.stdin.take().ok_or_else(pipe_missing)?,
            stdout: process.stdout.take().ok_or_else(pipe_missing)?,
            stderr: process.stderr.take().ok_or_else(pipe_missing)?,
            process,
        };
        match timeout(BOOT, read_frame(&mut child.stdout, 0)).await {
            Ok(Ok(Frame::Ready)) => Ok(child),
            Ok(Ok(_)) => Err(io::Error::other("engine spoke before it was asked")),
            Ok(Err(_)) => {
                let Self { mut process, stderr, .. } = child;
                let (status, said) = end(&mut process, stderr).await?;
                Err(io::Error::other(format!("engine ended with {status} before it was ready: {said}")))
            }
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("engine not ready within {BOOT:?}"))),
        }
    }

    /// Whether the process still runs.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Has the child make the document, and sees it end.
    pub(super) async fn render(
        self,
        request: &Request,
        limits: &Limits,
        on_progress: impl FnMut(Progress) + Send,
    ) -> Result<Rendered, RenderError> {
        let Self { mut process, stdin, stdout, stderr } = self;
        let whole = async {
            // Both at once: a child that fills its standard error would stop otherwise.
            let (answer, said) = tokio::join!(converse(stdin, stdout, request, on_progress), read_some(stderr));
            (answer, said, process.wait().await)
        };
        let Ok((answer, stderr, status)) = timeout(limits.wall, whole).await else {
            if let Err(error) = process.kill().await {
                tracing::warn!(%error, "kill an engine that took too long");
            }
            return Err(RenderError::TimedOut { clock: "wall", limit: limits.wall });
        };
        match answer {
            Answer::Document(rendered) => Ok(rendered),
            Answer::Failed(failure) => Err(refused(failure, request.limits)),
            Answer::Broken(error) => {
                let status = status.map_err(RenderError::Unavailable)?;
                Err(died(status, stderr, &error, limits))
            }
        }
    }
}

/// Sends the request and hears the child out. Closes both pipes, so that a child that is not done ends.
async fn converse(
    mut stdin: ChildStdin,
    mut stdout: ChildStdout,
    request: &Request,
    mut on_progress: impl FnMut(Progress) + Send,
) -> Answer {
    let answer = async {
        let payload = serde_json::to_vec(request)?;
        if payload.len() > protocol::MAX_REQUEST_BYTES as usize {
            let excess = format!("request of {} bytes, {} are allowed", payload.len(), protocol::MAX_REQUEST_BYTES);
            let diagnostics = vec![protocol::Diagnostic::general(excess)];
            return Ok(Answer::Failed(Failure::Template { diagnostics }));
        }
        stdin.write_all(&protocol::header(protocol::REQUEST, &payload)).await?;
        stdin.write_all(&payload).await?;
        stdin.shutdown().await?;
        let mut laid_out = 0;
        loop {
            match read_frame(&mut stdout, request.limits.bytes.max(FAILURE_BYTES)).await? {
                Frame::LaidOut { pages } => {
                    laid_out = pages;
                    on_progress(Progress::LaidOut { pages });
                }
                Frame::Document(pdf) => {
                    return Ok(Answer::Document(Rendered { pdf: Bytes::from(pdf), pages: laid_out }));
                }
                Frame::Failed(failure) => return Ok(Answer::Failed(failure)),
                Frame::Ready => return Err(io::Error::other("engine was ready twice")),
            }
        }
    };
    answer.await.unwrap_or_else(Answer::Broken)
}

/// Reads one frame with a payload of at most `limit` bytes.
async fn read_frame(stdout: &mut (impl AsyncRead + Unpin), limit: u32) -> io::Result<Frame> {
    let mut header = [0; protocol::HEADER_BYTES];
    stdout.read_exact(&mut header).await?;
    let (kind, length) = protocol::parse_header(header);
    // LaidOut's four bytes always fit.
    if length > limit.max(4) {
        return Err(io::Error::other(format!("frame of {length} bytes where {limit} are allowed")));
    }
    let mut payload = Vec::new();
    stdout.take(u64::from(length)).read_to_end(&mut payload).await?;
    if payload.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Frame::from_parts(kind, payload).map_err(io::Error::other)
}

/// The beginning of what a child says on its standard error, in one line; the rest is read and dropped.
async fn read_some(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let room = STDERR_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).trim().replace('\n', " | ")
}

/// How a child that is of no more use ended. One that is dying keeps its own status, any other is killed.
async fn end(process: &mut tokio::process::Child, stderr: ChildStderr) -> io::Result<(ExitStatus, String)> {
    let whole = async { tokio::join!(read_some(stderr), process.wait()) };
    if let Ok((said, status)) = timeout(DYING, whole).await {
        return Ok((status?, said));
    }
    process.kill().await?;
    Ok((process.wait().await?, "killed, as it did not end".to_owned()))
}

fn refused(failure: Failure, limits: OutputLimits) -> RenderError {
    match failure {
        Failure::Template { diagnostics } => RenderError::Template { diagnostics },
        Failure::TooManyPages { pages } => RenderError::TooLarge(Excess::Pages { pages, limit: limits.pages }),
        Failure::TooManyBytes { bytes } => RenderError::TooLarge(Excess::Bytes { bytes, limit: limits.bytes }),
    }
}

/// What a child died of, by the signal that ended it and its last words.
fn died(status: ExitStatus, stderr: String, error: &io::Error, limits: &Limits) -> RenderError {
    // Said by Rust's allocator before it aborts, and by whoever asks the kernel for a stack.
    let out_of_memory = ["memory allocation of", "Cannot allocate memory"].iter().any(|said| stderr.contains(said));
    match status.signal() {
        Some(SIGABRT) | None if out_of_memory => RenderError::OutOfMemory { limit_bytes: limits.memory_bytes },
        Some(SIGXCPU) => RenderError::TimedOut { clock: "cpu", limit: limits.cpu },
        _ => RenderError::Crashed { status: status.to_string(), stderr: format!("{error}: {stderr}") },
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{Limits, RenderError, SIGABRT, SIGXCPU, died};

    /// The error's name.
    fn died_of(wait_status: i32, stderr: &str) -> &'static str {
        let cut_off = io::ErrorKind::UnexpectedEof.into();
        match died(ExitStatus::from_raw(wait_status), stderr.to_owned(), &cut_off, &Limits::default()) {
            RenderError::OutOfMemory { .. } => "memory",
            RenderError::TimedOut { clock, .. } => clock,
            RenderError::Crashed { .. } => "crash",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_way_to_die_has_its_error() {
        let panicked = 101 << 8;
        assert_eq!(died_of(SIGABRT, "memory allocation of 1600 bytes failed"), "memory");
        assert_eq!(died_of(panicked, "mmap failed to allocate stack: Cannot allocate memory (os error 12)"), "memory");
        assert_eq!(died_of(SIGXCPU, ""), "cpu");
        assert_eq!(died_of(SIGABRT, "thread 'main' has overflowed its stack"), "crash");
        assert_eq!(died_of(panicked, "index out of bounds"), "crash");
        assert_eq!(died_of(9, ""), "crash");
    }
}
