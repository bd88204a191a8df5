//! Why a file cannot become a video, in the words that its owner reads.

/// What a file did to be refused. Final: the same file is refused again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No container that is taken, or a broken one.
    Unreadable,
    /// A stream that no decoder is trusted with.
    Unsupported,
    /// No stream of moving pictures.
    NoPicture,
    /// Nobody can tell how long it is.
    UnknownLength,
    /// Longer than [`super::MAX_SECONDS`].
    TooLong,
    /// A side above [`super::MAX_SIDE`].
    TooLarge,
    /// A side below [`super::MIN_SIDE`].
    TooSmall,
    /// What comes out is not as long as the file says: cut off, broken, or encrypted.
    Damaged,
    /// More memory or time than one video gets, twice.
    TooComplex,
}

impl Refusal {
    /// For a program.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unsupported => "unsupported",
            Self::NoPicture => "no-picture",
            Self::UnknownLength => "unknown-length",
            Self::TooLong => "too-long",
            Self::TooLarge => "too-large",
            Self::TooSmall => "too-small",
            Self::Damaged => "damaged",
            Self::TooComplex => "too-complex",
        }
    }

    /// For the customer.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "The file is no video that can be read. MP4, MOV, MKV and WebM files can be.",
            Self::Unsupported => {
                "The file is encoded in a way that cannot be read here. H.264, HEVC, VP8, VP9, AV1 and MPEG pictures can be, \
                 with AAC, MP3, Opus, Vorbis, AC-3 or FLAC sound."
            }
            Self::NoPicture => "The file holds no moving picture.",
            Self::UnknownLength => "The file does not tell how long the video is.",
            Self::TooLong => "The video is longer than 2 hours.",
            Self::TooLarge => "The picture is larger than 8192 pixels in width or height.",
            Self::TooSmall => "The picture is smaller than 16 pixels in width or height.",
            Self::Damaged => "The file is damaged, incomplete or encrypted: not all of the video can be read.",
            Self::TooComplex => "The video takes more memory or time than there is for one.",
        }
    }
}
