//! ffmpeg and ffprobe, each call of them with its bounds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::child::{self, Bounds, Broken, Call};
use super::command;
use super::plan::{MAX_SECONDS, Source};
use super::probe::Probed;
use super::progress::Reports;
use super::refusal::Refusal;
use super::verdict::{TOO_MANY_PIXELS, Verdict, judge};
use super::{TranscodeError, chain};

/// A hundred times what the longest answer needs; a file can have a thousand streams.
const ANSWER_BYTES: usize = 1024 * 1024;
/// For a look at a file, which takes some tenths of a second.
const LOOK: Duration = Duration::from_secs(60);
/// At the end of a video the whole file is written once more, without a report; so fast at least.
const REWRITTEN_BYTES_A_SECOND: u64 = 10_000_000;
/// What ffmpeg must have been built with.
const NEEDED: [&str; 3] = ["libx264", "aac", "mjpeg"];

/// What one process may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of address space: 8K HEVC of ten bits takes 1 GiB, with 8 threads 2 GiB.
    pub memory_bytes: u64,
    /// More of it for each thread.
    pub memory_bytes_a_thread: u64,
    /// Seconds of work for each second of video, and [`Limits::start`] in addition: a slow core does a tenth of it.
    pub times_length: u32,
    /// What even the shortest video gets.
    pub start: Duration,
    /// All processes of one run together: less than a run of the kind may take, so that a video that takes too long is told as such.
    pub run: Duration,
    /// Without a report that says more than the one before.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 * 1024 * 1024 * 1024,
            memory_bytes_a_thread: 256 * 1024 * 1024,
            times_length: 20,
            start: Duration::from_secs(5 * 60),
            run: Duration::from_secs(225 * 60),
            stall: Duration::from_secs(60),
        }
    }
}

/// The programs, and how much each process of them may take.
#[derive(Clone, Debug)]
pub struct Encoder {
    ffmpeg: PathBuf,
    ffprobe: PathBuf,
    threads: u16,
    limits: Limits,
}

/// A process's work on a video of a known length.
pub(super) struct Work<'a> {
    pub(super) arguments: Vec<OsString>,
    pub(super) folder: &'a Path,
    pub(super) length: Duration,
    /// Of a file that it writes.
    pub(super) most_bytes: u64,
}

impl Encoder {
    /// The programs in this directory, with so many threads for each process.
    #[must_use]
    pub fn new(programs: PathBuf, threads: u16, limits: Limits) -> Self {
        Self { ffmpeg: programs.join("ffmpeg"), ffprobe: programs.join("ffprobe"), threads, limits }
    }

    /// For one run.
    pub(super) fn run_limit(&self) -> Duration {
        self.limits.run
    }

    pub(super) fn threads(&self) -> u16 {
        self.threads
    }

    /// Runs both programs as they are run for a video: without them every video would be refused.
    ///
    /// # Errors
    /// One of them cannot be run, or lacks an encoder.
    pub async fn check(&self) -> Result<(), ProgramError> {
        let never = CancellationToken::new();
        let ask = async |program: &Path, argument: &str| {
            let call = self.call(
                program,
                ["-hide_banner", "-loglevel", "error", argument].map(OsString::from).into(),
                Path::new("/"),
                0,
            );
            answer(&call, &never)
                .await
                .map_err(|error| ProgramError::Run { program: program.to_owned(), reason: chain(&error) })
        };
        ask(&self.ffprobe, "-version").await?;
        let encoders = ask(&self.ffmpeg, "-encoders").await?;
        let encoders = String::from_utf8_lossy(&encoders.0);
        let has = |name: &&str| encoders.split_whitespace().any(|word| word == *name);
        match NEEDED.iter().find(|name| !has(name)) {
            Some(encoder) => Err(ProgramError::Lacks { program: self.ffmpeg.clone(), encoder }),
            None => Ok(()),
        }
    }

    /// Looks at an upload.
    pub(super) async fn inspect(
        &self,
        path: &Path,
        folder: &Path,
        stop: &CancellationToken,
    ) -> Result<Source, TranscodeError> {
        let (probed, said) = self.probe(path, folder, stop, Refusal::Unreadable).await?;
        let found = probed.found().map_err(|refusal| match refusal {
            // Of a picture that it did not even begin with, ffprobe gives no size.
            Refusal::Unreadable if said.contains(TOO_MANY_PIXELS) => Refusal::TooLarge,
            refusal => refusal,
        });
        let found = found.map_err(TranscodeError::Refused)?;
        let millis = match found.millis {
            Some(millis) => millis,
            // As browsers record: nothing tells the length but the end.
            None => self.measure(path, folder, stop).await?,
        };
        Ok(found.with_millis(millis))
    }

    /// The lengths of a file that was made here and of the picture in it, in milliseconds.
    pub(super) async fn lengths(
        &self,
        path: &Path,
        folder: &Path,
        stop: &CancellationToken,
    ) -> Result<(u64, u64), TranscodeError> {
        let (probed, _) = self.probe(path, folder, stop, Refusal::Damaged).await?;
        probed.lengths().ok_or(TranscodeError::Refused(Refusal::Damaged))
    }

    /// What ffprobe answers, and what it says besides.
    async fn probe(
        &self,
        path: &Path,
        folder: &Path,
        stop: &CancellationToken,
        otherwise: Refusal,
    ) -> Result<(Probed, String), TranscodeError> {
        let call = self.call(&self.ffprobe, command::probe(self.threads, path), folder, 0);
        let (json, said) = answer(&call, stop).await.map_err(|broken| decide(&broken, otherwise))?;
        let probed = serde_json::from_slice(&json)
            .map_err(|error| TranscodeError::Unclear(format!("read what ffprobe answers: {error}")))?;
        Ok((probed, said))
    }

    async fn measure(&self, path: &Path, folder: &Path, stop: &CancellationToken) -> Result<u64, TranscodeError> {
        // How long it may take depends on what it is about to find out; it decodes nothing, and is as fast as the disk.
        let arguments = command::measure(self.threads, path);
        let work = Work { arguments, folder, length: Duration::from_secs(MAX_SECONDS / 10), most_bytes: 0 };
        let at = self.work(work, stop, Refusal::UnknownLength, |_| {}).await?;
        let millis = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 { Err(TranscodeError::Refused(Refusal::UnknownLength)) } else { Ok(millis) }
    }

    /// Has ffmpeg do something; `tell` hears how much of the video is done. How much there was.
    pub(super) async fn work(
        &self,
        work: Work<'_>,
        stop: &CancellationToken,
        otherwise: Refusal,
        mut tell: impl FnMut(Duration) + Send,
    ) -> Result<Duration, TranscodeError> {
        let Limits { times_length, start, stall, .. } = self.limits;
        let wall = work.length * times_length + start;
        let mut call = self.call(&self.ffmpeg, work.arguments, work.folder, work.most_bytes);
        (call.bounds.wall, call.bounds.cpu) = (wall, wall * u32::from(self.threads));
        let ending = stall + Duration::from_secs(work.most_bytes / REWRITTEN_BYTES_A_SECOND);
        let near_the_end = work.length.mul_f64(0.95).saturating_sub(Duration::from_secs(1));
        let mut reports = Reports::default();
        let hear = |piece: &[u8]| {
            if !reports.take(piece) {
                return None;
            }
            tell(reports.at);
            Some(if reports.at >= near_the_end { ending } else { stall })
        };
        child::run(&call, stop, stall, hear).await.map_err(|broken| decide(&broken, otherwise))?;
        Ok(reports.at)
    }

    fn call<'a>(&self, program: &'a Path, arguments: Vec<OsString>, folder: &'a Path, file_bytes: u64) -> Call<'a> {
        let Limits { memory_bytes, memory_bytes_a_thread, .. } = self.limits;
        let memory_bytes = memory_bytes + memory_bytes_a_thread * u64::from(self.threads);
        Call { program, arguments, folder, bounds: Bounds { memory_bytes, cpu: LOOK, wall: LOOK, file_bytes } }
    }
}

/// What a process writes, and what it says besides.
async fn answer(call: &Call<'_>, stop: &CancellationToken) -> Result<(Vec<u8>, String), Broken> {
    let mut answer = Vec::new();
    let hear = |piece: &[u8]| {
        let room = ANSWER_BYTES.saturating_sub(answer.len());
        answer.extend_from_slice(&piece[..piece.len().min(room)]);
        Some(LOOK)
    };
    let said = child::run(call, stop, LOOK, hear).await?;
    Ok((answer, said))
}

fn decide(broken: &Broken, otherwise: Refusal) -> TranscodeError {
    let verdict = judge(broken, otherwise);
    if verdict != Verdict::Stopped {
        tracing::warn!(error = chain(broken), ?verdict, "a process has not done its work");
    }
    match verdict {
        Verdict::File(refusal) => TranscodeError::Refused(refusal),
        Verdict::Machine => TranscodeError::Machine(chain(broken)),
        Verdict::Unclear => TranscodeError::Unclear(chain(broken)),
        Verdict::Stopped => TranscodeError::Stopped,
    }
}

/// Why there can be no work on videos.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It does not run.
    #[error("run {}: {reason}", .program.display())]
    Run {
        /// Which.
        program: PathBuf,
        /// What it said, or the system.
        reason: String,
    },
    /// It runs, and cannot do what it must.
    #[error("{} was built without the encoder {encoder}", .program.display())]
    Lacks {
        /// Which.
        program: PathBuf,
        /// What it lacks.
        encoder: &'static str,
    },
}
