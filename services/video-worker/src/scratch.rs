//! Where files are made before they are stored. A process has a folder there for as long as it lives, and each of its runs one
//! inside; what a killed process has left is removed by the next that starts.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Held while a process looks for what others have left, and makes a folder of its own.
const DOOR: &str = "lock";
/// Held by a process, in its own folder, for as long as it lives: the kernel lets go of it, however the process ends.
const ALIVE: &str = "alive";
/// Long enough for another process to remove many large files.
const DOOR_DEADLINE: Duration = Duration::from_secs(30);
const DOOR_PAUSE: Duration = Duration::from_millis(20);

/// This process's folder. Removed with the last clone and the last run.
#[derive(Clone, Debug)]
pub struct Scratch(Arc<Own>);

#[derive(Debug)]
struct Own {
    folder: PathBuf,
    /// Locked.
    _alive: File,
}

impl Scratch {
    /// Makes a folder in `directory`, which is made as well where it is missing, and removes those of processes that are gone.
    ///
    /// # Errors
    /// The directory cannot be written to, or another process keeps its lock for too long.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let door = open_lock(&directory.join(DOOR))?;
        let deadline = Instant::now() + DOOR_DEADLINE;
        while !lock(&door)? {
            if Instant::now() > deadline {
                let message = format!("{} is locked by another process", directory.join(DOOR).display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(DOOR_PAUSE);
        }
        remove_left(directory)?;
        let folder = directory.join(Uuid::now_v7().to_string());
        fs::create_dir(&folder)?;
        let alive = open_lock(&folder.join(ALIVE))?;
        if !lock(&alive)? {
            return Err(io::Error::other(format!("{} is locked by another process", folder.display())));
        }
        Ok(Self(Arc::new(Own { folder, _alive: alive })))
    }

    /// A folder for one run.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self) -> io::Result<RunFolder> {
        let path = self.0.folder.join(Uuid::now_v7().to_string());
        fs::create_dir(&path)?;
        Ok(RunFolder { path, _own: Arc::clone(&self.0) })
    }

    /// Bytes that can be written here.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn room(&self) -> io::Result<u64> {
        let found = rustix::fs::statvfs(&self.0.folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// The folder of one run, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    _own: Arc<Own>,
}

impl RunFolder {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Whether the lock is ours now.
fn lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes the folders whose process is gone. Nothing but what a process has made here is touched.
fn remove_left(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.parse::<Uuid>().is_ok());
        if !is_ours || !entry.file_type()?.is_dir() {
            continue;
        }
        let is_left = match OpenOptions::new().write(true).open(entry.path().join(ALIVE)) {
            Ok(alive) => lock(&alive)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if is_left {
            tracing::info!(folder = %entry.path().display(), "removing what a process has left");
            remove(&entry.path());
        }
    }
    Ok(())
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %folder.display(), "remove a folder: the next process does");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use backing::Directory;

    use super::{ALIVE, Scratch};

    fn folders(directory: &Directory) -> usize {
        fs::read_dir(&directory.0).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    }

    #[test]
    fn a_run_has_a_folder_until_it_ends() {
        let directory = Directory::new();
        let scratch = Scratch::open(&directory.0.join("made")).unwrap();
        let (one, two) = (scratch.folder().unwrap(), scratch.folder().unwrap());
        fs::write(one.path().join("480p.mp4"), "half").unwrap();
        let (path, other) = (one.path().to_owned(), two.path().to_owned());
        drop(one);
        assert!(!path.exists() && other.exists());
        drop(scratch);
        assert!(other.exists(), "a run may outlast what started it");
        drop(two);
        assert!(!other.exists() && !other.parent().unwrap().exists());
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed_and_what_a_live_one_has_is_not() {
        let directory = Directory::new();
        let live = Scratch::open(&directory.0).unwrap();
        let run = live.folder().unwrap();
        // As kills leave them: with a lock that nobody holds, and before there was one.
        for (name, has_lock) in
            [("01a2063f-df1a-731f-9423-cf9240c9fad6", true), ("01a2063f-df1a-731f-9423-cf9240c9fad7", false)]
        {
            fs::create_dir_all(directory.0.join(name).join("run")).unwrap();
            if has_lock {
                fs::write(directory.0.join(name).join(ALIVE), "").unwrap();
            }
        }
        fs::create_dir(directory.0.join("somebody-elses")).unwrap();
        let second = Scratch::open(&directory.0).unwrap();
        assert!(run.path().exists() && directory.0.join("somebody-elses").exists());
        assert_eq!(folders(&directory), 3, "two processes' and somebody else's");
        drop((run, live, second));
        assert_eq!(folders(&directory), 1);
    }

    #[test]
    fn there_is_some_room() {
        let directory = Directory::new();
        let room = Scratch::open(&directory.0).unwrap().room().unwrap();
        assert!(room > 1024 * 1024, "{room}");
    }
}
