//! Many files at once: what belongs together, and what was left behind.

use std::fs::{DirEntry, Metadata, ReadDir};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt};
use object_store::ObjectStore;

use super::keys::{is_name, is_unfinished, parse_key};
use super::{Files, FilesError, absent_as_none, on_disk, within};

/// For looking through a folder of many thousand entries, or deleting a video of many hundred files.
const FOLDER_DEADLINE: Duration = Duration::from_secs(60);

/// The folders in a folder to which nothing has come, and from which nothing has gone, since some moment.
#[derive(Debug)]
pub struct OlderFolders {
    folder: String,
    before: DateTime<Utc>,
    /// `None` when all were seen.
    entries: Option<ReadDir>,
}

impl Files {
    /// Deletes a folder with everything in it, also what nobody finished; one that is not there is deleted already. Takes
    /// folders of one thing only (`videos/<id>`): the folder of all is no such folder.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`]; then a part of it may be gone.
    pub async fn delete_folder(&self, folder: &str) -> Result<(), FilesError> {
        let path = self.local_path(folder)?;
        if !folder.contains('/') {
            return Err(FilesError::Key(folder.to_owned()));
        }
        let deleted = on_disk("delete", folder, FOLDER_DEADLINE, move || std::fs::remove_dir_all(path)).await;
        absent_as_none(deleted)?;
        Ok(())
    }

    /// The keys in and below a folder whose files were last written before that moment, `limit` at most, in no order.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn older_than(
        &self,
        folder: &str,
        before: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<String>, FilesError> {
        let path = parse_key(folder)?;
        let older = self.store().list(Some(&path)).try_filter_map(async |file| {
            let key = file.location.to_string();
            // What the server did not put there it does not name.
            Ok((file.last_modified < before && parse_key(&key).is_ok()).then_some(key))
        });
        within("look through", folder, FOLDER_DEADLINE, older.take(limit).try_collect()).await
    }

    /// The folders in `folder` to which nothing has come, and from which nothing has gone, since that moment.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn older_folders(&self, folder: &str, before: DateTime<Utc>) -> Result<OlderFolders, FilesError> {
        let path = self.local_path(folder)?;
        let entries = absent_as_none(on_disk("look through", folder, FOLDER_DEADLINE, move || path.read_dir()).await)?;
        Ok(OlderFolders { folder: folder.to_owned(), before, entries })
    }

    /// Deletes what uploads to keys right in `folder` left there that were neither finished nor given up, where it was last written
    /// before that moment; how many, `limit` at most.
    ///
    /// # Errors
    /// [`FilesError::Key`], [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn delete_unfinished(
        &self,
        folder: &str,
        before: DateTime<Utc>,
        limit: usize,
    ) -> Result<u64, FilesError> {
        let path = self.local_path(folder)?;
        let deleted =
            on_disk("look through", folder, FOLDER_DEADLINE, move || delete_unfinished(path, before, limit)).await;
        Ok(absent_as_none(deleted)?.unwrap_or(0))
    }
}

impl OlderFolders {
    /// The next of them (`videos/<id>`), `limit` at most; none when all were seen.
    ///
    /// # Errors
    /// [`FilesError::Deadline`] or [`FilesError::Store`], which end it.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<String>, FilesError> {
        let Some(mut entries) = self.entries.take() else {
            return Ok(Vec::new());
        };
        let (folder, before) = (self.folder.clone(), self.before);
        let looking = on_disk("look through", &self.folder, FOLDER_DEADLINE, move || {
            let mut older = Vec::new();
            while older.len() < limit
                && let Some(entry) = entries.next()
            {
                let entry = entry?;
                if let Some(name) = name(&entry).filter(|name| is_name(name))
                    && let Some(metadata) = present(entry.metadata())?
                    && metadata.is_dir()
                    && is_older(&metadata, before)?
                {
                    older.push(format!("{folder}/{name}"));
                }
            }
            Ok((older, entries))
        });
        let (older, entries) = looking.await?;
        self.entries = Some(entries);
        Ok(older)
    }
}

fn delete_unfinished(path: PathBuf, before: DateTime<Utc>, limit: usize) -> io::Result<u64> {
    let mut deleted = 0;
    let mut entries = path.read_dir()?;
    while deleted < limit as u64
        && let Some(entry) = entries.next()
    {
        let entry = entry?;
        if name(&entry).is_some_and(|name| is_unfinished(&name))
            && let Some(metadata) = present(entry.metadata())?
            && metadata.is_file()
            && is_older(&metadata, before)?
            && present(std::fs::remove_file(entry.path()))?.is_some()
        {
            deleted += 1;
        }
    }
    Ok(deleted)
}

fn name(entry: &DirEntry) -> Option<String> {
    entry.file_name().into_string().ok()
}

fn is_older(metadata: &Metadata, before: DateTime<Utc>) -> io::Result<bool> {
    Ok(DateTime::<Utc>::from(metadata.modified()?) < before)
}

/// What others deleted meanwhile is not there.
fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}
