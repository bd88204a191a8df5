//! One process of ffmpeg or ffprobe: with limits that the kernel keeps, and killed with whoever waits for it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Where the wrappers are found.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What is kept of a process's standard error: its last words.
const STDERR_BYTES: usize = 4 * 1024;
/// Files, pipes and libraries of one process.
const OPEN_FILES: u64 = 64;
/// From the signal that a process may heed to the one that it may not.
const CPU_GRACE_SECONDS: u64 = 5;
/// For a killed process to be gone. One that hangs in the kernel is left to it.
const DYING: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    pub(super) arguments: Vec<OsString>,
    /// Where it runs, and writes.
    pub(super) folder: &'a Path,
    pub(super) bounds: Bounds,
}

/// What one process may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) memory_bytes: u64,
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    /// Of each file that it writes.
    pub(super) file_bytes: u64,
}

/// How a process ended that has not done its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("start a process")]
    Start(#[source] io::Error),
    #[error("{status}: {said}")]
    Ended { status: ExitStatus, said: String },
    #[error("still running after {} s: {said}", .limit.as_secs())]
    Slow { limit: Duration, said: String },
    #[error("no progress for {} s: {said}", .limit.as_secs())]
    Stalled { limit: Duration, said: String },
    #[error("told to stop")]
    Stopped,
}

/// Killed with everything that it has started when this is dropped.
#[derive(Debug)]
struct Group(Child);

impl Group {
    /// Each of the wrappers becomes the next program, so that there is one process in all: it dies with the thread that has
    /// started it (which must be one that lives as long as the worker: no blocking thread), is the first to go when memory is
    /// short, and yields to everybody else.
    fn start(call: &Call<'_>) -> io::Result<Self> {
        let Bounds { memory_bytes, cpu, file_bytes, .. } = call.bounds;
        let cpu = cpu.as_secs().max(1);
        Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "KILL", "--no-new-privs", "--"])
            .args(["choom", "--adjust", "1000", "--", "nice", "-n", "10", "prlimit", "--core=0"])
            .arg(format!("--as={memory_bytes}"))
            .arg(format!("--cpu={cpu}:{}", cpu + CPU_GRACE_SECONDS))
            .arg(format!("--fsize={file_bytes}"))
            .arg(format!("--nofile={OPEN_FILES}"))
            .arg("--")
            .arg(call.program)
            .args(&call.arguments)
            .current_dir(call.folder)
            .env_clear()
            // Of the allocator's: each thread would reserve address space of its own.
            .envs([("PATH", PATH), ("LC_ALL", "C"), ("MALLOC_ARENA_MAX", "2")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map(Self)
    }

    fn kill(&self) {
        // None once it has been waited for: then the number may be another's.
        let leader = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(Err(error)) = leader.map(|leader| kill_process_group(leader, Signal::KILL)) {
            tracing::warn!(%error, "kill a process");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a process to its end; its last words on standard error, in one line. `hear` takes what it writes, piece by piece, and says how long the next sign of life may take; `None`
/// where the piece was none.
pub(super) async fn run(
    call: &Call<'_>,
    stop: &CancellationToken,
    patience: Duration,
    hear: impl FnMut(&[u8]) -> Option<Duration> + Send,
) -> Result<String, Broken> {
    let mut group = Group::start(call).map_err(Broken::Start)?;
    let pipe_missing = || Broken::Start(io::Error::other("a pipe of the process is missing"));
    let stdout = group.0.stdout.take().ok_or_else(pipe_missing)?;
    let stderr = group.0.stderr.take().ok_or_else(pipe_missing)?;
    let mut said = Tail::default();
    let limit = call.bounds.wall;
    let whole = async {
        // Both at once: a process that fills its standard error would stop otherwise.
        tokio::try_join!(listen(stdout, patience, hear), keep(stderr, &mut said))?;
        group.0.wait().await.map_err(Silence::Read)
    };
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        ended = timeout(limit, whole) => Some(ended),
    };
    let said = said.into_line();
    let broken = match ended {
        Some(Ok(Ok(status))) if status.success() => {
            if !said.is_empty() {
                tracing::debug!(said, "a process had something to say");
            }
            return Ok(said);
        }
        Some(Ok(Ok(status))) => return Err(Broken::Ended { status, said }),
        Some(Ok(Err(Silence::Stalled(limit)))) => Broken::Stalled { limit, said },
        Some(Ok(Err(Silence::Read(error)))) => Broken::Start(error),
        Some(Err(_)) => Broken::Slow { limit, said },
        None => Broken::Stopped,
    };
    group.kill();
    if timeout(DYING, group.0.wait()).await.is_err() {
        tracing::warn!(seconds = DYING.as_secs(), "a killed process is still there");
    }
    Err(broken)
}

/// Why a process is not listened to any more.
enum Silence {
    Stalled(Duration),
    Read(io::Error),
}

async fn listen(
    mut stdout: impl AsyncRead + Unpin,
    mut patience: Duration,
    mut hear: impl FnMut(&[u8]) -> Option<Duration>,
) -> Result<(), Silence> {
    let mut buffer = [0; 4096];
    let mut deadline = tokio::time::Instant::now() + patience;
    loop {
        let read = tokio::time::timeout_at(deadline, stdout.read(&mut buffer)).await;
        let count = read.map_err(|_| Silence::Stalled(patience))?.map_err(Silence::Read)?;
        if count == 0 {
            return Ok(());
        }
        if let Some(next) = hear(&buffer[..count]) {
            patience = next;
            deadline = tokio::time::Instant::now() + patience;
        }
    }
}

async fn keep(mut stderr: impl AsyncRead + Unpin, said: &mut Tail) -> Result<(), Silence> {
    let mut buffer = [0; 1024];
    loop {
        match stderr.read(&mut buffer).await.map_err(Silence::Read)? {
            0 => return Ok(()),
            count => said.push(&buffer[..count]),
        }
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let excess = self.0.len().saturating_sub(STDERR_BYTES);
        self.0.drain(..excess);
    }

    fn into_line(self) -> String {
        let bytes = Vec::from(self.0);
        String::from_utf8_lossy(&bytes).trim().replace('\n', " | ")
    }
}

#[cfg(test)]
mod tests {
    use super::{STDERR_BYTES, Tail};

    #[test]
    fn of_what_is_said_the_end_is_kept() {
        let mut tail = Tail::default();
        for number in 0..10_000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let line = tail.into_line();
        assert!(line.len() <= STDERR_BYTES * 3 && line.ends_with("| line 9998 | line 9999"), "{}", line.len());
    }
}
