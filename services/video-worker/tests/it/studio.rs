//! A transcoder with a store and a scratch directory of its own, without broker and database.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use backing::Directory;
use pipeline::jobs::VideoSource;
use store::files::{video_folder, video_source_key};
use store::{Files, FilesSettings};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use video_worker::scratch::Scratch;
use video_worker::transcoder::{Encoder, Limits, MADE, Refusal, TranscodeError, Transcoded, Transcoder, Waiting};

/// Where the host's ffmpeg is.
pub(crate) const PROGRAMS: &str = "/usr/bin";

pub(crate) struct Studio {
    pub(crate) transcoder: Transcoder,
    directory: Directory,
    /// What was told: phases and percents.
    pub(crate) told: Mutex<Vec<(String, u64)>>,
    pub(crate) stop: CancellationToken,
}

impl Studio {
    pub(crate) fn new() -> Self {
        Self::with(Path::new(PROGRAMS), Limits::default())
    }

    pub(crate) fn with(programs: &Path, limits: Limits) -> Self {
        let directory = Directory::new();
        let url = format!("file://{}/files", directory.0.display()).parse().unwrap();
        let transcoder = Transcoder {
            files: Files::open(&FilesSettings { url }).unwrap(),
            scratch: Scratch::open(&directory.0.join("scratch")).unwrap(),
            encoder: Encoder::new(programs.to_owned(), 2, limits),
        };
        Self { transcoder, directory, told: Mutex::default(), stop: CancellationToken::new() }
    }

    /// The same files, worked on by other programs.
    pub(crate) fn by(self, programs: &Path) -> Self {
        let encoder = Encoder::new(programs.to_owned(), 2, Limits::default());
        Self { transcoder: Transcoder { encoder, ..self.transcoder }, told: Mutex::default(), ..self }
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.directory.0.join("scratch")
    }

    /// Where a file of a video is.
    pub(crate) fn made(&self, id: Uuid, name: &str) -> PathBuf {
        self.directory.0.join("files").join(video_folder(id)).join(name)
    }

    /// The names of a video's files that are shown.
    pub(crate) fn names(&self, id: Uuid) -> BTreeSet<String> {
        let found = std::fs::read_dir(self.made(id, "")).unwrap();
        let names = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != MADE && !name.starts_with("source-")).collect()
    }

    /// Stores a file as an upload.
    pub(crate) async fn upload(&self, id: Uuid, path: &Path) -> VideoSource {
        let key = video_source_key(id, id);
        let bytes = self.transcoder.files.put_file(&key, path).await.unwrap();
        VideoSource { key, bytes, sha256: String::new() }
    }

    pub(crate) async fn run(&self, id: Uuid, source: &VideoSource) -> Result<Transcoded, TranscodeError> {
        let tell = |phase: &str, percent| self.told.lock().unwrap().push((phase.to_owned(), percent));
        let waiting = Waiting { stop: &self.stop, tell: &tell };
        self.transcoder.transcode(id, source, waiting).await
    }

    /// Uploads a file and makes it a video.
    pub(crate) async fn transcode(&self, path: &Path) -> (Uuid, Result<Transcoded, TranscodeError>) {
        let id = Uuid::now_v7();
        let source = self.upload(id, path).await;
        (id, self.run(id, &source).await)
    }

    /// A video that must become one.
    pub(crate) async fn make(&self, path: &Path) -> (Uuid, Transcoded) {
        let (id, made) = self.transcode(path).await;
        (id, made.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// A file that must be refused; nothing may be left of it.
    pub(crate) async fn refuse(&self, path: &Path) -> Refusal {
        let (id, made) = self.transcode(path).await;
        let Err(TranscodeError::Refused(refusal)) = made else { panic!("{}: {made:?}", path.display()) };
        assert_eq!(self.names(id), BTreeSet::new(), "{}", path.display());
        self.assert_idle();
        refusal
    }

    /// No process works here, and no file lies about.
    pub(crate) fn assert_idle(&self) {
        assert_eq!(processes_in(&self.scratch()), Vec::<String>::new());
        assert_eq!(runs_in(&self.scratch()), 0);
    }
}

/// The folders of runs in a scratch directory.
pub(crate) fn runs_in(scratch: &Path) -> usize {
    let processes = std::fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let runs = processes.flat_map(|process| std::fs::read_dir(process).unwrap()).map(|entry| entry.unwrap().path());
    runs.filter(|path| path.is_dir()).count()
}

/// The command lines of all processes that work in a directory or below, by their number; zombies have none.
pub(crate) fn processes_in(directory: &Path) -> Vec<String> {
    let numbers = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let here = numbers.filter_map(|number| {
        number.parse::<u32>().ok()?;
        let place = std::fs::read_link(format!("/proc/{number}/cwd")).ok()?;
        let command = std::fs::read_to_string(format!("/proc/{number}/cmdline")).ok()?;
        place.starts_with(directory).then(|| format!("{number} {}", command.replace('\0', " ")))
    });
    here.collect()
}

/// Programs of a test's own: `ffmpeg` is a script, `ffprobe` the real one.
pub(crate) fn programs(script: &str) -> Directory {
    let directory = Directory::new();
    let ffmpeg = directory.0.join("ffmpeg");
    std::fs::write(&ffmpeg, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&ffmpeg, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(format!("{PROGRAMS}/ffprobe"), directory.0.join("ffprobe")).unwrap();
    directory
}
