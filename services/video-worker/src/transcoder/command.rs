//! The command lines of ffmpeg and ffprobe, which the versions 5 to 7 understand.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use super::plan::{MAX_SIDE, Plan, Rendition, Source};
use super::probe;

/// The containers that people upload; everything that could name other files or hosts (playlists, lists of files, images made of
/// text) is none of them.
const CONTAINERS: &str = "mov,matroska";

/// What cameras, phones, browsers and editors write, in decoders that are fuzzed all the time: one bug fewer for each that is left out.
const DECODERS: &str = "h264,hevc,vp8,vp9,libdav1d,mpeg4,mpeg2video,h263,mjpeg,\
    aac,mp3float,mp3,opus,vorbis,ac3,eac3,flac,alac,amrnb,\
    pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_u8,pcm_s8,pcm_mulaw,pcm_alaw";
/// ffprobe gives a file up that holds anything else; subtitles and covers are no reason for that, and are left out of the video.
const LEFT_OUT: &str = "png,mov_text,subrip,srt,ass,ssa,webvtt,text,dvdsub,dvbsub,pgssub";

/// The longest time between two pictures at which a player can begin; a piece of a stream begins at one.
const KEY_PICTURE_SECONDS: u64 = 2;
const PIECE_SECONDS: u64 = 6;
const SOUND_KILOBITS: u32 = 128;
/// Pictures that nearly nobody tells from their original; the maximum rate cuts off the rest.
const QUALITY: &str = "23";
const PRESET: &str = "veryfast";

/// The arguments that come before everything else, of both programs.
fn reading(threads: u16, decoders: &str) -> Vec<OsString> {
    let pixels = u64::from(MAX_SIDE) * u64::from(MAX_SIDE);
    let arguments = [
        "-hide_banner",
        "-loglevel",
        "error",
        "-protocol_whitelist",
        "file",
        "-format_whitelist",
        CONTAINERS,
        "-codec_whitelist",
        decoders,
        "-max_pixels",
        &pixels.to_string(),
        "-threads",
        &threads.to_string(),
    ];
    arguments.map(OsString::from).into()
}

fn writing(threads: u16) -> Vec<OsString> {
    let before = ["-nostdin", "-y", "-nostats", "-progress", "pipe:1", "-stats_period", "0.5"];
    let mut arguments: Vec<OsString> = before.map(OsString::from).into();
    arguments.extend(reading(threads, DECODERS));
    arguments
}

/// By the protocol's name, so that no path is taken for another.
fn file(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

fn push<const N: usize>(arguments: &mut Vec<OsString>, more: [&str; N]) {
    arguments.extend(more.map(OsString::from));
}

/// Tells what a file is, as JSON on the standard output.
pub(super) fn probe(threads: u16, path: &Path) -> Vec<OsString> {
    let mut arguments = reading(threads, &format!("{DECODERS},{LEFT_OUT}"));
    push(&mut arguments, ["-of", "json=compact=1", "-show_entries", probe::ENTRIES, "-i"]);
    arguments.push(file(path));
    arguments
}

/// Reads a file to its end, decoding nothing: the last report tells its length.
pub(super) fn measure(threads: u16, path: &Path) -> Vec<OsString> {
    let mut arguments = writing(threads);
    arguments.extend(["-i".into(), file(path)]);
    push(&mut arguments, ["-map", "0:v:0", "-map", "0:a:0?", "-c", "copy", "-f", "null", "-"]);
    arguments
}

/// Which file a rendition is made of.
pub(super) enum Origin<'a> {
    /// The upload.
    Upload(&'a Source),
    /// A larger rendition: decoded faster than any upload, and known to be whole.
    Rendition,
}

/// Makes the MP4 of a rendition.
pub(super) fn encode(
    threads: u16,
    (path, origin): (&Path, &Origin<'_>),
    (plan, rendition): (&Plan, &Rendition),
    at_most: Duration,
    output: &str,
) -> Vec<OsString> {
    let Rendition { width, height, level, kilobits, .. } = rendition;
    let mut arguments = writing(threads);
    arguments.extend(["-i".into(), file(path)]);
    let (picture, sound) = match origin {
        Origin::Upload(source) => (source.picture, source.sound),
        Origin::Rendition => (0, plan.has_sound.then_some(1)),
    };
    push(&mut arguments, ["-map", &format!("0:{picture}")]);
    if let Some(sound) = sound {
        push(&mut arguments, ["-map", &format!("0:{sound}")]);
        match origin {
            // Gaps in the sound are filled: it would run ahead of the picture.
            Origin::Upload(_) => {
                let kilobits = format!("{SOUND_KILOBITS}k");
                push(&mut arguments, ["-c:a", "aac", "-b:a", &kilobits, "-ac", "2", "-ar", "48000"]);
                push(&mut arguments, ["-filter:a", "aresample=async=1"]);
            }
            Origin::Rendition => push(&mut arguments, ["-c:a", "copy"]),
        }
    }
    let rate = plan.rate;
    let picture =
        format!("fps={}/{},scale={width}:{height}:flags=bicubic,setsar=1,format=yuv420p", rate.frames, rate.seconds);
    push(&mut arguments, ["-filter:v", &picture, "-fps_mode", "cfr", "-c:v", "libx264", "-preset", PRESET]);
    push(&mut arguments, ["-profile:v", "high", "-level:v", &level.dotted(), "-threads", &threads.to_string()]);
    push(
        &mut arguments,
        ["-crf", QUALITY, "-maxrate", &format!("{kilobits}k"), "-bufsize", &format!("{}k", kilobits * 2)],
    );
    push(&mut arguments, ["-force_key_frames", &format!("expr:gte(t,n_forced*{KEY_PICTURE_SECONDS})")]);
    strip(&mut arguments);
    push(
        &mut arguments,
        ["-t", &format!("{:.3}", at_most.as_secs_f64()), "-movflags", "+faststart", "-f", "mp4", output],
    );
    arguments
}

/// Cuts a finished rendition into pieces, all of them in one file.
pub(super) fn package(threads: u16, path: &Path, playlist: &str, pieces: &str) -> Vec<OsString> {
    let mut arguments = writing(threads);
    arguments.extend(["-i".into(), file(path)]);
    push(&mut arguments, ["-map", "0", "-c", "copy"]);
    strip(&mut arguments);
    push(&mut arguments, ["-f", "hls", "-hls_playlist_type", "vod", "-hls_time", &PIECE_SECONDS.to_string()]);
    push(&mut arguments, ["-hls_flags", "single_file", "-hls_segment_type", "mpegts", "-hls_segment_filename", pieces]);
    push(&mut arguments, [playlist]);
    arguments
}

/// Takes one picture out of a finished rendition.
pub(super) fn poster(threads: u16, path: &Path, at: Duration, output: &str) -> Vec<OsString> {
    let mut arguments = writing(threads);
    push(&mut arguments, ["-ss", &format!("{:.3}", at.as_secs_f64()), "-i"]);
    arguments.push(file(path));
    push(&mut arguments, ["-map", "0:v:0", "-frames:v", "1"]);
    strip(&mut arguments);
    push(&mut arguments, ["-q:v", "3", "-f", "image2", "-update", "1", output]);
    arguments
}

/// Where it was filmed, by whom and with what is nobody's business.
fn strip(arguments: &mut Vec<OsString>) {
    push(arguments, ["-map_metadata", "-1", "-map_chapters", "-1"]);
}

/// The most bytes that a finished file takes as pieces: a transport stream has packets of 188 bytes, of which each picture and each piece of
/// sound, some 80 a second, leaves one half empty and has another for its header (ISO/IEC 13818-1).
pub(super) fn most_bytes_packed(bytes: u64, length: Duration) -> u64 {
    bytes + bytes / 4 + (length.as_secs() + 1) * 32 * 1024 + 1024 * 1024
}

/// The most bytes that a rendition of this length takes: its rates, a tenth for the container, and what a short one begins with.
pub(super) fn most_bytes(kilobits: u32, length: Duration) -> u64 {
    let bits = f64::from(kilobits + SOUND_KILOBITS) * 1000.0 * length.as_secs_f64();
    (bits / 8.0 * 1.1) as u64 + 16 * 1024 * 1024
}
