//! What `pdf-report` and its child `pdf-engine` say to each other. The parent includes this same file as a module: it
//! must not link the engine's crate, which brings Typst along, and four structs are no crate of their own.
//!
//! A frame is one byte that tells its kind, the payload's length as four bytes (big endian), and the payload.
//!
//! | kind | from | payload | meaning |
//! | --- | --- | --- | --- |
//! | `R` | child | empty | booted, send the request |
//! | `Q` | parent | JSON, [`Request`] | the one job of this process |
//! | `L` | child | pages, four bytes | the pages are laid out, the file is being written |
//! | `D` | child | PDF | the document; the process ends |
//! | `F` | child | JSON, [`Failure`] | there is no document; the process ends |
//!
//! A child whose standard output ends without `D` or `F` died; its exit status tells of what.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 5;

/// The largest request that a child reads: about 300,000 rows of a table.
pub const MAX_REQUEST_BYTES: u32 = 64 * 1024 * 1024;

/// Kind of the frame that carries a [`Request`].
pub const REQUEST: u8 = b'Q';

const READY: u8 = b'R';
const LAID_OUT: u8 = b'L';
const DOCUMENT: u8 = b'D';
const FAILED: u8 = b'F';

/// One document to make. The same request gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Path of the template to start from, one of `files`.
    pub main: String,
    /// All that the template can read besides `/data.json`, by its absolute path (`/theme.typ`).
    pub files: BTreeMap<String, FileContent>,
    /// What the template reads as `/data.json`. Characters in it that no font has are replaced.
    pub data: serde_json::Value,
    /// The document's timestamp, which is `datetime.today()` for the template too.
    pub made_at: DateTime<Utc>,
    /// What the file must conform to; where it cannot, there is no file.
    pub standards: Vec<Standard>,
    /// How large it may become.
    pub limits: OutputLimits,
}

/// A file that a template can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileContent {
    /// UTF-8 text as it is.
    Text(String),
    /// Any bytes, as standard padded base64.
    Base64(String),
}

/// A part of the PDF family that a file can promise to conform to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standard {
    /// PDF/A-3b, ISO 19005-3: for keeping.
    PdfA3b,
    /// PDF/UA-1, ISO 14289-1: tagged, for screen readers.
    PdfUa1,
}

impl Standard {
    /// What a document conforms to unless there is a reason against it.
    pub const DEFAULT: [Self; 2] = [Self::PdfA3b, Self::PdfUa1];
}

/// How large a document may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputLimits {
    /// Pages laid out.
    pub pages: u32,
    /// Bytes of the file.
    pub bytes: u32,
}

impl Default for OutputLimits {
    /// 2,000 pages and 32 MiB: far beyond any report that somebody reads.
    fn default() -> Self {
        Self { pages: 2_000, bytes: 32 * 1024 * 1024 }
    }
}

/// Why there is no document although the child is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Failure {
    /// The template, or what it was given, is wrong.
    Template {
        /// At least one.
        diagnostics: Vec<Diagnostic>,
    },
    /// More pages than [`OutputLimits::pages`].
    TooManyPages {
        /// Pages laid out.
        pages: u32,
    },
    /// More bytes than [`OutputLimits::bytes`].
    TooManyBytes {
        /// Bytes of the file.
        bytes: u64,
    },
}

/// One thing that is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diagnostic {
    /// What is wrong.
    pub message: String,
    /// The file, where known.
    pub file: Option<String>,
    /// The line, counted from 1.
    pub line: Option<u32>,
    /// The character in the line, counted from 1.
    pub column: Option<u32>,
    /// What might help.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// A diagnostic that belongs to no line of a template.
    #[must_use]
    pub fn general(message: impl Into<String>) -> Self {
        Self { message: message.into(), file: None, line: None, column: None, hints: Vec::new() }
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let (Some(line), Some(column)) = (self.line, self.column) {
                write!(f, "{line}:{column}:")?;
            }
            write!(f, " ")?;
        }
        write!(f, "{}", self.message)?;
        self.hints.iter().try_for_each(|hint| write!(f, " (hint: {hint})"))
    }
}

/// What a child writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Booted, waiting for the request.
    Ready,
    /// The pages are laid out.
    LaidOut {
        /// How many.
        pages: u32,
    },
    /// The PDF.
    Document(Vec<u8>),
    /// There is no document.
    Failed(Failure),
}

/// Bytes that are no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// No kind of frame has this letter.
    #[error("no frame is of the kind {0:?}")]
    UnknownKind(char),
    /// The payload does not fit the kind.
    #[error("payload of a frame of the kind {kind:?}")]
    Payload {
        /// The frame's kind.
        kind: char,
        /// What is wrong with it, where it is JSON.
        #[source]
        source: Option<serde_json::Error>,
    },
}

/// The header of a frame.
///
/// # Panics
/// Where the payload has 4 GiB or more; [`OutputLimits`] and [`MAX_REQUEST_BYTES`] lie far below.
#[must_use]
pub fn header(kind: u8, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let length = u32::try_from(payload.len()).expect("a frame below 4 GiB").to_be_bytes();
    [kind, length[0], length[1], length[2], length[3]]
}

/// Kind and payload length that a header tells.
#[must_use]
pub fn parse_header([kind, length @ ..]: [u8; HEADER_BYTES]) -> (u8, u32) {
    (kind, u32::from_be_bytes(length))
}

impl Frame {
    /// The frame's kind and payload.
    #[must_use]
    pub fn into_parts(self) -> (u8, Vec<u8>) {
        match self {
            Self::Ready => (READY, Vec::new()),
            Self::LaidOut { pages } => (LAID_OUT, pages.to_be_bytes().to_vec()),
            Self::Document(pdf) => (DOCUMENT, pdf),
            Self::Failed(failure) => (FAILED, serde_json::to_vec(&failure).expect("a failure is plain JSON")),
        }
    }

    /// The frame of this kind and payload.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn from_parts(kind: u8, payload: Vec<u8>) -> Result<Self, FrameError> {
        let unfit = |source| FrameError::Payload { kind: char::from(kind), source };
        match kind {
            READY if payload.is_empty() => Ok(Self::Ready),
            LAID_OUT => {
                let pages = payload.try_into().map_err(|_| unfit(None))?;
                Ok(Self::LaidOut { pages: u32::from_be_bytes(pages) })
            }
            DOCUMENT => Ok(Self::Document(payload)),
            FAILED => serde_json::from_slice(&payload).map(Self::Failed).map_err(|error| unfit(Some(error))),
            READY => Err(unfit(None)),
            _ => Err(FrameError::UnknownKind(char::from(kind))),
        }
    }
}
