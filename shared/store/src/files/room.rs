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

/// A tenth of a volume, and so much at most, is kept for others: reports and renditions need room too.
const MOST_RESERVED: u64 = 5 << 30;

impl Room {
    /// The bytes that are free once so many are written.
    #[must_use]
    pub fn left_after(&self, bytes: u64) -> u64 {
        self.free.saturating_sub(bytes)
    }

    /// The bytes that uploads must leave.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        (self.total / 10).min(MOST_RESERVED)
    }
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
