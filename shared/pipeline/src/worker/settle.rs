//! Settles a delivery: publish the copy and the event, wait for their confirms, then ack the original. A crash in between
//! duplicates; it never loses.

use std::time::Duration;

use chrono::Utc;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use rand::Rng;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::events::{EventBody, FailureReport};
use crate::message::{FailureNote, copy_properties};
use crate::policy::Tier;
use crate::publisher::{Outgoing, PublishError};
use crate::topology::{DEAD, DELAY, early};

use super::consume::Worker;
use super::decide::Decision;
use super::run::Received;

const ACK_DEADLINE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Settlement<'a> {
    pub(super) worker: &'a Worker,
    pub(super) received: Received,
    pub(super) delivery: Delivery,
    pub(super) lost: CancellationToken,
}

/// `Err` when the delivery can no longer be settled here, because its channel is gone.
type Settled = Result<(), Lost>;
struct Lost;

impl Settlement<'_> {
    pub(super) async fn settle(mut self, decision: Decision) {
        let span = self.received.span();
        let outcome = label(&decision);
        span.in_scope(|| self.log(&decision));
        let settled = async {
            match decision {
                Decision::Succeed(done) => self.tell(EventBody::Succeeded { result: done.result }).await?,
                Decision::Refuse(refusal) => self.tell(EventBody::Refused { refusal }).await?,
                Decision::Retry { tier, failure } => self.retry(tier, failure).await?,
                Decision::Bury { failure } => self.bury(failure).await?,
            }
            self.ack().await
        };
        if settled.await.is_err() {
            span.in_scope(|| {
                tracing::warn!("the connection was lost before the job was settled: it will be delivered again")
            });
            return;
        }
        let kind = self.received.envelope.as_ref().map_or("none", |envelope| self.known_kind(&envelope.kind));
        metrics::counter!("jobs_total", "kind" => kind, "outcome" => outcome).increment(1);
        metrics::histogram!("job_seconds", "kind" => kind).record(self.received.begun.elapsed());
    }

    async fn retry(&mut self, tier: Tier, failure: FailureReport) -> Settled {
        // The twin by chance: jobs that failed together must not come back together.
        let (name, share) =
            if rand::rng().random_bool(0.5) { (tier.name.to_owned(), 1.0) } else { (early(tier), 0.75) };
        let next_attempt = self.received.attempt().saturating_add(1);
        let routing_key = format!("{}.{name}", self.worker.queue);
        self.copy(DELAY, &routing_key, &failure, next_attempt).await?;
        let delay_seconds = tier.length.as_secs_f64() * share * self.worker.time_scale;
        self.tell(EventBody::Retrying { failure, delay_seconds, next_attempt }).await
    }

    async fn bury(&mut self, failure: FailureReport) -> Settled {
        let routing_key = self.worker.row.dead_queue();
        self.copy(DEAD, &routing_key, &failure, self.received.attempt()).await?;
        self.tell(EventBody::Dead { failure }).await
    }

    /// Publishes a copy of the message, with the failure noted in its headers.
    async fn copy(&self, exchange: &'static str, routing_key: &str, failure: &FailureReport, attempt: u32) -> Settled {
        let note =
            FailureNote { origin_queue: &self.worker.queue, kind: &failure.kind, reason: &failure.reason, attempt };
        let properties = copy_properties(&self.delivery.properties, &note, Utc::now());
        self.insist(|| {
            let properties = properties.clone();
            self.worker.publisher.send(Outgoing {
                exchange,
                routing_key,
                properties,
                body: &self.delivery.data,
                mandatory: true,
            })
        })
        .await
    }

    async fn tell(&mut self, body: EventBody) -> Settled {
        match self.received.event(body) {
            Some(event) => self.insist(|| self.worker.publisher.publish_event(&event)).await,
            None => Ok(()),
        }
    }

    /// Publishes until the broker confirms. Meanwhile the delivery keeps its permit: a broker that refuses pauses the consumer.
    async fn insist<F: Future<Output = Result<(), PublishError>>>(&self, publish: impl Fn() -> F) -> Settled {
        let mut pause = FIRST_PAUSE;
        loop {
            let result = self.lost.run_until_cancelled(publish()).await.ok_or(Lost)?;
            let Err(error) = result else { return Ok(()) };
            tracing::warn!(%error, queue = self.worker.queue, "settle a job: trying again");
            if matches!(error, PublishError::Returned { .. }) {
                // A queue of the topology is gone. A new connection declares it again.
                self.worker.publisher.renew();
            }
            self.lost.run_until_cancelled(tokio::time::sleep(pause)).await.ok_or(Lost)?;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn ack(&self) -> Settled {
        match timeout(ACK_DEADLINE, self.delivery.acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false) | Err(_)) | Err(_) => Err(Lost),
        }
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
        Decision::Retry { .. } => "retried",
        Decision::Bury { .. } => "dead",
    }
}
