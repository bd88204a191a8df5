//! How full the volume is.

use super::{Files, FilesError, READ_DEADLINE, on_disk};

/// What the volume of the files holds. Others may share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The bytes that may still be written.
    pub free: u64,
    /// Its size in bytes.
    pub total: u64,
}

impl Files {
    /// How much room there is right now.
    ///
    /// # Errors
    /// [`FilesError::Deadline`] or [`FilesError::Store`].
    pub async fn room(&self) -> Result<Room, FilesError> {
        let Self::Local(directory) = self;
        let path = directory.path.clone();
        on_disk("look for room in", &directory.path.display().to_string(), READ_DEADLINE, move || {
            let volume = rustix::fs::statvfs(&path)?;
            // Without the blocks that are kept for root.
            let free = volume.f_bavail.saturating_mul(volume.f_frsize);
            Ok(Room { free, total: volume.f_blocks.saturating_mul(volume.f_frsize) })
        })
        .await
    }
}
