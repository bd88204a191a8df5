//! From an upload to its renditions: step by step, each stored when it is whole, and not done again where it is stored already.

mod child;
mod command;
mod encoder;
mod plan;
mod playlist;
mod probe;
mod progress;
mod refusal;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use futures_util::TryStreamExt;
use pipeline::events::ReadyRendition;
use pipeline::jobs::VideoSource;
use serde::{Deserialize, Serialize};
use store::files::{video_folder, video_key};
use store::{Files, FilesError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::scratch::{RunFolder, Scratch};
use command::Origin;
use encoder::Work;
use playlist::Segments;
use progress::Whole;

pub use encoder::{Encoder, Limits, ProgramError};
pub use plan::{MAX_SECONDS, MAX_SIDE, MIN_SIDE, Plan, Rendition};
pub use refusal::Refusal;

/// The name of the playlist of playlists.
pub const MASTER: &str = "master.m3u8";
/// The name of the picture that stands for the video.
pub const POSTER: &str = "poster.jpg";
/// The name of the file that says what was made, stored when all of it is. Who finds it needs the upload no more, which may be gone.
pub const MADE: &str = "made.json";

/// After so long without a write, a file that is not whole is nobody's.
const LEFT: TimeDelta = TimeDelta::hours(1);
/// A run leaves one at most.
const LEFT_AT_ONCE: usize = 100;

/// Makes renditions.
#[derive(Clone, Debug)]
pub struct Transcoder {
    /// Where uploads come from and renditions go.
    pub files: Files,
    /// Where they are made.
    pub scratch: Scratch,
    /// What makes them.
    pub encoder: Encoder,
}

/// Who waits for a video.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    /// Cancelled when nobody does any more.
    pub stop: &'a CancellationToken,
    /// Hears what is being done, and how much of the whole is done, in percent.
    pub tell: &'a (dyn Fn(&str, u64) + Send + Sync),
}

/// A video that can be watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcoded {
    /// How long it is.
    pub millis: u64,
    /// The largest first.
    pub renditions: Vec<ReadyRendition>,
    /// The names of all its files that are shown.
    pub files: Vec<String>,
}

/// Why there is no video.
#[derive(Debug, thiserror::Error)]
pub enum TranscodeError {
    /// What the file did.
    #[error("the file is refused: {}", .0.code())]
    Refused(Refusal),
    /// What the machine did: it may pass.
    #[error("{0}")]
    Machine(String),
    /// What either may have done: worth a second try, no third.
    #[error("{0}")]
    Unclear(String),
    /// What no try mends.
    #[error("{0}")]
    Defect(String),
    /// Nobody waits any more.
    #[error("told to stop")]
    Stopped,
}

impl Transcoder {
    /// Makes what is missing of a video. What is stored of it that nobody will see goes with its job.
    ///
    /// # Errors
    /// See [`TranscodeError`]; what is stored by then stays, and the next run goes on from there.
    pub async fn transcode(
        &self,
        id: Uuid,
        source: &VideoSource,
        waiting: Waiting<'_>,
    ) -> Result<Transcoded, TranscodeError> {
        let limit = self.encoder.run_limit();
        let making = timeout(limit, self.make(id, source, waiting)).await;
        making.unwrap_or_else(|_| Err(TranscodeError::Unclear(format!("not made within {} s", limit.as_secs()))))
    }

    async fn make(&self, id: Uuid, source: &VideoSource, waiting: Waiting<'_>) -> Result<Transcoded, TranscodeError> {
        // What a run that was killed while it stored a file has left of that; one that is alive writes to it.
        let unfinished = self.files.delete_unfinished(&video_folder(id), Utc::now() - LEFT, LEFT_AT_ONCE).await;
        unfinished.map_err(|error| stored("delete what was left", &error))?;
        if let Some(made) = self.made(id).await? {
            return Ok(made);
        }
        let path = self.find(source).await?;
        let folder = self.scratch.folder().map_err(|error| machine("make a folder", &error))?;
        (waiting.tell)("reading the file", 0);
        let upload = self.encoder.inspect(&path, folder.path(), waiting.stop).await?;
        let plan = Plan::of(&upload).map_err(TranscodeError::Refused)?;
        let whole = Whole::of(plan.renditions.iter().flat_map(|it| [encoding(it), packaging(it)]));
        Run { transcoder: self, id, folder, waiting, plan: &plan, whole }.make(&path, &upload).await
    }

    /// What was made of an upload, once all of it is stored.
    async fn made(&self, id: Uuid) -> Result<Option<Transcoded>, TranscodeError> {
        let Some(text) = self.read(id, MADE).await? else { return Ok(None) };
        let made = serde_json::from_slice(&text);
        // Of another release: what is stored is not made again, and this is written anew.
        Ok(made.inspect_err(|error| tracing::warn!(job.id = %id, %error, "read {MADE}")).ok())
    }

    async fn read(&self, id: Uuid, name: &str) -> Result<Option<Vec<u8>>, TranscodeError> {
        let failed = |error| stored(&format!("read {name}"), &error);
        let Some(file) = self.files.get(&video_key(id, name)).await.map_err(failed)? else { return Ok(None) };
        let pieces: Vec<Bytes> = file.content.try_collect().await.map_err(failed)?;
        Ok(Some(pieces.concat()))
    }

    async fn put(&self, id: Uuid, name: &str, content: impl Into<Bytes>) -> Result<(), TranscodeError> {
        let put = self.files.put(&video_key(id, name), content.into()).await;
        put.map_err(|error| stored(&format!("store {name}"), &error))
    }

    /// The upload, which was accepted when it was stored: where it is missing, the store has lost it or is not there itself, or the
    /// job has ended meanwhile.
    async fn find(&self, source: &VideoSource) -> Result<PathBuf, TranscodeError> {
        let VideoSource { key, bytes, .. } = source;
        match self.files.size(key).await.map_err(|error| stored("look up the upload", &error))? {
            Some(found) if found == *bytes => {}
            Some(found) => {
                return Err(TranscodeError::Defect(format!(
                    "the upload \"{key}\" has {found} bytes, and was accepted with {bytes}"
                )));
            }
            None => return Err(TranscodeError::Machine(format!("the upload \"{key}\" is not in the store of files"))),
        }
        self.files.local_path(key).map_err(|error| stored("find the upload", &error))
    }
}

/// One run of a job.
struct Run<'a> {
    transcoder: &'a Transcoder,
    id: Uuid,
    folder: RunFolder,
    waiting: Waiting<'a>,
    plan: &'a Plan,
    whole: Whole,
}

impl Run<'_> {
    async fn make(mut self, path: &Path, upload: &plan::Source) -> Result<Transcoded, TranscodeError> {
        let mut larger: Option<PathBuf> = None;
        for rendition in &self.plan.renditions {
            let from = match &larger {
                None => (path, Origin::Upload(upload)),
                Some(path) => (path.as_path(), Origin::Rendition),
            };
            larger = Some(self.encode(from, upload, rendition).await?);
        }
        let largest = self.path(&video_file(&self.plan.renditions[0]))?;
        let (millis, _) = self.transcoder.encoder.lengths(&largest, self.folder.path(), self.waiting.stop).await?;
        for rendition in &self.plan.renditions {
            self.package(rendition, millis).await?;
        }
        self.poster(&largest, millis).await?;
        self.master().await?;
        let mut renditions = Vec::new();
        for rendition in &self.plan.renditions {
            let Rendition { name, width, height, .. } = *rendition;
            let bytes = self.size(&video_file(rendition)).await?.unwrap_or_default();
            renditions.push(ReadyRendition { name: name.to_owned(), width, height, bytes });
        }
        let made = Transcoded { millis, renditions, files: self.plan.files() };
        let text =
            serde_json::to_vec(&made).map_err(|error| TranscodeError::Defect(format!("write {MADE}: {error}")))?;
        self.transcoder.put(self.id, MADE, text).await?;
        Ok(made)
    }

    /// The MP4 of a rendition; where it is.
    async fn encode(
        &mut self,
        from: (&Path, Origin<'_>),
        upload: &plan::Source,
        rendition: &Rendition,
    ) -> Result<PathBuf, TranscodeError> {
        let (name, weight) = (video_file(rendition), encoding(rendition));
        if self.size(&name).await?.is_none() {
            let length = Duration::from_millis(upload.millis);
            let at_most = at_most(length);
            let most_bytes = command::most_bytes(rendition.kilobits, at_most);
            let encoder = &self.transcoder.encoder;
            let arguments =
                command::encode(encoder.threads(), (from.0, &from.1), (self.plan, rendition), at_most, &name);
            let phase = format!("making {}", rendition.name);
            self.work(arguments, &phase, weight, length, most_bytes).await?;
            let made = self.folder.path().join(&name);
            let lengths = encoder.lengths(&made, self.folder.path(), self.waiting.stop).await?;
            if !is_whole(upload, lengths) {
                tracing::warn!(
                    stated = upload.millis,
                    made = lengths.0,
                    "the length of a video is not what its file says"
                );
                return Err(TranscodeError::Refused(Refusal::Damaged));
            }
            self.store(&name).await?;
        }
        self.whole.add(weight);
        self.path(&name)
    }

    /// The pieces of a rendition and their playlist, which is stored last: where it is, they are.
    async fn package(&mut self, rendition: &Rendition, millis: u64) -> Result<(), TranscodeError> {
        let (playlist, pieces, weight) = (playlist_file(rendition), pieces_file(rendition), packaging(rendition));
        if self.size(&playlist).await?.is_none() {
            let video = video_file(rendition);
            let bytes = self.size(&video).await?.unwrap_or_default();
            let threads = self.transcoder.encoder.threads();
            let arguments = command::package(threads, &self.path(&video)?, &playlist, &pieces);
            let phase = format!("preparing {} for streaming", rendition.name);
            let most_bytes = command::most_bytes_packed(bytes, Duration::from_millis(millis));
            self.work(arguments, &phase, weight, Duration::from_millis(millis), most_bytes).await?;
            self.store(&pieces).await?;
            self.store(&playlist).await?;
        }
        self.whole.add(weight);
        Ok(())
    }

    /// The picture that stands for the video: a frame from a tenth of its length.
    async fn poster(&mut self, video: &Path, millis: u64) -> Result<(), TranscodeError> {
        if self.size(POSTER).await?.is_none() {
            let rate = self.plan.rate.per_second();
            let frame = (millis as f64 / 10_000.0 * rate).floor();
            let at = Duration::from_secs_f64(frame / rate);
            let arguments = command::poster(self.transcoder.encoder.threads(), video, at, POSTER);
            self.work(arguments, "taking a picture of it", 0, Duration::from_millis(millis), 64 * 1024 * 1024).await?;
            self.store(POSTER).await?;
        }
        Ok(())
    }

    async fn master(&self) -> Result<(), TranscodeError> {
        let mut renditions = Vec::new();
        for rendition in &self.plan.renditions {
            let name = playlist_file(rendition);
            let text = self.transcoder.read(self.id, &name).await?;
            let text = text.ok_or_else(|| TranscodeError::Machine(format!("{name} is gone")))?;
            let segments = Segments::read(&String::from_utf8_lossy(&text));
            let segments = segments.ok_or_else(|| TranscodeError::Defect(format!("{name} is no whole playlist")))?;
            renditions.push((*rendition, segments));
        }
        self.transcoder.put(self.id, MASTER, playlist::master(self.plan, &renditions)).await
    }

    /// Has ffmpeg do a step, if there is room for what it may write at most.
    async fn work(
        &self,
        arguments: Vec<std::ffi::OsString>,
        phase: &str,
        weight: u64,
        length: Duration,
        most_bytes: u64,
    ) -> Result<(), TranscodeError> {
        let Waiting { stop, tell } = self.waiting;
        let room = self.transcoder.scratch.room().map_err(|error| machine("ask for the room to write", &error))?;
        if room < most_bytes {
            return Err(TranscodeError::Machine(format!("{phase}: may take {most_bytes} bytes, and {room} are free")));
        }
        tell(phase, self.whole.percent(weight, 0.0));
        let work = Work { arguments, folder: self.folder.path(), length, most_bytes };
        let told = |at: Duration| tell(phase, self.whole.percent(weight, at.div_duration_f64(length)));
        self.transcoder.encoder.work(work, stop, Refusal::Damaged, told).await?;
        Ok(())
    }

    /// Moves a file that is whole from the scratch folder into the store.
    async fn store(&self, name: &str) -> Result<(), TranscodeError> {
        let path = self.folder.path().join(name);
        let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if size == 0 {
            return Err(TranscodeError::Unclear(format!("{name} was not made, and nothing said why")));
        }
        let room = self.transcoder.files.room().await.map_err(|error| stored("ask for room", &error))?;
        // Uploads stop before this: what was accepted can be made.
        if room.left_after(size) < room.reserve() / 2 {
            return Err(TranscodeError::Machine(format!("{name} has {size} bytes, and {} are free", room.free)));
        }
        let key = video_key(self.id, name);
        let put = self.transcoder.files.put_file(&key, &path);
        let put = self.waiting.stop.run_until_cancelled(put).await.ok_or(TranscodeError::Stopped)?;
        put.map_err(|error| stored(&format!("store {name}"), &error))?;
        std::fs::remove_file(&path).map_err(|error| machine("remove what is stored", &error))
    }

    async fn size(&self, name: &str) -> Result<Option<u64>, TranscodeError> {
        let size = self.transcoder.files.size(&video_key(self.id, name)).await;
        size.map_err(|error| stored(&format!("look up {name}"), &error))
    }

    fn path(&self, name: &str) -> Result<PathBuf, TranscodeError> {
        self.transcoder
            .files
            .local_path(&video_key(self.id, name))
            .map_err(|error| stored(&format!("find {name}"), &error))
    }
}

impl Plan {
    /// The names of the files that are made by it.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let of_renditions = self.renditions.iter().flat_map(|it| [video_file(it), playlist_file(it), pieces_file(it)]);
        of_renditions.chain([MASTER.to_owned(), POSTER.to_owned()]).collect()
    }
}

fn video_file(rendition: &Rendition) -> String {
    format!("{}.mp4", rendition.name)
}

fn playlist_file(rendition: &Rendition) -> String {
    format!("{}.m3u8", rendition.name)
}

fn pieces_file(rendition: &Rendition) -> String {
    format!("{}.ts", rendition.name)
}

/// What a step is of the whole: each pixel costs the same, and to cut a rendition into pieces next to nothing.
fn encoding(rendition: &Rendition) -> u64 {
    rendition.pixels()
}

fn packaging(rendition: &Rendition) -> u64 {
    rendition.pixels() / 50
}

/// What is written of a video at most: where its file says less than it holds, it is cut, and found to be damaged.
fn at_most(stated: Duration) -> Duration {
    stated.mul_f64(1.1) + Duration::from_secs(5)
}

/// Whether what came out is about as long as the file says; within half a second nobody is sure.
fn is_whole(upload: &plan::Source, (millis, picture_millis): (u64, u64)) -> bool {
    let all_of = |stated: u64, made: u64| made + (stated / 10).max(500) >= stated;
    let no_more = millis <= upload.millis + upload.millis / 10 + 4000;
    all_of(upload.millis, millis)
        && no_more
        && upload.picture_millis.is_none_or(|stated| all_of(stated, picture_millis))
}

fn machine(what: &str, error: &std::io::Error) -> TranscodeError {
    TranscodeError::Machine(format!("{what}: {error}"))
}

fn stored(what: &str, error: &FilesError) -> TranscodeError {
    let reason = format!("{what}: {}", chain(error));
    if error.is_transient() { TranscodeError::Machine(reason) } else { TranscodeError::Defect(reason) }
}

/// An error with its sources.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
