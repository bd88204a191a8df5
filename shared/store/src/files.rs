//! Stored files: written whole or not at all, under keys that only this server makes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::local::LocalFileSystem;
use serde::Deserialize;
use url::Url;
use uuid::Uuid;

/// Long enough for a large report on a slow disk, flush included.
const PUT_DEADLINE: Duration = Duration::from_secs(30);
/// For finding a file, for each piece of it, and for deleting it.
const READ_DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_KEY: usize = 200;

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
}

impl FilesError {
    /// Whether the cause may pass (a full disk is emptied, a mount returns); wrong settings and keys do not.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Deadline { .. } | Self::Store { .. } | Self::Directory { .. })
    }
}

/// The key under which the PDF of a report is kept.
#[must_use]
pub fn report_key(report_id: Uuid) -> String {
    format!("reports/{report_id}.pdf")
}

/// The store of files.
#[derive(Clone, Debug)]
pub enum Files {
    /// A directory, shared by every process that reads or writes files.
    Local(Arc<LocalFileSystem>),
}

/// A file being read.
pub struct StoredFile {
    /// Its size.
    pub bytes: u64,
    /// Its content, piece by piece, each with a deadline.
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
        let directory = match (settings.url.scheme(), settings.url.to_file_path()) {
            ("file", Ok(directory)) => directory,
            _ => return Err(FilesError::Address(settings.url.clone())),
        };
        let store = open_directory(&directory)
            .map_err(|source| FilesError::Directory { directory: directory.display().to_string(), source })?;
        Ok(Self::Local(Arc::new(store)))
    }

    /// Stores `content` under `key`, in place of what was there. Readers see the old file or the new one, never a part;
    /// when this returns, the file survives a power cut.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`]; after the last, nothing has changed.
    pub async fn put(&self, key: &str, content: Bytes) -> Result<(), FilesError> {
        let path = parse_key(key)?;
        let Self::Local(store) = self;
        within("store", key, PUT_DEADLINE, store.put(&path, content.into())).await?;
        Ok(())
    }

    /// The file under `key`, or `None`.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`]; the content has errors of its own.
    pub async fn get(&self, key: &str) -> Result<Option<StoredFile>, FilesError> {
        let path = parse_key(key)?;
        let Self::Local(store) = self;
        let Some(found) = absent_as_none(within("read", key, READ_DEADLINE, store.get(&path)).await)? else {
            return Ok(None);
        };
        let bytes = found.meta.size;
        let key = key.to_owned();
        let pieces = stream::try_unfold(found.into_stream(), move |mut pieces| {
            let key = key.clone();
            async move {
                let piece = within("read", &key, READ_DEADLINE, pieces.try_next()).await?;
                Ok(piece.map(|piece| (piece, pieces)))
            }
        });
        Ok(Some(StoredFile { bytes, content: pieces.boxed() }))
    }

    /// The size in bytes of the file under `key`, or `None`.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn size(&self, key: &str) -> Result<Option<u64>, FilesError> {
        let path = parse_key(key)?;
        let Self::Local(store) = self;
        let found = absent_as_none(within("look up", key, READ_DEADLINE, store.head(&path)).await)?;
        Ok(found.map(|meta| meta.size))
    }

    /// Deletes the file under `key`; one that is not there is deleted already.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn delete(&self, key: &str) -> Result<(), FilesError> {
        let path = parse_key(key)?;
        let Self::Local(store) = self;
        absent_as_none(within("delete", key, READ_DEADLINE, store.delete(&path)).await)?;
        Ok(())
    }
}

fn open_directory(directory: &Path) -> Result<LocalFileSystem, Box<dyn std::error::Error + Send + Sync>> {
    std::fs::create_dir_all(directory)?;
    // A put writes beside the file, flushes, renames, and flushes the directory.
    Ok(LocalFileSystem::new_with_prefix(directory)?.with_fsync(true))
}

/// Takes only what the server itself makes: `folder/…/name.extension` of lower-case letters, digits, `-` and `_`, one
/// dot at most in a part and never first. Whatever could climb, be absolute, or clash with the store's own temporary
/// names (`#`) is no key.
fn parse_key(key: &str) -> Result<object_store::path::Path, FilesError> {
    let wrong = || FilesError::Key(key.chars().take(LONGEST_KEY).collect());
    let is_name = |part: &str| {
        let plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        match part.split_once('.') {
            Some((name, extension)) => plain(name) && plain(extension),
            None => plain(part),
        }
    };
    if key.len() > LONGEST_KEY || !key.split('/').all(is_name) {
        return Err(wrong());
    }
    object_store::path::Path::parse(key).map_err(|_| wrong())
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

fn absent_as_none<T>(outcome: Result<T, FilesError>) -> Result<Option<T>, FilesError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(FilesError::Store { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use futures_util::TryStreamExt;
    use uuid::Uuid;

    use super::{Files, FilesError, FilesSettings, READ_DEADLINE, report_key, within};

    /// A directory of its own for a test; `files` in it is made by the store.
    struct Directory(PathBuf);

    impl Directory {
        fn create() -> Self {
            let path = std::env::temp_dir().join(format!("postroom-test-{}", Uuid::new_v4()));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> Files {
            let url = format!("file://{}/files/below", self.0.display()).parse().unwrap();
            Files::open(&FilesSettings { url }).unwrap()
        }

        /// Every file under the directory, by its path from there.
        fn listing(&self) -> Vec<String> {
            let (mut found, mut open) = (Vec::new(), vec![self.0.clone()]);
            while let Some(directory) = open.pop() {
                for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                    if entry.file_type().unwrap().is_dir() {
                        open.push(entry.path());
                    } else {
                        found.push(entry.path().strip_prefix(&self.0).unwrap().display().to_string());
                    }
                }
            }
            found.sort();
            found
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).expect("remove the test's directory");
        }
    }

    async fn read(files: &Files, key: &str) -> Option<Vec<u8>> {
        let file = files.get(key).await.unwrap()?;
        let content: Vec<Bytes> = file.content.try_collect().await.unwrap();
        let content = content.concat();
        assert_eq!(file.bytes, content.len() as u64);
        Some(content)
    }

    #[tokio::test]
    async fn a_file_is_read_back_as_it_was_stored() {
        let directory = Directory::create();
        let files = directory.open();
        // More than one piece.
        let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let key = report_key(Uuid::from_u128(7));
        files.put(&key, content.clone().into()).await.unwrap();
        assert!(read(&files, &key).await.unwrap() == content);
        assert_eq!(files.size(&key).await.unwrap(), Some(1_200_000));
        // Another process, or this one after a restart.
        assert_eq!(directory.open().size(&key).await.unwrap(), Some(1_200_000));
        assert_eq!(directory.listing(), ["files/below/reports/00000000-0000-0000-0000-000000000007.pdf"]);
    }

    #[tokio::test]
    async fn a_file_that_was_never_stored_is_none() {
        let directory = Directory::create();
        let files = directory.open();
        assert!(files.get("reports/none.pdf").await.unwrap().is_none());
        assert_eq!(files.size("reports/none.pdf").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_file_that_is_deleted_is_gone_and_may_be_deleted_again() {
        let directory = Directory::create();
        let files = directory.open();
        files.put("reports/a.pdf", Bytes::from_static(b"x")).await.unwrap();
        files.put("reports/b.pdf", Bytes::from_static(b"x")).await.unwrap();
        for _ in 0..2 {
            files.delete("reports/a.pdf").await.unwrap();
            assert_eq!(directory.listing(), ["files/below/reports/b.pdf"]);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_reader_sees_the_old_file_or_the_new_one_never_a_part() {
        let directory = Directory::create();
        let files = directory.open();
        let versions = [vec![b'a'; 900_000], vec![b'b'; 1_300_000]];
        files.put("a.pdf", versions[0].clone().into()).await.unwrap();
        let writer = tokio::spawn({
            let (files, versions) = (files.clone(), versions.clone());
            async move {
                for round in 0..40 {
                    files.put("a.pdf", versions[round % 2].clone().into()).await.unwrap();
                }
            }
        });
        let mut reads = 0;
        while !writer.is_finished() {
            let seen = read(&files, "a.pdf").await.unwrap();
            assert!(versions.contains(&seen), "{} bytes, first {}", seen.len(), seen[0]);
            reads += 1;
        }
        writer.await.unwrap();
        assert!(reads > 0);
        assert_eq!(directory.listing(), ["files/below/a.pdf"], "nothing temporary stays");
    }

    #[tokio::test]
    async fn a_put_that_fails_leaves_nothing_and_may_be_tried_again() {
        let directory = Directory::create();
        let files = directory.open();
        std::fs::write(directory.0.join("files/below/reports"), "a file where a folder should be").unwrap();
        let error = files.put("reports/a.pdf", Bytes::from_static(b"x")).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(directory.listing(), ["files/below/reports"]);
        std::fs::remove_file(directory.0.join("files/below/reports")).unwrap();
        files.put("reports/a.pdf", Bytes::from_static(b"x")).await.unwrap();
    }

    #[tokio::test]
    async fn no_key_leads_out_of_the_store_or_to_its_temporary_files() {
        let directory = Directory::create();
        std::fs::write(directory.0.join("secret.pdf"), "secret").unwrap();
        let files = directory.open();
        let long = "a".repeat(201);
        for key in [
            "",
            "/",
            ".",
            "..",
            "/etc/passwd",
            "../../secret.pdf",
            "reports/../../../secret.pdf",
            "reports/..",
            "reports//a.pdf",
            "a.pdf#1",
            "a.pdf/",
            "/a.pdf",
            ".hidden",
            "a..pdf",
            "a.b.c",
            "%2e%2e/a.pdf",
            "a\\b",
            "a\0b",
            "A.pdf",
            "ä.pdf",
            "a b",
            &long,
        ] {
            let put = files.put(key, Bytes::from_static(b"x")).await.unwrap_err();
            assert!(matches!(put, FilesError::Key(_)) && !put.is_transient(), "{key}: {put:?}");
            assert!(matches!(files.get(key).await, Err(FilesError::Key(_))), "{key}");
            assert!(matches!(files.size(key).await, Err(FilesError::Key(_))), "{key}");
            assert!(matches!(files.delete(key).await, Err(FilesError::Key(_))), "{key}");
        }
        assert_eq!(directory.listing(), ["secret.pdf"]);
    }

    #[test]
    fn only_a_directory_of_this_machine_can_be_opened() {
        let open = |url: &str| Files::open(&FilesSettings { url: url.parse().unwrap() }).unwrap_err();
        for url in ["https://shop.example/files", "file://elsewhere/files", "s3://bucket"] {
            assert!(matches!(open(url), FilesError::Address(_)), "{url}");
        }
        assert!(matches!(open("file:///dev/null/files"), FilesError::Directory { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_is_not_waited_for() {
        let start = tokio::time::Instant::now();
        let outcome = within("read", "a.pdf", READ_DEADLINE, std::future::pending::<object_store::Result<()>>()).await;
        assert!(matches!(outcome, Err(FilesError::Deadline { .. })) && outcome.unwrap_err().is_transient());
        assert_eq!(start.elapsed(), READ_DEADLINE);
    }
}
