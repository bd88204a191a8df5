//! A directory of its own for one test.

use std::path::PathBuf;

use uuid::Uuid;

/// An empty directory, removed with all that is in it when this is dropped.
#[derive(Debug)]
pub struct Directory(pub PathBuf);

impl Directory {
    /// Makes one.
    ///
    /// # Panics
    /// When the system does not let it.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it has an effect")]
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("postroom-test-{}", Uuid::new_v4().simple()));
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    /// Where it is, for the settings of a service.
    #[must_use]
    pub fn url(&self) -> String {
        format!("file://{}", self.0.display())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("remove a directory");
    }
}
