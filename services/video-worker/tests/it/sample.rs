//! Small videos, made when they are needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use backing::Directory;
use serde_json::Value;

const NO_FFMPEG: &str = "ffmpeg is missing: install it with `apt-get install ffmpeg`";

/// A directory of samples.
pub(crate) struct Samples(Directory);

impl Samples {
    pub(crate) fn new() -> Self {
        Self(Directory::new())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.0.join(name)
    }

    /// Makes one by ffmpeg: `arguments` are words between spaces, `{name}` is the path of a sample.
    pub(crate) fn make(&self, name: &str, arguments: &str) -> PathBuf {
        let path = self.path(name);
        let words = arguments.split_whitespace().map(|word| match word.strip_prefix('{') {
            Some(other) => self.path(other.trim_end_matches('}')).display().to_string(),
            None => word.to_owned(),
        });
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-loglevel", "error", "-y"]).args(words).arg(&path);
        succeed(command.output().expect(NO_FFMPEG), arguments);
        path
    }

    /// A picture and a tone, for so many seconds.
    pub(crate) fn plain(&self, name: &str, size: &str, seconds: &str) -> PathBuf {
        let picture = format!("-f lavfi -i testsrc2=size={size}:rate=30:duration={seconds}");
        let sound = format!("-f lavfi -i sine=frequency=440:duration={seconds}");
        self.make(name, &format!("{picture} {sound} -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac"))
    }

    /// Something else than a video, or a part of one.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The first part of another sample.
    pub(crate) fn cut(&self, name: &str, of: &Path, percent: usize) -> PathBuf {
        let whole = std::fs::read(of).unwrap();
        self.write(name, &whole[..whole.len() * percent / 100])
    }

    /// A copy of an MP4 that is to be shown turned by a quarter, as phones write it: by the matrix of its first track.
    pub(crate) fn turned(&self, name: &str, of: &Path) -> PathBuf {
        let mut bytes = std::fs::read(of).unwrap();
        let header = find(&bytes, b"tkhd").unwrap();
        let matrix = [0, 0x1_0000, 0, -0x1_0000, 0, 0, 0, 0, 0x4000_0000_i32];
        let place = header + 44;
        bytes[place..place + 36].copy_from_slice(&matrix.map(i32::to_be_bytes).concat());
        self.write(name, bytes)
    }
}

/// Where a text begins.
pub(crate) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// What ffprobe says of a file; playlists may name the files beside them.
pub(crate) fn look(path: &Path) -> Value {
    let mut command = Command::new("ffprobe");
    command.args(["-loglevel", "error", "-of", "json", "-show_streams", "-show_format", "-show_chapters"]).arg(path);
    let output = succeed(command.output().expect(NO_FFMPEG), &path.display().to_string());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Decodes a file to its end; the number of frames, and how often the picture can be begun with, in seconds.
pub(crate) fn decode(path: &Path) -> (usize, Vec<f64>) {
    let mut command = Command::new("ffprobe");
    command.args(["-loglevel", "error", "-of", "csv=print_section=0", "-select_streams", "v:0"]);
    command.args(["-show_entries", "frame=key_frame,best_effort_timestamp_time"]).arg(path);
    let output = succeed(command.output().expect(NO_FFMPEG), &path.display().to_string());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{}", path.display());
    let text = String::from_utf8(output.stdout).unwrap();
    // What is attached to a frame has a line of its own.
    let frames: Vec<(bool, f64)> = text
        .lines()
        .filter_map(|line| line.split_once(','))
        .filter_map(|(key, at)| Some((key == "1", at.trim_end_matches(',').parse().ok()?)))
        .collect();
    (frames.len(), frames.iter().filter(|(key, _)| *key).map(|(_, at)| *at).collect())
}

fn succeed(output: Output, what: &str) -> Output {
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
