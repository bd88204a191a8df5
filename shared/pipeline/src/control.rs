//! What every process of a service is told over `postroom.control`: orders about single jobs.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An order. Whoever does not run the job passes over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Control {
    /// The job is not wanted any more: stop it if it runs.
    #[serde(rename = "job.cancel")]
    Cancel {
        /// Its id.
        job: Uuid,
    },
}

impl Control {
    /// The `type` of its message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Cancel { .. } => "job.cancel",
        }
    }
}
