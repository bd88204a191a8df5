//! The contracts of the jobs: one file per kind, imperative verbs. A released kind never changes its meaning.

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod mailbox;
mod noop;
mod period;
mod place_order;
mod render_report;
mod report_template;
mod send_email;
mod transcode_video;

pub use mailbox::{EmailAddress, InvalidMailbox, PersonName, Recipient};
pub use noop::Noop;
pub use period::{InvalidPeriod, Period};
pub use place_order::{InvalidOrder, OrderLine, OrderLines, PlaceOrder, Quantity};
pub use render_report::{Grouping, RenderReport, ReportKind};
pub use report_template::{RelativePeriod, ReportTemplate};
pub use send_email::{
    FileReference, Message, OrderPlaced, OrderRefused, OrderedItem, ReportReady, SendEmail, VideoReady, VideoRefused,
};
pub use transcode_video::{InvalidTitle, TranscodeVideo, VideoSource, VideoTitle};

/// The payload of one kind of job: the whole body of its message, as JSON.
pub trait Job: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The kind: the AMQP `type`, and the routing key without its lane. A literal, never derived from a Rust name.
    const KIND: &'static str;
}
