//! Settles a delivery: publish the copy and the event, wait for their confirms, then ack the original. A crash in between
//! duplicates; it never loses.

use std::time::Duration;

use chrono::Utc;
use lapin::message::Delivery;
use rand::Rng;

use crate::consumer::Settle;
use crate::events::{EventBody, FailureReport};
use crate::message::{CopyNote, copy_properties};
use crate::policy::{PUT_BACK, Tier};
use crate::publisher::{Outgoing, PublishError};
use crate::topology::{DEAD, DELAY, RETURN, early};

use super::consume::Worker;
use super::decide::Decision;
use super::run::Received;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Settlement<'a> {
    pub(super) worker: &'a Worker,
    pub(super) received: Received,
    pub(super) delivery: Delivery,
    pub(super) settle: Settle,
}

/// `Err` when the delivery can no longer be settled here, because its channel is gone.
type Settled = Result<(), Lost>;
struct Lost;

impl Settlement<'_> {
    pub(super) async fn settle(mut self, decision: Decision) {
        let span = self.received.span.clone();
        let (worker, outcome) = (self.worker, label(&decision));
        let setting_apart = match decision {
            Decision::SetApart => Some(worker.setting_apart.read().await),
            _ => None,
        };
        span.in_scope(|| self.log(&decision));
        let settled = match decision {
            Decision::Succeed(_) if self.is_quiet() => Ok(()),
            // Boxed: a future is as large as the largest of its branches, and is moved and allocated for each delivery.
            decision => Box::pin(self.publish(decision)).await,
        };
        let kind = self.received.envelope.as_ref().map_or("none", |envelope| self.known_kind(&envelope.kind));
        let duration = self.received.begun.elapsed();
        // The ack goes out by itself; if it does not arrive the job is delivered again, like after any crash. Of a message that
        // is set apart a crash is near: its run apart waits for the ack.
        let acked = match (settled, &setting_apart) {
            (Err(Lost), _) => false,
            (Ok(()), None) => self.settle.done(),
            (Ok(()), Some(_)) => Box::pin(self.settle.acked()).await,
        };
        drop(setting_apart);
        if !acked {
            span.in_scope(|| {
                tracing::warn!("the connection was lost before the job was settled: it will be delivered again")
            });
            return;
        }
        metrics::counter!("jobs_total", "kind" => kind, "outcome" => outcome).increment(1);
        metrics::histogram!("job_seconds", "kind" => kind).record(duration);
    }

    /// Publishes what a decision asks for: the copy first, then the event.
    async fn publish(&mut self, decision: Decision) -> Settled {
        match decision {
            Decision::Succeed(done) => self.tell(EventBody::Succeeded { result: done.result }).await,
            Decision::Refuse(refusal) => self.tell(EventBody::Refused { refusal }).await,
            Decision::Cancel => self.tell(EventBody::Cancelled {}).await,
            Decision::Skip => Ok(()),
            Decision::SetApart => self.set_apart().await,
            Decision::PutBack { failure } => self.put_back(failure).await,
            Decision::Retry { tier, failure } => self.retry(tier, failure).await,
            Decision::Bury { failure } => self.bury(failure).await,
        }
    }

    async fn retry(&mut self, tier: Tier, failure: FailureReport) -> Settled {
        let next_attempt = self.received.attempt().saturating_add(1);
        let (routing_key, delay_seconds) = self.way_back(tier);
        self.copy(DELAY, &routing_key, Some(&failure), next_attempt, 0).await?;
        self.tell(EventBody::Retrying { failure, delay_seconds, next_attempt }).await
    }

    /// The attempt does not count. That it was delivered does: the events of the next run come after those of this one.
    async fn put_back(&mut self, failure: FailureReport) -> Settled {
        let (attempt, redeliveries) = (self.received.attempt(), self.received.redeliveries().saturating_add(1));
        let (routing_key, delay_seconds) = self.way_back(PUT_BACK);
        self.copy(DELAY, &routing_key, Some(&failure), attempt, redeliveries).await?;
        self.tell(EventBody::Retrying { failure, delay_seconds, next_attempt: attempt }).await
    }

    /// Puts a delivery back that was not begun, because something is away. There is nothing to tell of it.
    pub(super) async fn put_back_unbegun(self) {
        let (attempt, redeliveries) = (self.received.attempt(), self.received.redeliveries().saturating_add(1));
        let (routing_key, _) = self.way_back(PUT_BACK);
        if self.copy(DELAY, &routing_key, None, attempt, redeliveries).await.is_err() || !self.settle.done() {
            tracing::warn!("the connection was lost before a job was put back: it will be delivered again");
        }
    }

    async fn set_apart(&mut self) -> Settled {
        let routing_key = format!("{}.apart", self.worker.row.suspect_queue());
        let (attempt, redeliveries) = (self.received.attempt(), self.received.redeliveries());
        self.copy(RETURN, &routing_key, None, attempt, redeliveries).await
    }

    /// Routing key and length of a wait after which the message is back in this queue.
    fn way_back(&self, tier: Tier) -> (String, f64) {
        // The twin by chance: jobs that failed together must not come back together.
        let (name, share) =
            if rand::rng().random_bool(0.5) { (tier.name.to_owned(), 1.0) } else { (early(tier), 0.75) };
        let delay_seconds = tier.length.as_secs_f64() * share * self.worker.time_scale;
        (format!("{}.{name}", self.worker.queue), delay_seconds)
    }

    async fn bury(&mut self, failure: FailureReport) -> Settled {
        let routing_key = self.worker.row.dead_queue();
        let (attempt, redeliveries) = (self.received.attempt(), self.received.redeliveries());
        self.copy(DEAD, &routing_key, Some(&failure), attempt, redeliveries).await?;
        self.tell(EventBody::Dead { failure }).await
    }

    /// Publishes a copy of the message, with its counters and where there was one the failure in its headers.
    async fn copy(
        &self,
        exchange: &'static str,
        routing_key: &str,
        failure: Option<&FailureReport>,
        attempt: u32,
        redeliveries: u32,
    ) -> Settled {
        let failure = failure.map(|failure| (failure.kind.as_str(), failure.reason.as_str()));
        let note = CopyNote { origin_queue: &self.worker.queue, failure, attempt, redeliveries };
        let properties = copy_properties(&self.delivery.properties, &note, Utc::now());
        self.insist(|| {
            let properties = properties.clone();
            self.worker.settling.send(Outgoing {
                exchange,
                routing_key,
                properties,
                body: self.delivery.data.clone(),
                mandatory: true,
            })
        })
        .await
    }

    async fn tell(&mut self, body: EventBody) -> Settled {
        match self.received.event(body) {
            Some(event) => self.insist(|| self.worker.settling.publish_event(&event)).await,
            None => Ok(()),
        }
    }

    /// Publishes until the broker confirms. Meanwhile the delivery is not acked: a broker that refuses pauses the consumer, whose prefetch
    /// is used up.
    async fn insist<F: Future<Output = Result<(), PublishError>>>(&self, publish: impl Fn() -> F) -> Settled {
        let mut pause = FIRST_PAUSE;
        loop {
            let result = self.settle.lost.run_until_cancelled(publish()).await.ok_or(Lost)?;
            let Err(error) = result else { return Ok(()) };
            tracing::warn!(%error, queue = self.worker.queue, "settle a job: trying again");
            if matches!(error, PublishError::Returned { .. }) {
                // A queue of the topology is gone. A new connection declares it again.
                self.worker.settling.renew();
            }
            self.settle.lost.run_until_cancelled(tokio::time::sleep(pause)).await.ok_or(Lost)?;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Whether nobody needs to hear of a success: nobody has heard of the job so far.
    fn is_quiet(&self) -> bool {
        self.received.envelope.as_ref().is_ok_and(|envelope| {
            let is_first = envelope.attempt == 1 && envelope.redeliveries == 0 && envelope.replays == 0;
            is_first && self.worker.handlers.is_quiet(&envelope.kind)
        })
    }

    /// A foreign publisher may write any `type`; a metric's labels must stay few.
    fn known_kind(&self, kind: &str) -> &'static str {
        self.worker.row.kinds.iter().find(|known| **known == kind).copied().unwrap_or("unknown")
    }

    fn log(&self, decision: &Decision) {
        let duration_ms = u64::try_from(self.received.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match decision {
            // A line for each job that somebody could have watched; short ones come by the thousand.
            Decision::Succeed(_) if self.received.told => tracing::info!(duration_ms, "done"),
            Decision::Succeed(_) => tracing::debug!(duration_ms, "done"),
            Decision::Refuse(refusal) => tracing::info!(duration_ms, refusal.code, "refused"),
            Decision::Cancel => tracing::info!(duration_ms, "cancelled"),
            Decision::Skip => tracing::info!("delivered again after its end: nothing to do"),
            Decision::SetApart => {
                tracing::warn!(
                    job.redeliveries = self.received.redeliveries(),
                    "delivered often without an end: from now on it runs apart"
                );
            }
            Decision::PutBack { failure } => {
                tracing::warn!(duration_ms, failure.reason, "put back, because something is away");
            }
            Decision::Retry { tier, failure } => {
                tracing::warn!(
                    duration_ms,
                    failure.kind,
                    failure.reason,
                    retry.tier = tier.name,
                    "failed, will be tried again"
                );
            }
            Decision::Bury { failure } => tracing::error!(duration_ms, failure.kind, failure.reason, "given up"),
        }
    }
}

fn label(decision: &Decision) -> &'static str {
    match decision {
        Decision::Succeed(_) => "succeeded",
        Decision::Refuse(_) => "refused",
        Decision::Cancel => "cancelled",
        Decision::Skip => "repeated",
        Decision::SetApart => "set_apart",
        Decision::PutBack { .. } => "put_back",
        Decision::Retry { .. } => "retried",
        Decision::Bury { .. } => "dead",
    }
}
