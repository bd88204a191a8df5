//! Sends the rows of the outbox: taken, published, confirmed, and only then marked as sent.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use pipeline::events::JobReference;
use pipeline::{
    Broker, BrokerState, Event, EventBody, Fullness, PublishError, Publisher, SealedEvent, SealedJob, topology,
};
use store::PgPool;
use store::outbox::{self, Carries, DueRow, Outcome};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::due::{Due, Watch};

/// This service's name in the topology.
pub const SERVICE: &str = "dispatcher";
/// Rows that are taken, published side by side, and marked together: enough to share the broker's and the disk's flushes.
const BATCH: u32 = 256;
/// How soon to look again while the broker is away.
const BROKER_PAUSE: Duration = Duration::from_millis(250);
/// How soon to try again after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How soon a row is tried again after its first failure; twice as long after each further one, up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Sends what is due.
pub struct Sender {
    pool: PgPool,
    publisher: Publisher,
    broker_state: Box<dyn Fn() -> BrokerState + Send + Sync>,
    fullness: Fullness,
    due: Watch,
}

impl fmt::Debug for Sender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// A sender by this broker. `fullness` is the broker's, and watched by somebody.
    #[must_use]
    pub fn new(broker: &Broker, fullness: Fullness, pool: PgPool, due: &Due) -> Self {
        for counter in ["outbox_sent_total", "outbox_failed_total", "outbox_set_aside_total"] {
            metrics::counter!(counter).increment(0);
        }
        Self {
            pool,
            publisher: broker.publisher(),
            broker_state: Box::new(broker.publishing_state()),
            fullness,
            due: due.watch(),
        }
    }

    /// Sends until `drain`; what has been taken by then is finished.
    ///
    /// # Errors
    /// None; it is a task like others.
    pub async fn run(mut self, drain: CancellationToken) -> anyhow::Result<()> {
        while !drain.is_cancelled() {
            let pause = match self.send_due(BATCH).await {
                Ok(Turn::Took(_)) => continue,
                Ok(Turn::NothingDue) => None,
                Ok(Turn::BrokerAway) => Some(BROKER_PAUSE),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "sending what is due was interrupted");
                    Some(DATABASE_PAUSE)
                }
            };
            let pause = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => self.wait().await,
                }
            };
            drain.run_until_cancelled(pause).await;
        }
        Ok(())
    }

    /// Takes up to `limit` rows that are due, publishes them side by side, and writes down what became of each.
    ///
    /// # Errors
    /// The database failed: what was published is not marked, and will be sent again under the same ids.
    pub async fn send_due(&self, limit: u32) -> anyhow::Result<Turn> {
        // A row that is taken while nobody can take its message would only wait longer for its next attempt.
        if (self.broker_state)() != BrokerState::Connected {
            return Ok(Turn::BrokerAway);
        }
        let Some(batch) = outbox::take_due(&self.pool, limit).await? else {
            return Ok(Turn::NothingDue);
        };
        let taken = batch.rows().len();
        let sending = FuturesUnordered::new();
        for row in batch.rows() {
            sending.push(async { Some((row.job_id, self.send(row).await?)) });
        }
        let outcomes: Vec<(Uuid, Outcome)> = sending.filter_map(std::future::ready).collect().await;
        batch.finish(&outcomes).await?;
        count(&outcomes);
        Ok(if outcomes.len() < taken { Turn::BrokerAway } else { Turn::Took(taken) })
    }

    async fn wait(&mut self) {
        match outbox::next_in(&self.pool).await {
            Ok(next) => self.due.wait(next).await,
            Err(error) => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "look for the next due time");
                tokio::time::sleep(DATABASE_PAUSE).await;
            }
        }
    }

    /// What became of a row; `None` where it is due as before.
    async fn send(&self, row: &DueRow) -> Option<Outcome> {
        let published = match read(row) {
            Ok(Message::Job(sealed)) if self.fullness.is_nearly_full(&sealed.kind, sealed.job.lane) => {
                // The rest is for what must return to its queue.
                return Some(failed(row, "the queue is nearly full".to_owned()));
            }
            Ok(Message::Job(sealed)) => {
                let published = self.publisher.publish_sealed(&sealed).await;
                if published.is_ok() {
                    self.tell_queued(sealed).await;
                }
                published
            }
            Ok(Message::Event(event)) => self.publisher.publish_event(&event).await,
            Err(error) => return Some(set_aside(row, format!("{error:#}"))),
        };
        became(row, published)
    }

    /// Tells whoever listens that the job is on its queue; its timeline gets that with the mark. The event's id derives from the
    /// job's: told again after a crash, it is the same.
    async fn tell_queued(&self, sealed: SealedJob) {
        let SealedJob { kind, job } = sealed;
        let id = Uuid::new_v5(&job.id, b"job.queued");
        let reference = JobReference { id: job.id, kind, owner: job.owner, caused_by: job.correlation_id };
        let event = Event { id, trace: job.trace, ..Event::new(reference, None, EventBody::Queued {}) };
        if let Err(error) = self.publisher.hint_event(&event).await {
            tracing::warn!(job.id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "tell of a queued job");
        }
    }
}

/// How a look at the outbox went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// So many rows were taken and dealt with; there may be more.
    Took(usize),
    /// Nothing is due that nobody else holds.
    NothingDue,
    /// Nothing can be published right now. What was not sent is due as before.
    BrokerAway,
}

/// What a row carries, ready to be published.
#[derive(Debug)]
enum Message {
    Job(SealedJob),
    Event(Event),
}

/// The message of a row, if it is one that can be published. What cannot be must not be tried: the broker closes the channel
/// on a kind that this service may not publish, and takes the confirms of all the others with it.
fn read(row: &DueRow) -> anyhow::Result<Message> {
    match row.carries {
        Carries::Job => {
            let sealed: SealedJob = serde_json::from_str(&row.message).context("read the message")?;
            anyhow::ensure!(sealed.job.id == row.job_id, "the message is that of another job, {}", sealed.job.id);
            let publishes = topology::service(SERVICE).map_or(&[] as &[&str], |service| service.publishes);
            anyhow::ensure!(publishes.contains(&sealed.kind.as_str()), "{SERVICE} publishes no \"{}\"", sealed.kind);
            Ok(Message::Job(sealed))
        }
        Carries::Event => {
            let sealed: SealedEvent = serde_json::from_str(&row.message).context("read the event")?;
            let event = sealed.opened();
            anyhow::ensure!(event.id == row.job_id, "the message is another event, {}", event.id);
            Ok(Message::Event(event))
        }
    }
}

fn became(row: &DueRow, published: Result<(), PublishError>) -> Option<Outcome> {
    Some(match published {
        Ok(()) => {
            tracing::info!(job.id = %row.job_id, job.kind = row.kind, "sent");
            Outcome::Sent
        }
        // The broker went away between the look at it and this. Nothing was sent, and the row must not wait longer for that.
        Err(PublishError::NotConnected | PublishError::Blocked) => return None,
        Err(error @ PublishError::Encode(_)) => set_aside(row, format!("{:#}", anyhow::Error::new(error))),
        Err(error) => failed(row, error.to_string()),
    })
}

fn set_aside(row: &DueRow, reason: String) -> Outcome {
    tracing::error!(job.id = %row.job_id, job.kind = row.kind, error = reason, "a row of the outbox can never be sent");
    Outcome::SetAside { reason }
}

fn failed(row: &DueRow, reason: String) -> Outcome {
    let retry_in = backoff(row.attempts, rand::random());
    tracing::warn!(job.id = %row.job_id, job.kind = row.kind, error = reason, retry_in_ms = retry_in.as_millis(),
        "send a row of the outbox");
    Outcome::Failed { reason, retry_in }
}

/// Twice as long after each attempt, less up to a quarter by chance (0 to 1), so that rows which failed together do not come
/// back together.
fn backoff(attempts: u32, chance: f64) -> Duration {
    let full = FIRST_RETRY.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(LONGEST_RETRY);
    full.mul_f64(1.0 - chance / 4.0)
}

fn count(outcomes: &[(Uuid, Outcome)]) {
    for (_, outcome) in outcomes {
        let counter = match outcome {
            Outcome::Sent => "outbox_sent_total",
            Outcome::Failed { .. } => "outbox_failed_total",
            Outcome::SetAside { .. } => "outbox_set_aside_total",
        };
        metrics::counter!(counter).increment(1);
    }
}

/// Shows how much is due, until `drain`.
///
/// # Errors
/// None; it is a task like others.
pub async fn measure(pool: PgPool, drain: CancellationToken) -> anyhow::Result<()> {
    let mut every = tokio::time::interval(MEASURE_EVERY);
    while drain.run_until_cancelled(every.tick()).await.is_some() {
        match outbox::backlog(&pool).await {
            Ok(backlog) => {
                #[expect(clippy::cast_precision_loss, reason = "nobody counts rows beyond 2^52")]
                metrics::gauge!("outbox_due").set(backlog.due as f64);
                metrics::gauge!("outbox_oldest_due_seconds").set(backlog.oldest.as_secs_f64());
            }
            Err(error) => tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "measure the outbox"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Utc;
    use pipeline::events::JobReference;
    use pipeline::{Event, EventBody, PublishError};
    use serde_json::{Value, json};
    use store::outbox::{Carries, DueRow, Outcome};
    use uuid::Uuid;

    use super::{Message, backoff, became, read};

    #[test]
    fn a_row_that_fails_is_tried_less_and_less_often() {
        let seconds: Vec<_> = (0..9).map(|attempts| backoff(attempts, 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(u32::MAX, 1.0), Duration::from_secs(45));
    }

    fn row(id: Uuid, carries: Carries, message: String) -> DueRow {
        DueRow { job_id: id, kind: String::new(), carries, message, due_at: Utc::now(), attempts: 0 }
    }

    #[test]
    fn what_was_not_sent_because_the_broker_is_away_is_due_as_before() {
        let row = row(Uuid::from_u128(7), Carries::Job, String::new());
        for away in [PublishError::NotConnected, PublishError::Blocked] {
            assert_eq!(became(&row, Err(away)), None);
        }
        let tried = became(&row, Err(PublishError::Unconfirmed));
        assert!(matches!(tried, Some(Outcome::Failed { .. })), "{tried:?}");
        assert_eq!(became(&row, Ok(())), Some(Outcome::Sent));
    }

    #[test]
    fn only_a_message_that_this_service_may_publish_is_one() {
        let id = Uuid::from_u128(7);
        let good = json!({"kind": "email.send", "id": id, "accepted_at": "2026-01-01T00:00:00Z", "payload": {}});
        let with = |name: &str, value: Value| {
            let mut message = good.clone();
            message[name] = value;
            read(&row(id, Carries::Job, message.to_string())).map_err(|error| format!("{error:#}"))
        };
        assert!(matches!(with("lane", json!("bulk")).unwrap(), Message::Job(sealed) if sealed.job.id == id));
        assert!(with("id", json!(Uuid::from_u128(8))).unwrap_err().contains("another job"));
        assert!(with("kind", json!("noop.run")).unwrap_err().contains("publishes no \"noop.run\""));
        assert!(with("kind", json!(7)).unwrap_err().contains("read the message"));
        assert!(with("lane", json!("slow")).is_err());
        for broken in ["", "{}", "null", &"[".repeat(1000)] {
            assert!(read(&row(id, Carries::Job, broken.to_owned())).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_row_that_carries_an_event_is_the_event_whose_id_it_has() {
        let job = JobReference { id: Uuid::from_u128(7), kind: "noop.run".to_owned(), owner: None, caused_by: None };
        let event = Event::new(job, None, EventBody::Queued {});
        let message = serde_json::to_string(&event.clone().sealed()).unwrap();
        let read = |id, carries| read(&row(id, carries, message.clone())).map_err(|error| format!("{error:#}"));
        assert!(matches!(read(event.id, Carries::Event).unwrap(), Message::Event(read) if read == event));
        assert!(read(Uuid::from_u128(7), Carries::Event).unwrap_err().contains("another event"));
        assert!(read(event.id, Carries::Job).is_err());
    }
}
