//! `video.transcode`: make an uploaded video playable everywhere.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Job, Recipient};

/// Asks for the renditions of an uploaded video. Done when all of them are in the object store; refused with a reason for the
/// customer where the file is no video that can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TranscodeVideo {
    /// What its owner calls it.
    pub title: VideoTitle,
    /// The file as it was uploaded.
    pub source: VideoSource,
    /// Who is told when it can be watched.
    pub recipient: Recipient,
}

impl Job for TranscodeVideo {
    const KIND: &'static str = "video.transcode";
}

/// An uploaded file in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoSource {
    /// Its key in the store.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Of its content, in lower-case hex: two uploads of the same file are the same request.
    pub sha256: String,
}

/// A video's title: 1 to 200 characters without control characters, so that no line break can enter a mail's header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct VideoTitle(#[schemars(length(min = 1, max = 200))] String);

/// A text that is no title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a title has 1 to 200 characters and no control characters")]
pub struct InvalidTitle;

impl VideoTitle {
    /// The title as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VideoTitle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for VideoTitle {
    type Error = InvalidTitle;

    fn try_from(text: String) -> Result<Self, InvalidTitle> {
        let length = text.chars().count();
        let good = (1..=200).contains(&length) && !text.chars().any(char::is_control) && !text.trim().is_empty();
        if good { Ok(Self(text)) } else { Err(InvalidTitle) }
    }
}

impl From<VideoTitle> for String {
    fn from(title: VideoTitle) -> Self {
        title.0
    }
}

#[cfg(test)]
mod tests {
    use super::VideoTitle;

    #[test]
    fn a_title_can_be_read_and_breaks_no_header() {
        for good in ["Holiday", "Übung 3 – Takt ½", &"ä".repeat(200)] {
            assert_eq!(VideoTitle::try_from(good.to_owned()).unwrap().as_str(), good);
        }
        for wrong in ["", "  ", "a\r\nBcc: b@shop.example", "a\0", &"a".repeat(201)] {
            assert!(VideoTitle::try_from(wrong.to_owned()).is_err(), "{wrong:?}");
        }
    }
}
