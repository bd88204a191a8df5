//! Stored files: written whole or not at all, under keys that only this server makes.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use serde::Deserialize;
use url::Url;

mod folders;
mod keys;
mod room;
mod upload;

pub use folders::OlderFolders;
use keys::parse_key;
pub use keys::{UPLOADS, VIDEOS, is_video_source, report_key, upload_key, video_folder, video_key, video_source_key};
pub use room::Room;
pub use upload::Upload;

/// Long enough for a large report on a slow disk, flush included.
const PUT_DEADLINE: Duration = Duration::from_secs(30);
/// For finding a file, for each piece of it, and for deleting it.
const READ_DEADLINE: Duration = Duration::from_secs(10);
/// What one reader holds in memory. Each piece is a turn on a thread that may wait for the disk.
const PIECE: u64 = 64 * 1024;

/// Where files are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesSettings {
    /// `file:///absolute/directory`
    pub url: Url,
}

/// Why a file could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The address in the settings names no place that is known.
    #[error("files.url \"{0}\" is not of the form file:///absolute/directory")]
    Address(Url),
    /// The directory cannot be made or entered.
    #[error("open the directory of files \"{directory}\"")]
    Directory {
        /// The directory.
        directory: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The key is not one that this server makes.
    #[error("\"{0}\" is not the key of a file")]
    Key(String),
    /// The file has no such bytes.
    #[error("read \"{key}\": {} to {} is no range of its {bytes} bytes", .range.start, .range.end)]
    Range {
        /// Of which file.
        key: String,
        /// What was asked for.
        range: Range<u64>,
        /// The size of the file.
        bytes: u64,
    },
    /// No answer in time; a put may still happen.
    #[error("{action} \"{key}\": no answer from the store of files within {} s", .deadline.as_secs())]
    Deadline {
        /// What was tried.
        action: &'static str,
        /// Of which file.
        key: String,
        /// How long it was waited for.
        deadline: Duration,
    },
    /// The store failed: disk full, permissions, a broken disk.
    #[error("{action} \"{key}\"")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Of which file.
        key: String,
        /// What the store said.
        #[source]
        source: object_store::Error,
    },
    /// An earlier piece of the upload was not written to its end, so that the rest is of no use.
    #[error("store \"{0}\": a piece of it is missing")]
    PieceMissing(String),
}

impl FilesError {
    /// Whether the cause may pass (a full disk is emptied, a mount returns); wrong settings and keys do not.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Deadline { .. } | Self::Store { .. } | Self::Directory { .. } | Self::PieceMissing(_) => true,
            Self::Address(_) | Self::Key(_) | Self::Range { .. } => false,
        }
    }
}

/// The store of files.
#[derive(Clone, Debug)]
pub enum Files {
    /// A directory, shared by every process that reads or writes files.
    Local(Arc<LocalDirectory>),
}

/// A directory of this machine.
#[derive(Debug)]
pub struct LocalDirectory {
    path: PathBuf,
    store: LocalFileSystem,
}

/// A file being read.
pub struct StoredFile {
    /// The size of the whole file, also where only a range of it is read.
    pub bytes: u64,
    /// Its content, or the range of it, piece by piece, each with a deadline.
    pub content: BoxStream<'static, Result<Bytes, FilesError>>,
}

impl std::fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredFile").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Files {
    /// Opens the store, making its directory where that is missing.
    ///
    /// # Errors
    /// [`FilesError::Address`] or [`FilesError::Directory`].
    pub fn open(settings: &FilesSettings) -> Result<Self, FilesError> {
        let path = match (settings.url.scheme(), settings.url.to_file_path()) {
            ("file", Ok(path)) => path,
            _ => return Err(FilesError::Address(settings.url.clone())),
        };
        let store = open_directory(&path)
            .map_err(|source| FilesError::Directory { directory: path.display().to_string(), source })?;
        Ok(Self::Local(Arc::new(LocalDirectory { path, store })))
    }

    /// Stores `content` under `key`, in place of what was there. Readers see the old file or the new one, never a part;
    /// when this returns, the file survives a power cut.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`]; after the last, nothing has changed.
    pub async fn put(&self, key: &str, content: Bytes) -> Result<(), FilesError> {
        let path = parse_key(key)?;
        within("store", key, PUT_DEADLINE, self.store().put(&path, content.into())).await?;
        Ok(())
    }

    /// The file under `key`, or `None`.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`]; the content has errors of its own.
    pub async fn get(&self, key: &str) -> Result<Option<StoredFile>, FilesError> {
        let found = self.find(key).await?;
        Ok(found.map(|(file, bytes)| StoredFile { bytes, content: pieces(key.to_owned(), file, 0..bytes) }))
    }

    /// The bytes of the file under `key` from `range.start` to before `range.end`, or `None` where there is no file.
    ///
    /// # Errors
    /// [`FilesError::Range`] where the range is empty or goes beyond the file's end; else as [`get`](Self::get).
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Option<StoredFile>, FilesError> {
        let Some((file, bytes)) = self.find(key).await? else {
            return Ok(None);
        };
        if range.is_empty() || range.end > bytes {
            return Err(FilesError::Range { key: key.to_owned(), range, bytes });
        }
        Ok(Some(StoredFile { bytes, content: pieces(key.to_owned(), file, range) }))
    }

    /// The size in bytes of the file under `key`, or `None`.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn size(&self, key: &str) -> Result<Option<u64>, FilesError> {
        let path = parse_key(key)?;
        let found = absent_as_none(within("look up", key, READ_DEADLINE, self.store().head(&path)).await)?;
        Ok(found.map(|meta| meta.size))
    }

    /// Gives the file under `from` the key `to`, in place of what was there: at every moment it has one of the two. False where
    /// there is no file under `from`.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn rename(&self, from: &str, to: &str) -> Result<bool, FilesError> {
        let (old, new) = (parse_key(from)?, parse_key(to)?);
        let renamed = within("rename", from, READ_DEADLINE, self.store().rename(&old, &new)).await;
        Ok(absent_as_none(renamed)?.is_some())
    }

    /// Deletes the file under `key`; one that is not there is deleted already.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn delete(&self, key: &str) -> Result<(), FilesError> {
        let path = parse_key(key)?;
        absent_as_none(within("delete", key, READ_DEADLINE, self.store().delete(&path)).await)?;
        Ok(())
    }

    /// Where a program of this machine can read the file under `key`, if it is there.
    ///
    /// # Errors
    /// [`FilesError::Key`].
    pub fn local_path(&self, key: &str) -> Result<PathBuf, FilesError> {
        let path = parse_key(key)?;
        self.store().path_to_filesystem(&path).map_err(|_| FilesError::Key(key.to_owned()))
    }

    /// The file under `key` with its size.
    async fn find(&self, key: &str) -> Result<Option<(File, u64)>, FilesError> {
        let path = self.local_path(key)?;
        let found = on_disk("read", key, READ_DEADLINE, move || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_file() { Ok((file, metadata.len())) } else { Err(ErrorKind::NotFound.into()) }
        });
        absent_as_none(found.await)
    }

    fn store(&self) -> &LocalFileSystem {
        let Self::Local(directory) = self;
        &directory.store
    }
}

fn open_directory(directory: &Path) -> Result<LocalFileSystem, Box<dyn std::error::Error + Send + Sync>> {
    std::fs::create_dir_all(directory)?;
    // A put writes beside the file, flushes, renames, and flushes the directory.
    Ok(LocalFileSystem::new_with_prefix(directory)?.with_fsync(true))
}

/// The bytes of the range, which the file has.
fn pieces(key: String, file: File, range: Range<u64>) -> BoxStream<'static, Result<Bytes, FilesError>> {
    let pieces = stream::try_unfold((file, range), move |(mut file, range)| {
        let key = key.clone();
        async move {
            if range.is_empty() {
                return Ok(None);
            }
            on_disk("read", &key, READ_DEADLINE, move || {
                let wanted = PIECE.min(range.end - range.start);
                let mut piece = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
                file.seek(SeekFrom::Start(range.start))?;
                (&mut file).take(wanted).read_to_end(&mut piece)?;
                // Files are never cut. This one was, by other hands: without an end the reader would wait for the rest for ever.
                if piece.len() as u64 != wanted {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Ok(Some((Bytes::from(piece), (file, range.start + wanted..range.end))))
            })
            .await
        }
    });
    pieces.boxed()
}

async fn within<T>(
    action: &'static str,
    key: &str,
    deadline: Duration,
    work: impl Future<Output = object_store::Result<T>>,
) -> Result<T, FilesError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(outcome) => outcome.map_err(|source| FilesError::Store { action, key: key.to_owned(), source }),
        Err(_) => Err(FilesError::Deadline { action, key: key.to_owned(), deadline }),
    }
}

/// The same for work that waits for the disk, on a thread that may. After the deadline nobody waits for it any more.
async fn on_disk<T: Send + 'static>(
    action: &'static str,
    key: &str,
    deadline: Duration,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, FilesError> {
    let work = tokio::task::spawn_blocking(work);
    within(action, key, deadline, async {
        work.await?.map_err(|source| match source.kind() {
            ErrorKind::NotFound => object_store::Error::NotFound { path: key.to_owned(), source: source.into() },
            _ => object_store::Error::Generic { store: "LocalDirectory", source: source.into() },
        })
    })
    .await
}

fn absent_as_none<T>(outcome: Result<T, FilesError>) -> Result<Option<T>, FilesError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(FilesError::Store { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
