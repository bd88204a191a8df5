//! `email.send`: send one mail from a template.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Job, Period, Recipient, VideoTitle};

/// Asks for one mail. Its `Message-ID` is made from the job's id, so that a mail sent twice can be told from two mails.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct SendEmail {
    /// To whom.
    pub to: Recipient,
    /// The template and what it is filled with.
    #[serde(flatten)]
    pub message: Message,
}

impl Job for SendEmail {
    const KIND: &'static str = "email.send";
}

/// The mails there are, by template.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "template", content = "data", rename_all = "kebab-case")]
pub enum Message {
    /// A report is done: a link, and the file itself when it is small enough.
    ReportReady(ReportReady),
    /// An account was made with the address.
    Welcome,
    /// Somebody tried to make an account with the address, which has one.
    AddressTaken,
    /// An order stands.
    OrderPlaced(OrderPlaced),
    /// An order cannot be.
    OrderRefused(OrderRefused),
    /// A video can be watched.
    VideoReady(VideoReady),
    /// A video cannot be shown.
    VideoRefused(VideoRefused),
}

/// What the `report-ready` mail says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportReady {
    /// The report's id, which is its job's.
    pub report_id: Uuid,
    /// The report's title.
    pub title: String,
    /// The days that it covers.
    pub period: Period,
    /// Its number of pages.
    pub pages: u32,
    /// The file.
    pub file: FileReference,
}

/// A file in the object store.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileReference {
    /// Its key in the store.
    pub key: String,
    /// The name that a person sees.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its size.
    pub bytes: u64,
}

/// What the `order-placed` mail says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderPlaced {
    /// The order's id, which is its job's.
    pub order_id: Uuid,
    /// Its number, for people.
    pub number: i64,
    /// When it was placed: its prices are those of that moment.
    pub placed_at: DateTime<Utc>,
    /// ISO 4217, of every amount here.
    pub currency: String,
    /// What it costs in all, in the currency's smallest unit.
    pub total_minor: i64,
    /// What was ordered.
    pub lines: Vec<OrderedItem>,
}

/// A line of an order that stands.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderedItem {
    /// The product's name.
    pub name: String,
    /// How many pieces.
    pub quantity: u32,
    /// What one of them costs, in the currency's smallest unit.
    pub unit_price_minor: i64,
}

/// What the `order-refused` mail says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderRefused {
    /// The order's id, which is its job's.
    pub order_id: Uuid,
    /// Why, in a sentence.
    pub reason: String,
}

/// What the `video-ready` mail says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoReady {
    /// The video's id, which is its job's.
    pub video_id: Uuid,
    /// Its title.
    pub title: VideoTitle,
    /// How long it lasts, in whole seconds.
    pub seconds: u64,
    /// The name of the file to watch: `720p.mp4`.
    pub file: String,
}

/// What the `video-refused` mail says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoRefused {
    /// The video's id, which is its job's.
    pub video_id: Uuid,
    /// Its title.
    pub title: VideoTitle,
    /// Why, in a sentence.
    pub reason: String,
}
