//! The states of a job and the events that lead to them, by the names they have in the database and on the wire.

use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted, not begun.
    Queued,
    /// A worker has it.
    Running,
    /// An attempt failed; the next one waits for its time.
    Retrying,
    /// Done. Final.
    Succeeded,
    /// Answered with a no, for example out of stock. Final.
    Refused,
    /// Called off by its owner. Final.
    Cancelled,
    /// Given up; an operator may replay it. Final until then.
    Dead,
}

impl JobState {
    /// Every state there is.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Retrying, Self::Succeeded, Self::Refused, Self::Cancelled, Self::Dead];

    /// Whether only a replay leads on from here.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Refused | Self::Cancelled | Self::Dead)
    }

    /// The name in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }
}

/// What an event says of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobEventType {
    /// `job.queued`
    #[serde(rename = "job.queued")]
    Queued,
    /// `job.started`
    #[serde(rename = "job.started")]
    Started,
    /// `job.progressed`, with `progress`
    #[serde(rename = "job.progressed")]
    Progressed,
    /// `job.retrying`, with `failure`
    #[serde(rename = "job.retrying")]
    Retrying,
    /// `job.succeeded`, with `result`
    #[serde(rename = "job.succeeded")]
    Succeeded,
    /// `job.refused`, with `refusal`
    #[serde(rename = "job.refused")]
    Refused,
    /// `job.cancelled`
    #[serde(rename = "job.cancelled")]
    Cancelled,
    /// `job.dead`, with `failure`
    #[serde(rename = "job.dead")]
    Dead,
}

impl JobEventType {
    /// Every type there is.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Started,
        Self::Progressed,
        Self::Retrying,
        Self::Succeeded,
        Self::Refused,
        Self::Cancelled,
        Self::Dead,
    ];

    /// The type with this name on the wire, if it is the event of a job.
    #[must_use]
    pub fn from_wire(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event_type| event_type.as_str() == name)
    }

    /// The state to which it leads.
    #[must_use]
    pub fn state(self) -> JobState {
        match self {
            Self::Queued => JobState::Queued,
            Self::Started | Self::Progressed => JobState::Running,
            Self::Retrying => JobState::Retrying,
            Self::Succeeded => JobState::Succeeded,
            Self::Refused => JobState::Refused,
            Self::Cancelled => JobState::Cancelled,
            Self::Dead => JobState::Dead,
        }
    }

    /// The name in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "job.queued",
            Self::Started => "job.started",
            Self::Progressed => "job.progressed",
            Self::Retrying => "job.retrying",
            Self::Succeeded => "job.succeeded",
            Self::Refused => "job.refused",
            Self::Cancelled => "job.cancelled",
            Self::Dead => "job.dead",
        }
    }
}

/// What an event did to its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It is the newest word on the job.
    Moved,
    /// It was overtaken; only the timeline knows it.
    Late,
    /// It is final, and so was the job already; only the timeline knows it.
    Duplicate,
}

impl Effect {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Late => "late",
            Self::Duplicate => "duplicate",
        }
    }
}

/// A name that this version does not know, read from the database.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" is not a name that is known here")]
pub struct UnknownName(String);

impl TryFrom<String> for JobState {
    type Error = UnknownName;

    fn try_from(name: String) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|state| state.as_str() == name).ok_or(UnknownName(name))
    }
}

impl TryFrom<String> for JobEventType {
    type Error = UnknownName;

    fn try_from(name: String) -> Result<Self, UnknownName> {
        Self::from_wire(&name).ok_or(UnknownName(name))
    }
}

impl TryFrom<String> for Effect {
    type Error = UnknownName;

    fn try_from(name: String) -> Result<Self, UnknownName> {
        [Self::Moved, Self::Late, Self::Duplicate]
            .into_iter()
            .find(|effect| effect.as_str() == name)
            .ok_or(UnknownName(name))
    }
}
