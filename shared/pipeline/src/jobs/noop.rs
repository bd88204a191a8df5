//! `noop.run`: a job that a worker may do without doing anything. Tests and benchmarks use it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Job;

/// Asks for nothing. `note` is there to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noop {
    /// Any text.
    pub note: String,
}

impl Job for Noop {
    const KIND: &'static str = "noop.run";
}
