//! Under which keys files are kept.

use uuid::Uuid;

use super::FilesError;

/// The folder of what is being uploaded.
pub const UPLOADS: &str = "uploads";
/// The folder of all videos.
pub const VIDEOS: &str = "videos";

/// How the names of uploads begin, and of nothing that is made of them.
const SOURCE: &str = "source-";

const LONGEST_KEY: usize = 200;

/// The key under which the PDF of a report is kept.
#[must_use]
pub fn report_key(report_id: Uuid) -> String {
    format!("reports/{report_id}.pdf")
}

/// The key under which the bytes of an upload arrive, before it is known what they belong to.
#[must_use]
pub fn upload_key(upload_id: Uuid) -> String {
    format!("{UPLOADS}/{upload_id}")
}

/// The folder of everything that belongs to a video.
#[must_use]
pub fn video_folder(video_id: Uuid) -> String {
    format!("{VIDEOS}/{video_id}")
}

/// The key under which a file of a video is kept. The name may come from outside: what is no name makes no key that is taken.
#[must_use]
pub fn video_key(video_id: Uuid, name: &str) -> String {
    format!("{VIDEOS}/{video_id}/{name}")
}

/// The key under which a video is kept as it was uploaded: one for each upload, so that none takes the place of another.
#[must_use]
pub fn video_source_key(video_id: Uuid, upload_id: Uuid) -> String {
    video_key(video_id, &format!("{SOURCE}{}", upload_id.simple()))
}

/// Whether a key of a file of a video is [that of an upload](video_source_key).
#[must_use]
pub fn is_video_source(key: &str) -> bool {
    key.rsplit('/').next().is_some_and(|name| name.starts_with(SOURCE))
}

/// Takes only what the server itself makes: `folder/…/name.extension` of lower-case letters, digits, `-` and `_`, one
/// dot at most in a part and never first. Whatever could climb, be absolute, or clash with the store's own temporary
/// names (`#`) is no key.
pub(super) fn parse_key(key: &str) -> Result<object_store::path::Path, FilesError> {
    let wrong = || FilesError::Key(key.chars().take(LONGEST_KEY).collect());
    if key.len() > LONGEST_KEY || !key.split('/').all(is_name) {
        return Err(wrong());
    }
    object_store::path::Path::parse(key).map_err(|_| wrong())
}

/// Whether the text can be one part of a key.
pub(super) fn is_name(part: &str) -> bool {
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    match part.split_once('.') {
        Some((name, extension)) => plain(name) && plain(extension),
        None => plain(part),
    }
}

/// Whether the store gives files of this name to writers that are not done: `<name>#<number>`.
pub(super) fn is_unfinished(name: &str) -> bool {
    let parts = name.rsplit_once('#');
    parts.is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}
