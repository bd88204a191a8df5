//! A job as a message: names of headers, properties out and in, and the copies that retries and dead letters are.

use chrono::{DateTime, SubsecRound, Utc};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::events::JobReference;
use crate::jobs::Job;
use crate::topology::Lane;
use crate::trace::{BAGGAGE, TRACEPARENT, TRACESTATE, TraceContext};

/// Runs so far plus this one; 1 where it is absent.
pub const ATTEMPT: &str = "attempt";
/// How often an operator sent it again from the dead letters; 0 where it is absent.
pub const REPLAYS: &str = "replays";
/// The caller that the job belongs to.
pub const OWNER: &str = "owner";
/// Deliveries of this attempt before the message was put back or moved; 0 where it is absent. The broker's own count begins
/// anew with each copy.
pub const REDELIVERIES: &str = "redeliveries";
/// A hash of the payload as its sender gave it, where the sender wants it kept with the effect.
pub const PAYLOAD_HASH: &str = "payload_hash";
/// The queue that a copy came from, and to which it returns.
pub const ORIGIN_QUEUE: &str = "origin_queue";
/// The kind of the last failure, see [`crate::worker::FailureKind`].
pub const FAILURE_KIND: &str = "failure_kind";
/// The last failure in words.
pub const FAILURE: &str = "failure";
/// When the first attempt failed, RFC 3339.
pub const FIRST_FAILED_AT: &str = "first_failed_at";

/// The broker counts here how often a message was delivered before; absent on the first delivery.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// The broker keeps here why and from where it dead-lettered a message, the latest first.
const DEATHS: &str = "x-death";

const JSON: &str = "application/json";
/// A reason may quote what a foreign publisher wrote, megabytes of it.
pub(crate) const FAILURE_BYTES: usize = 2000;

/// A job to publish. Make one by [`OutgoingJob::new`] and set what differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutgoingJob<J> {
    /// The job's id, the same for every retry and replay.
    pub id: Uuid,
    /// How soon it is due.
    #[serde(default)]
    pub lane: Lane,
    /// The caller that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The job that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<Uuid>,
    /// When it was accepted; the wire carries whole seconds.
    pub accepted_at: DateTime<Utc>,
    /// A hash of what its sender asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_hash: Option<String>,
    /// The trace that it belongs to: that of the request or the run that publishes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceContext>,
    /// The payload.
    pub payload: J,
}

/// A job as an outbox keeps it until it is published: JSON, readable by later releases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SealedJob {
    /// Its kind.
    pub kind: String,
    /// The job.
    #[serde(flatten)]
    pub job: OutgoingJob<Value>,
}

impl<J> OutgoingJob<J> {
    /// A job that was accepted now, in the lane `normal`, and belongs to nobody.
    #[must_use]
    pub fn new(id: Uuid, payload: J) -> Self {
        Self {
            id,
            lane: Lane::Normal,
            owner: None,
            correlation_id: None,
            accepted_at: Utc::now(),
            payload_hash: None,
            trace: None,
            payload,
        }
    }

    pub(crate) fn properties(&self, kind: &str, app_id: &str) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(1));
        headers.insert(REPLAYS.into(), AMQPValue::LongLongInt(0));
        let texts = [(OWNER, &self.owner), (PAYLOAD_HASH, &self.payload_hash)];
        for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?))) {
            headers.insert(name.into(), AMQPValue::LongString(text.as_str().into()));
        }
        if let Some(trace) = &self.trace {
            trace.write(&mut headers);
        }
        let properties = base_properties(self.id, kind, self.accepted_at, app_id).with_headers(headers);
        match self.correlation_id {
            Some(cause) => properties.with_correlation_id(cause.to_string().into()),
            None => properties,
        }
    }
}

impl<J: Job> OutgoingJob<J> {
    /// The job as an outbox keeps it.
    ///
    /// # Errors
    /// The payload cannot be written as JSON.
    pub fn sealed(self) -> Result<SealedJob, serde_json::Error> {
        let payload = serde_json::to_value(&self.payload)?;
        let Self { id, lane, owner, correlation_id, accepted_at, payload_hash, trace, .. } = self;
        let job = OutgoingJob { id, lane, owner, correlation_id, accepted_at, payload_hash, trace, payload };
        Ok(SealedJob { kind: J::KIND.to_owned(), job })
    }
}

/// What jobs and events share: id, type, time, JSON, persistent.
pub(crate) fn base_properties(id: Uuid, kind: &str, at: DateTime<Utc>, app_id: &str) -> BasicProperties {
    BasicProperties::default()
        .with_message_id(id.to_string().into())
        .with_type(kind.into())
        .with_content_type(JSON.into())
        .with_timestamp(u64::try_from(at.timestamp()).unwrap_or_default())
        .with_app_id(app_id.into())
        .with_delivery_mode(2)
}

/// What is known of a job from its message's properties alone, whoever published it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The job's id.
    pub id: Uuid,
    /// Its kind.
    pub kind: String,
    /// The caller that it belongs to.
    pub owner: Option<String>,
    /// The job that caused it.
    pub correlation_id: Option<Uuid>,
    /// When it was accepted, in whole seconds; where the publisher did not say, when it was received.
    pub accepted_at: DateTime<Utc>,
    /// Runs so far plus this one, from 1.
    pub attempt: u32,
    /// Replays so far.
    pub replays: u32,
    /// How often it was delivered before in this attempt.
    pub redeliveries: u32,
    /// Where it stands in its trace; a message that has none begins one that derives from the job's id.
    pub trace: TraceContext,
    /// Whether the body is said to be JSON; a publisher that says nothing means it.
    pub is_json: bool,
}

/// Why a message is no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEnvelope {
    /// No `message_id`, or not a UUID.
    #[error("the message_id is not a UUID")]
    Id,
    /// No `type`.
    #[error("the message has no type")]
    Kind,
}

impl Envelope {
    /// The job, as events name it.
    #[must_use]
    pub fn job(&self) -> JobReference {
        let Self { id, kind, owner, correlation_id, .. } = self;
        JobReference { id: *id, kind: kind.clone(), owner: owner.clone(), caused_by: *correlation_id }
    }

    /// Reads the properties of a message.
    ///
    /// # Errors
    /// See [`InvalidEnvelope`].
    pub fn read(properties: &BasicProperties) -> Result<Self, InvalidEnvelope> {
        let id = properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()).ok_or(InvalidEnvelope::Id)?;
        let kind = properties.kind().as_ref().filter(|kind| !kind.as_str().is_empty()).ok_or(InvalidEnvelope::Kind)?;
        let accepted_at =
            properties.timestamp().and_then(|seconds| DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0));
        Ok(Self {
            id,
            kind: kind.to_string(),
            owner: text(properties, OWNER),
            correlation_id: properties.correlation_id().as_ref().and_then(|id| id.as_str().parse().ok()),
            accepted_at: accepted_at.unwrap_or_else(|| Utc::now().trunc_subsecs(0)),
            attempt: count(properties, ATTEMPT).unwrap_or(1).max(1),
            replays: count(properties, REPLAYS).unwrap_or(0),
            redeliveries: count(properties, REDELIVERIES).unwrap_or(0).saturating_add(delivered_before(properties)),
            trace: TraceContext::read(properties.headers().as_ref(), id),
            is_json: properties.content_type().as_ref().is_none_or(|form| form.as_str() == JSON),
        })
    }
}

/// What a copy says that its original did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyNote<'a> {
    pub(crate) origin_queue: &'a str,
    /// Kind and reason.
    pub(crate) failure: Option<(&'a str, &'a str)>,
    pub(crate) attempt: u32,
    pub(crate) redeliveries: u32,
}

/// A message's headers must fit one frame (32 KiB in our `rabbitmq.conf`, 128 KiB as a rule), and a copy needs room for its own: a
/// copy that the broker refuses would be tried for ever.
const CARRIED_HEADER_BYTES: usize = 16 * 1024;
/// Our own headers, in the order in which they get that room; foreign ones get what they leave.
const OWN: [&str; 12] = [
    ATTEMPT,
    REPLAYS,
    REDELIVERIES,
    OWNER,
    PAYLOAD_HASH,
    TRACEPARENT,
    ORIGIN_QUEUE,
    FIRST_FAILED_AT,
    FAILURE_KIND,
    FAILURE,
    TRACESTATE,
    BAGGAGE,
];
/// A value's type, and the lengths of its name and itself.
const HEADER_OVERHEAD: usize = 6;

fn header_bytes(name: &ShortString, value: &AMQPValue) -> usize {
    HEADER_OVERHEAD + name.as_str().len() + approximate_bytes(value)
}

fn approximate_bytes(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => bytes.as_slice().len(),
        AMQPValue::FieldArray(list) => {
            list.as_slice().iter().map(|value| HEADER_OVERHEAD + approximate_bytes(value)).sum()
        }
        AMQPValue::FieldTable(table) => table.inner().iter().map(|(name, value)| header_bytes(name, value)).sum(),
        _ => 16,
    }
}

/// The properties of a copy: those of the original, less the broker's own headers (4.x neither trusts nor carries `x-*`),
/// with what the note says. What is not ours stays as it is.
pub(crate) fn copy_properties(original: &BasicProperties, note: &CopyNote<'_>, now: DateTime<Utc>) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut room = CARRIED_HEADER_BYTES;
    let all = original.headers().as_ref().map(FieldTable::inner);
    let own = OWN.iter().filter_map(|name| all?.get_key_value(&ShortString::from(*name)));
    let is_foreign = |name: &str| !OWN.contains(&name) && !name.starts_with("x-");
    let foreign = all.into_iter().flatten().filter(|(name, _)| is_foreign(name.as_str()));
    for (name, value) in own.chain(foreign) {
        match room.checked_sub(header_bytes(name, value)) {
            Some(rest) => {
                room = rest;
                headers.insert(name.clone(), value.clone());
            }
            None => tracing::warn!(header = name.as_str(), "a header is too large to be carried on"),
        }
    }
    let mut set = |name: &'static str, text: &str| {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    };
    set(ORIGIN_QUEUE, note.origin_queue);
    if let Some((kind, reason)) = note.failure {
        set(FAILURE_KIND, kind);
        set(FAILURE, clip(reason, FAILURE_BYTES));
        if !headers.inner().contains_key(FIRST_FAILED_AT) {
            headers.insert(FIRST_FAILED_AT.into(), AMQPValue::LongString(now.to_rfc3339().as_str().into()));
        }
    }
    headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(i64::from(note.attempt)));
    headers.insert(REDELIVERIES.into(), AMQPValue::LongLongInt(i64::from(note.redeliveries)));
    original.clone().with_headers(headers).with_delivery_mode(2)
}

/// A failure, as it is read from a dead letter: from the worker's note, or where there is none from the broker's.
pub(crate) struct NotedFailure {
    pub(crate) kind: String,
    pub(crate) reason: String,
    /// Whether the broker itself moved the message to where it is: then no worker spoke of it.
    pub(crate) by_broker: bool,
}

pub(crate) fn noted_failure(properties: &BasicProperties) -> NotedFailure {
    let death = header(properties, DEATHS).and_then(|deaths| match deaths {
        AMQPValue::FieldArray(list) => list.as_slice().first().cloned(),
        _ => None,
    });
    if let Some(AMQPValue::FieldTable(death)) = death {
        let part = |name: &str| match death.inner().get(&ShortString::from(name)) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            _ => "unknown".to_owned(),
        };
        let (kind, queue) = (part("reason"), part("queue"));
        let reason = match kind.as_str() {
            "delivery_limit" => {
                format!("returned to \"{queue}\" more often than the broker allows: it seems to kill its worker")
            }
            "rejected" => format!("rejected from \"{queue}\" by its consumer"),
            _ => format!("given up by the broker from \"{queue}\""),
        };
        return NotedFailure { kind, reason, by_broker: true };
    }
    NotedFailure {
        kind: text(properties, FAILURE_KIND).unwrap_or_else(|| "unknown".to_owned()),
        reason: text(properties, FAILURE).unwrap_or_default(),
        by_broker: false,
    }
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(&ShortString::from(name))
}

pub(crate) fn text(properties: &BasicProperties, name: &str) -> Option<String> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// How often the broker delivered this copy before, without hearing of its end.
pub(crate) fn delivered_before(properties: &BasicProperties) -> u32 {
    count(properties, DELIVERY_COUNT).unwrap_or(0)
}

/// Clients write numbers in whatever width their language has.
fn count(properties: &BasicProperties, name: &str) -> Option<u32> {
    match header(properties, name)? {
        AMQPValue::ShortShortInt(number) => u32::try_from(*number).ok(),
        AMQPValue::ShortShortUInt(number) => Some(u32::from(*number)),
        AMQPValue::ShortInt(number) => u32::try_from(*number).ok(),
        AMQPValue::ShortUInt(number) => Some(u32::from(*number)),
        AMQPValue::LongInt(number) => u32::try_from(*number).ok(),
        AMQPValue::LongUInt(number) => Some(*number),
        AMQPValue::LongLongInt(number) => u32::try_from(*number).ok(),
        _ => None,
    }
}

pub(crate) fn clip(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::Noop;

    fn job() -> OutgoingJob<Noop> {
        OutgoingJob {
            owner: Some("alice".to_owned()),
            accepted_at: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            ..OutgoingJob::new(Uuid::from_u128(7), Noop::default())
        }
    }

    #[test]
    fn what_is_published_is_read_back() {
        let envelope = Envelope::read(&job().properties(Noop::KIND, "web")).unwrap();
        assert_eq!(envelope.id, Uuid::from_u128(7));
        assert_eq!((envelope.kind.as_str(), envelope.owner.as_deref()), ("noop.run", Some("alice")));
        assert_eq!((envelope.attempt, envelope.replays, envelope.redeliveries), (1, 0, 0));
        assert_eq!(envelope.accepted_at.timestamp(), 1_700_000_000);
    }

    #[test]
    fn a_job_that_an_outbox_kept_is_published_as_it_would_have_been_at_once() {
        let trace = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some("a=1"));
        let job = OutgoingJob { trace: Some(trace.unwrap().with_baggage(Some("b=2"))), ..job() };
        let kept = serde_json::to_string(&job.clone().sealed().unwrap()).unwrap();
        let sealed: SealedJob = serde_json::from_str(&kept).unwrap();
        assert_eq!(sealed.job.properties(&sealed.kind, "web"), job.properties(Noop::KIND, "web"));
        assert_eq!(text(&job.properties(Noop::KIND, "web"), "tracestate").as_deref(), Some("a=1"));
        let before = r#"{"kind":"noop.run","id":"01a2063f-df1a-731f-9423-cf9240c9fad6","accepted_at":"2026-01-01T00:00:00Z","payload":{}}"#;
        assert_eq!(serde_json::from_str::<SealedJob>(before).unwrap().job.trace, None);
    }

    #[test]
    fn events_name_the_job_that_caused_theirs_at_once_from_an_outbox_and_through_copies() {
        let job = OutgoingJob { correlation_id: Some(Uuid::from_u128(6)), ..job() };
        let properties = job.properties(Noop::KIND, "web");
        let kept = serde_json::to_string(&job.sealed().unwrap()).unwrap();
        let sealed: SealedJob = serde_json::from_str(&kept).unwrap();
        let note = CopyNote { origin_queue: "noop.normal", failure: None, attempt: 2, redeliveries: 0 };
        let copy = copy_properties(&properties, &note, Utc::now());
        for properties in [properties, sealed.job.properties(&sealed.kind, "web"), copy] {
            assert_eq!(Envelope::read(&properties).unwrap().job().caused_by, Some(Uuid::from_u128(6)));
        }
        let foreign = BasicProperties::default()
            .with_message_id(Uuid::from_u128(1).to_string().into())
            .with_type("noop.run".into())
            .with_correlation_id("request 17".into());
        assert_eq!(Envelope::read(&foreign).unwrap().job().caused_by, None);
    }

    #[test]
    fn a_foreign_message_needs_only_an_id_and_a_type() {
        let foreign = BasicProperties::default()
            .with_message_id(Uuid::from_u128(1).to_string().into())
            .with_type("noop.run".into());
        assert_eq!(Envelope::read(&foreign).unwrap().attempt, 1);
        assert_eq!(Envelope::read(&BasicProperties::default()), Err(InvalidEnvelope::Id));
        let xml = foreign.clone().with_content_type("text/xml".into());
        assert!(!Envelope::read(&xml).unwrap().is_json);
    }

    #[test]
    fn a_copy_keeps_foreign_headers_drops_the_brokers_and_notes_the_failure() {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString("00-ab-cd-01".into()));
        headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(3));
        let original = job().properties(Noop::KIND, "web").with_headers(headers);
        let note =
            CopyNote { origin_queue: "noop.normal", failure: Some(("error", "no")), attempt: 2, redeliveries: 0 };
        let early = DateTime::from_timestamp(1_700_000_100, 0).unwrap();
        let copy = copy_properties(&original, &note, early);
        assert_eq!(text(&copy, "traceparent").as_deref(), Some("00-ab-cd-01"));
        assert_eq!(count(&copy, DELIVERY_COUNT), None);
        assert_eq!(count(&copy, ATTEMPT), Some(2));
        assert_eq!(copy.message_id(), original.message_id());
        let later = copy_properties(&copy, &note, early + chrono::Duration::hours(1));
        assert_eq!(text(&later, FIRST_FAILED_AT), text(&copy, FIRST_FAILED_AT));
    }

    #[test]
    fn headers_that_would_not_fit_a_frame_are_left_behind() {
        let mut headers = FieldTable::default();
        headers.insert("huge".into(), AMQPValue::LongString("x".repeat(129_000).as_str().into()));
        headers.insert("owner".into(), AMQPValue::LongString("alice".into()));
        let original = job().properties(Noop::KIND, "web").with_headers(headers);
        let note =
            CopyNote { origin_queue: "noop.normal", failure: Some(("error", "no")), attempt: 2, redeliveries: 0 };
        let copy = copy_properties(&original, &note, Utc::now());
        assert_eq!((text(&copy, "huge"), text(&copy, OWNER).as_deref()), (None, Some("alice")));
    }

    #[test]
    fn foreign_headers_push_out_none_of_ours() {
        let own = [OWNER, PAYLOAD_HASH, FIRST_FAILED_AT, "traceparent", "tracestate", "baggage"];
        let mut headers = FieldTable::default();
        for name in own {
            headers.insert(name.into(), AMQPValue::LongString(name.repeat(20).as_str().into()));
        }
        headers.insert(REPLAYS.into(), AMQPValue::LongLongInt(3));
        // Small ones, which leave no room for another.
        for number in 0..400 {
            headers.insert(format!("a{number:03}").into(), AMQPValue::LongString("x".repeat(64).as_str().into()));
        }
        let original = job().properties(Noop::KIND, "web").with_headers(headers);
        let note =
            CopyNote { origin_queue: "noop.normal", failure: Some(("error", "no")), attempt: 2, redeliveries: 0 };
        let copy = copy_properties(&original, &note, Utc::now());
        for name in own {
            assert_eq!(text(&copy, name).as_deref(), Some(name.repeat(20).as_str()));
        }
        assert_eq!(count(&copy, REPLAYS), Some(3));
        assert!(text(&copy, "a000").is_some() && text(&copy, "a399").is_none(), "as room is left");
    }

    #[test]
    fn a_reason_is_clipped_between_characters() {
        assert_eq!(clip("aä", 2), "a");
        assert_eq!(clip("aä", 3), "aä");
    }
}
