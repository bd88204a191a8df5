//! The one place that publishes. Success is only a positive confirm of a message that reached a queue.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::confirms::{Fate, Message};
use crate::connection::{Link, LinkState};
use crate::control::Control;
use crate::events::Event;
use crate::jobs::Job;
use crate::message::{OutgoingJob, PAYLOAD_HASH, SealedJob, base_properties};
use crate::topology::{CONTROL, EVENTS, UNRECORDED, jobs_exchange};

/// Confirms that may be outstanding at once. Beyond a few hundred the broker gains nothing, and memory must end somewhere.
pub(crate) const WINDOW: usize = 1024;
/// A link this old is rebuilt when a message is returned, which declares what is missing; a younger one has just done so.
const RENEWAL: Duration = Duration::from_secs(10);

/// Why a message is not known to be on a queue. Only after `Unconfirmed` may it be there all the same.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// No connection to the broker. Nothing was sent.
    #[error("not connected to the broker")]
    NotConnected,
    /// The broker is out of memory or disk and takes nothing. Nothing was sent.
    #[error("the broker has blocked its publishers")]
    Blocked,
    /// The confirm window stayed full until the deadline. Nothing was sent.
    #[error("too many messages are waiting for their confirm")]
    WindowFull,
    /// No queue is bound for the routing key.
    #[error("no queue for \"{routing_key}\" on \"{exchange}\"")]
    Returned {
        /// To which exchange.
        exchange: String,
        /// With which routing key.
        routing_key: String,
    },
    /// The queue refused it: it is full.
    #[error("refused for \"{routing_key}\" on \"{exchange}\"")]
    Nacked {
        /// To which exchange.
        exchange: String,
        /// With which routing key.
        routing_key: String,
    },
    /// No confirm by the deadline, or the connection was lost before it: the message may be on its queue or not.
    #[error("no confirm from the broker")]
    Unconfirmed,
    /// The payload cannot be written as JSON.
    #[error("write the message as JSON")]
    Encode(#[from] serde_json::Error),
}

/// Publishes jobs and events over one shared channel; clone it freely, concurrent publishes share the confirm window.
#[derive(Clone, Debug)]
pub struct Publisher {
    link: watch::Receiver<LinkState>,
    window: Arc<Semaphore>,
    app_id: Arc<str>,
    deadline: Duration,
}

/// Where a message goes and with what.
pub(crate) struct Outgoing<'a> {
    pub(crate) exchange: &'a str,
    pub(crate) routing_key: &'a str,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Vec<u8>,
    /// Whether it is a failure that no queue takes it.
    pub(crate) mandatory: bool,
}

impl Publisher {
    pub(crate) fn new(link: watch::Receiver<LinkState>, app_id: &str, deadline: Duration) -> Self {
        Self { link, window: Arc::new(Semaphore::new(WINDOW)), app_id: app_id.into(), deadline }
    }

    /// The same publisher with another deadline, from the call to the confirm.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// Publishes a job. `Ok` means that a queue has it, on disk.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_job<J: Job>(&self, job: &OutgoingJob<J>) -> Result<(), PublishError> {
        let body = serde_json::to_vec(&job.payload)?;
        self.publish(J::KIND, job, body).await
    }

    /// Publishes a job that an outbox kept.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_sealed(&self, sealed: &SealedJob) -> Result<(), PublishError> {
        let body = serde_json::to_vec(&sealed.job.payload)?;
        self.publish(&sealed.kind, &sealed.job, body).await
    }

    async fn publish<J>(&self, kind: &str, job: &OutgoingJob<J>, body: Vec<u8>) -> Result<(), PublishError> {
        let (exchange, routing_key) = (jobs_exchange(kind), job.lane.as_str());
        let properties = job.properties(kind, &self.app_id);
        self.send(Outgoing { exchange: &exchange, routing_key, properties, body, mandatory: true }).await
    }

    /// Tells every process that listens. `Ok` means that each of them will hear it; there may be none.
    ///
    /// # Errors
    /// See [`PublishError`]; an order is never returned.
    pub async fn publish_control(&self, control: &Control) -> Result<(), PublishError> {
        let body = serde_json::to_vec(control)?;
        let properties = base_properties(Uuid::now_v7(), control.kind(), Utc::now(), &self.app_id);
        self.send(Outgoing { exchange: CONTROL, routing_key: "", properties, body, mandatory: false }).await
    }

    /// Publishes for a kind what no queue takes, and waits for the confirm: whether the broker answers who publishes that kind.
    ///
    /// # Errors
    /// See [`PublishError`]; a probe is never returned.
    pub async fn probe(&self, kind: &str) -> Result<(), PublishError> {
        // No lane has this name: the broker drops it and says that it is done.
        let (exchange, routing_key) = (jobs_exchange(kind), "probe");
        let properties = base_properties(Uuid::now_v7(), "probe", Utc::now(), &self.app_id);
        self.send(Outgoing { exchange: &exchange, routing_key, properties, body: b"{}".to_vec(), mandatory: false })
            .await
    }

    /// How many publishes wait for their confirm at the moment; there is a bound.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        WINDOW - self.window.available_permits()
    }

    /// Publishes an event. `Ok` means that every queue bound for it has it; there may be none.
    ///
    /// # Errors
    /// See [`PublishError`]; an event is never returned.
    pub async fn publish_event(&self, event: &Event) -> Result<(), PublishError> {
        let body = serde_json::to_vec(event)?;
        self.send(self.outgoing_event(event, event.body.kind(), body)).await
    }

    /// Publishes an event of which nobody has written down what it tells, so that the tracker does: under `<its type>.unrecorded`.
    ///
    /// # Errors
    /// See [`PublishError`]; an event is never returned.
    pub async fn publish_unrecorded(&self, event: &Event) -> Result<(), PublishError> {
        let body = serde_json::to_vec(event)?;
        let routing_key = format!("{}.{UNRECORDED}", event.body.kind());
        self.send(self.outgoing_event(event, &routing_key, body)).await
    }

    /// Sends an event that may be lost, without waiting for a confirm.
    ///
    /// # Errors
    /// See [`PublishError`]; `Ok` means that it was written to the connection, no more.
    pub async fn hint_event(&self, event: &Event) -> Result<(), PublishError> {
        let link = self.link()?;
        let body = serde_json::to_vec(event)?;
        let outgoing = self.outgoing_event(event, event.body.kind(), body);
        #[expect(clippy::disallowed_methods, reason = "this is publisher.rs")]
        let written = link.unconfirmed.basic_publish(
            outgoing.exchange.into(),
            outgoing.routing_key.into(),
            BasicPublishOptions::default(),
            &outgoing.body,
            outgoing.properties,
        );
        match timeout_at(Instant::now() + self.deadline, written).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(PublishError::Unconfirmed),
            Err(_) => Err(PublishError::Unconfirmed),
        }
    }

    fn outgoing_event<'a>(&self, event: &Event, routing_key: &'a str, body: Vec<u8>) -> Outgoing<'a> {
        let properties = base_properties(event.id, event.body.kind(), event.at, &self.app_id)
            .with_correlation_id(event.job.id.to_string().into());
        let mut headers = FieldTable::default();
        if let Some(trace) = &event.trace {
            trace.write(&mut headers);
        }
        if let Some(hash) = &event.payload_hash {
            headers.insert(PAYLOAD_HASH.into(), AMQPValue::LongString(hash.as_str().into()));
        }
        let properties = properties.with_headers(headers);
        Outgoing { exchange: EVENTS, routing_key, properties, body, mandatory: false }
    }

    /// Has the connection rebuilt, which declares the topology again.
    pub(crate) fn renew(&self) {
        if let LinkState::Up(link) = &*self.link.borrow() {
            link.lost.cancel();
        }
    }

    fn link(&self) -> Result<Arc<Link>, PublishError> {
        match &*self.link.borrow() {
            LinkState::Down { .. } => Err(PublishError::NotConnected),
            LinkState::Up(link) if link.is_blocked() => Err(PublishError::Blocked),
            LinkState::Up(link) => Ok(Arc::clone(link)),
        }
    }

    pub(crate) async fn send(&self, message: Outgoing<'_>) -> Result<(), PublishError> {
        let result = self.send_within(Instant::now() + self.deadline, message).await;
        if let Err(error) = &result {
            metrics::counter!("publish_failures_total", "reason" => error.label()).increment(1);
        }
        result
    }

    async fn send_within(&self, deadline: Instant, outgoing: Outgoing<'_>) -> Result<(), PublishError> {
        let link = self.link()?;
        let _slot = timeout_at(deadline, self.window.acquire()).await.map_err(|_| PublishError::WindowFull)?;
        let (fate, told) = oneshot::channel();
        let Outgoing { exchange, routing_key, properties, body, mandatory } = outgoing;
        let message =
            Message { exchange: exchange.into(), routing_key: routing_key.into(), properties, body, mandatory, fate };
        match link.messages.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(PublishError::WindowFull),
            Err(TrySendError::Closed(_)) => {
                link.lost.cancel();
                return Err(PublishError::NotConnected);
            }
        }
        let place = || (exchange.to_owned(), routing_key.to_owned());
        // Without a word the link was lost.
        match timeout_at(deadline, told).await.ok().and_then(Result::ok).unwrap_or(Fate::Unknown) {
            Fate::Taken => Ok(()),
            Fate::Returned => {
                if link.since.elapsed() > RENEWAL {
                    link.lost.cancel();
                }
                let (exchange, routing_key) = place();
                Err(PublishError::Returned { exchange, routing_key })
            }
            Fate::Refused => {
                let (exchange, routing_key) = place();
                Err(PublishError::Nacked { exchange, routing_key })
            }
            Fate::Unknown => Err(PublishError::Unconfirmed),
        }
    }
}

impl PublishError {
    fn label(&self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Blocked => "blocked",
            Self::WindowFull => "window_full",
            Self::Returned { .. } => "returned",
            Self::Nacked { .. } => "nacked",
            Self::Unconfirmed => "unconfirmed",
            Self::Encode(_) => "encode",
        }
    }
}
