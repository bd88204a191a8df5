//! What happened: the events on `postroom.events`, and the dead letters that have none.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::jobs::{Period, VideoTitle};
use crate::trace::TraceContext;
use crate::worker::JobContext;

/// One event. `message_id` is its own, `correlation_id` the job's, routing key and `type` say what happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// The event's own id, the AMQP `message_id`; not in the body.
    #[serde(skip)]
    #[schemars(skip)]
    pub id: Uuid,
    /// The trace that it belongs to, in the headers; not in the body.
    #[serde(skip)]
    #[schemars(skip)]
    pub trace: Option<TraceContext>,
    /// Of the payload, where the job was asked for under a key and the tracker is to know; in the headers, not in the body.
    #[serde(skip)]
    #[schemars(skip)]
    pub payload_hash: Option<String>,
    /// The job that it tells of.
    pub job: JobReference,
    /// The run that it comes from; absent where the job was not running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunReference>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Which job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobReference {
    /// The job's id.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// The caller that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The job that caused it; absent where that is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<Uuid>,
}

/// Which run of it. Events are ordered by (`replays`, `attempt`, `redeliveries`, `sequence`), however they arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunReference {
    /// The run's own id. Made when it begins: a version 7 UUID holds that moment.
    pub id: Uuid,
    /// The process that ran it, `<service>@<host>:<process id>`.
    pub worker: String,
    /// Replays before it.
    pub replays: u32,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Deliveries of this attempt before it.
    pub redeliveries: u32,
    /// Growing from 1 within the run.
    pub sequence: u32,
}

/// What happened, by type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type")]
pub enum EventBody {
    /// Accepted and on the broker.
    #[serde(rename = "job.queued")]
    Queued {},
    /// A worker runs it. Left out where the run ended within 250 ms.
    #[serde(rename = "job.started")]
    Started {},
    /// How far it is; at most 4 a second, and some may be lost.
    #[serde(rename = "job.progressed")]
    Progressed {
        /// The latest.
        progress: Progress,
    },
    /// An attempt failed, and there will be another.
    #[serde(rename = "job.retrying")]
    Retrying {
        /// Why it failed.
        failure: FailureReport,
        /// About how long until the next attempt, in seconds.
        delay_seconds: f64,
        /// The next attempt's number.
        next_attempt: u32,
    },
    /// Done. Final.
    #[serde(rename = "job.succeeded")]
    Succeeded {
        /// What the job made, by kind; `null` where there is nothing to say.
        result: serde_json::Value,
    },
    /// A final answer for the customer: it cannot be done. Final.
    #[serde(rename = "job.refused")]
    Refused {
        /// The answer.
        refusal: Refusal,
    },
    /// Stopped, or never begun, because its owner asked for that. Final.
    #[serde(rename = "job.cancelled")]
    Cancelled {},
    /// Given up; the message lies among the dead letters. Final until an operator replays it.
    #[serde(rename = "job.dead")]
    Dead {
        /// Why.
        failure: FailureReport,
    },
    /// A report can be downloaded.
    #[serde(rename = "report.ready")]
    ReportReady {
        /// The report.
        report: ReadyReport,
    },
    /// An order stands.
    #[serde(rename = "order.placed")]
    OrderPlaced {
        /// The order.
        order: PlacedOrder,
    },
    /// A video can be watched.
    #[serde(rename = "video.ready")]
    VideoReady {
        /// The video.
        video: ReadyVideo,
    },
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// What is being done, for a person.
    pub phase: String,
    /// Steps done.
    pub done: u64,
    /// Steps in all; 0 where that is not known.
    pub total: u64,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailureReport {
    /// `error`, `timed_out`, `panicked`, `rejected`, `unavailable`, `undecodable`, `unknown_kind`; from the broker `delivery_limit`,
    /// `rejected`.
    pub kind: String,
    /// For an operator.
    pub reason: String,
}

/// Why a job cannot be done, for the customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// For a program, for example `out-of-stock`.
    pub code: String,
    /// For a person.
    pub reason: String,
}

/// A report that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyReport {
    /// Its id, which is its job's.
    pub id: Uuid,
    /// Its title.
    pub title: String,
    /// The days that it covers.
    pub period: Period,
    /// Its key in the object store.
    pub key: String,
    /// Its pages.
    pub pages: u32,
    /// Its size.
    pub bytes: u64,
}

/// An order that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacedOrder {
    /// Its id, which is its job's.
    pub id: Uuid,
    /// Its number, for people.
    pub number: i64,
    /// The user who buys.
    pub customer: Uuid,
    /// When the shop took it.
    pub accepted_at: DateTime<Utc>,
    /// When it was placed: its prices are those of that moment.
    pub placed_at: DateTime<Utc>,
    /// ISO 4217, of every amount here.
    pub currency: String,
    /// What it costs in all, in the currency's smallest unit.
    pub total_minor: i64,
    /// What was ordered.
    pub lines: Vec<PlacedLine>,
}

/// A line of an order that stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacedLine {
    /// The product.
    pub product_id: Uuid,
    /// How many pieces.
    pub quantity: u32,
    /// What one of them costs, in the currency's smallest unit.
    pub unit_price_minor: i64,
}

/// A video that is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyVideo {
    /// Its id, which is its job's.
    pub id: Uuid,
    /// Its title.
    pub title: VideoTitle,
    /// How long it lasts, in milliseconds.
    pub millis: u64,
    /// The folder of its files in the object store.
    pub folder: String,
    /// Its renditions, the largest first.
    pub renditions: Vec<ReadyRendition>,
}

/// One size of a video.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadyRendition {
    /// `720p` or `480p`; its MP4 file is `<name>.mp4`, its HLS playlist `<name>.m3u8`.
    pub name: String,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// The size of the MP4 file.
    pub bytes: u64,
}

impl EventBody {
    /// The event's type, which is its routing key.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Queued {} => "job.queued",
            Self::Started {} => "job.started",
            Self::Progressed { .. } => "job.progressed",
            Self::Retrying { .. } => "job.retrying",
            Self::Succeeded { .. } => "job.succeeded",
            Self::Refused { .. } => "job.refused",
            Self::Cancelled {} => "job.cancelled",
            Self::Dead { .. } => "job.dead",
            Self::ReportReady { .. } => "report.ready",
            Self::OrderPlaced { .. } => "order.placed",
            Self::VideoReady { .. } => "video.ready",
        }
    }
}

impl Event {
    /// An event of now.
    #[must_use]
    pub fn new(job: JobReference, run: Option<RunReference>, body: EventBody) -> Self {
        Self { id: Uuid::now_v7(), trace: None, payload_hash: None, job, run, at: Utc::now(), body }
    }

    /// A fact that a job brought about. Its id derives from the job and the type: told again by a later attempt, it is the same.
    #[must_use]
    pub fn of_job(context: &JobContext, body: EventBody) -> Self {
        let id = context.child_id(body.kind());
        Self { id, trace: Some(context.trace().clone()), ..Self::new(context.job(), None, body) }
    }

    /// The event as an outbox keeps it.
    #[must_use]
    pub fn sealed(self) -> SealedEvent {
        SealedEvent { id: self.id, trace: self.trace.clone(), event: self }
    }
}

/// An event with what its body does not say, as an outbox keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SealedEvent {
    id: Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
    event: Event,
}

impl SealedEvent {
    /// The event as it was.
    #[must_use]
    pub fn opened(self) -> Event {
        Event { id: self.id, trace: self.trace, ..self.event }
    }
}

/// A job that the broker itself gave up: by its delivery limit, or because a consumer of another make rejected it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Derived from the job's id and its counters: the same however often it is delivered.
    pub event_id: Uuid,
    /// The job.
    pub job: JobReference,
    /// Replays before it died.
    pub replays: u32,
    /// The attempt in which it died.
    pub attempt: u32,
    /// Why.
    pub failure: FailureReport,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Event, EventBody, JobReference, SealedEvent};
    use crate::trace::TraceContext;

    #[test]
    fn an_event_that_an_outbox_kept_is_the_same() {
        let job = JobReference { id: Uuid::from_u128(7), kind: "noop.run".to_owned(), owner: None, caused_by: None };
        let trace = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some("a=1"));
        let event = Event { trace, ..Event::new(job, None, EventBody::Queued {}) };
        let kept = serde_json::to_string(&event.clone().sealed()).unwrap();
        assert_eq!(serde_json::from_str::<SealedEvent>(&kept).unwrap().opened(), event);
    }
}
