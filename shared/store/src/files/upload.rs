//! Files that arrive piece by piece, too large for memory.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, ObjectStoreExt};
use tokio::io::AsyncReadExt;
use tokio::runtime::Handle;

use super::keys::parse_key;
use super::{Files, FilesError, PUT_DEADLINE, READ_DEADLINE, within};

/// What one upload holds in memory: few turns on the threads that wait for the disk, and room for many uploads.
const PART: usize = 1024 * 1024;
/// What the system still holds in its own memory of a file of gigabytes must reach a slow disk.
const FINISH_DEADLINE: Duration = Duration::from_secs(120);

/// A file being written. Nobody sees it until it is finished; dropped before, nothing stays of it. What a process leaves behind that
/// dies meanwhile, [`Files::delete_unfinished`] deletes.
#[derive(Debug)]
pub struct Upload {
    key: String,
    parts: Box<dyn MultipartUpload>,
    /// What is not written yet, less than a part.
    rest: BytesMut,
    bytes: u64,
    /// False while a part is on its way to the disk, and for ever when it did not get there.
    whole: bool,
}

impl Files {
    /// Begins a file that arrives piece by piece. In the end it is under `key` in place of what was there, whole or not at all.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn begin(&self, key: &str) -> Result<Upload, FilesError> {
        let path = parse_key(key)?;
        let store = self.store().clone();
        // The store opens the file on the thread that asks.
        let opening =
            tokio::task::spawn_blocking(move || Handle::current().block_on(async { store.put_multipart(&path).await }));
        let parts = within("store", key, READ_DEADLINE, async { opening.await? }).await?;
        Ok(Upload { key: key.to_owned(), parts, rest: BytesMut::new(), bytes: 0, whole: true })
    }

    /// Stores a file of this machine under `key`, in place of what was there, whole or not at all; its size.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`], also where the file cannot be read.
    pub async fn put_file(&self, key: &str, from: &Path) -> Result<u64, FilesError> {
        let mut upload = self.begin(key).await?;
        let name = from.display().to_string();
        let read = async |file: &mut tokio::fs::File| -> Result<Bytes, FilesError> {
            let mut piece = BytesMut::with_capacity(PART);
            within("read", &name, READ_DEADLINE, async { file.read_buf(&mut piece).await.map_err(failed) }).await?;
            Ok(piece.freeze())
        };
        let mut file =
            within("read", &name, READ_DEADLINE, async { tokio::fs::File::open(from).await.map_err(failed) }).await?;
        loop {
            let piece = read(&mut file).await?;
            if piece.is_empty() {
                return upload.finish().await;
            }
            upload.write(piece).await?;
        }
    }
}

impl Upload {
    /// Adds a piece. Returns when at most a part of it waits in memory. One that fails, or is dropped before it is done, leaves an
    /// upload that cannot be finished.
    ///
    /// # Errors
    /// [`FilesError::Deadline`], [`FilesError::Store`] or [`FilesError::PieceMissing`].
    pub async fn write(&mut self, mut piece: Bytes) -> Result<(), FilesError> {
        while self.rest.len() + piece.len() >= PART {
            self.rest.extend_from_slice(&piece.split_to(PART - self.rest.len()));
            self.write_part().await?;
        }
        self.rest.extend_from_slice(&piece);
        Ok(())
    }

    /// Makes the file visible; how many bytes it has. It survives a power cut then.
    ///
    /// # Errors
    /// [`FilesError::Deadline`], after which it may still become visible, [`FilesError::Store`] or [`FilesError::PieceMissing`].
    pub async fn finish(mut self) -> Result<u64, FilesError> {
        if !self.rest.is_empty() {
            self.write_part().await?;
        }
        if !self.whole {
            return Err(FilesError::PieceMissing(self.key));
        }
        within("store", &self.key, FINISH_DEADLINE, self.parts.complete()).await?;
        Ok(self.bytes)
    }

    /// Ends the upload and waits until nothing is left of it.
    ///
    /// # Errors
    /// [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn abort(mut self) -> Result<(), FilesError> {
        within("give up", &self.key, READ_DEADLINE, self.parts.abort()).await
    }

    async fn write_part(&mut self) -> Result<(), FilesError> {
        // A part that is missing would be a hole: the next one is written behind it all the same.
        if !std::mem::take(&mut self.whole) {
            return Err(FilesError::PieceMissing(self.key.clone()));
        }
        let part = self.rest.split().freeze();
        let length = part.len() as u64;
        within("store", &self.key, PUT_DEADLINE, self.parts.put_part(part.into())).await?;
        self.bytes += length;
        self.whole = true;
        Ok(())
    }
}

fn failed(source: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "a file of this machine", source: source.into() }
}
