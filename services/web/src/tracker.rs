//! Keeps what the events tell of jobs: from the broker's queues into the store.

use chrono::Utc;
use pipeline::{DeadLetter, Event, EventBody, News, TrackError, TrackEvents};
use serde_json::{Value, json};
use store::idempotency::note_claims;
use store::jobs::{JobEvent, JobEventType, apply_events_unannounced};
use store::{DatabaseError, PgPool};

use crate::JobStatus;

/// Writes events into the store, and has the copies of their jobs follow.
#[derive(Clone)]
pub struct Tracker {
    pool: PgPool,
    status: JobStatus,
}

impl Tracker {
    /// A tracker that writes there.
    #[must_use]
    pub fn new(pool: PgPool, status: JobStatus) -> Self {
        Self { pool, status }
    }
}

impl Tracker {
    async fn try_to_keep(&self, news: &[News], events: &[JobEvent]) -> Result<(), DatabaseError> {
        let (changed, repeated) = apply_events_unannounced(&self.pool, events).await?;
        self.status.tell(&changed, &repeated).await?;
        let claims = news.iter().filter_map(|news| match news {
            News::Event(event) => Some((event.job.id, event.payload_hash.as_deref()?)),
            News::DeadLetter(_) => None,
        });
        note_claims(&self.pool, &claims.collect::<Vec<_>>()).await
    }
}

impl TrackEvents for Tracker {
    async fn keep(&self, news: &[News]) -> Result<(), TrackError> {
        let events: Result<Vec<_>, TrackError> =
            news.iter().cloned().filter_map(|news| told(news).transpose()).collect();
        match self.try_to_keep(news, &events?).await {
            Ok(()) => Ok(()),
            Err(error) if is_about_the_event(&error) => {
                Err(TrackError::Never(format!("{:#}", anyhow::Error::new(error))))
            }
            Err(error) => Err(TrackError::Later(format!("{:#}", anyhow::Error::new(error)))),
        }
    }
}

fn told(news: News) -> Result<Option<JobEvent>, TrackError> {
    match news {
        News::Event(event) => job_event(*event),
        News::DeadLetter(letter) => Ok(Some(dead_event(letter))),
    }
}

/// `job.queued` as the store keeps it, for whoever writes it down without the broker's help.
pub(crate) fn queued_event(event: &Event) -> JobEvent {
    kept_event(event.clone(), JobEventType::Queued, json!({}))
}

/// The event as the store keeps it; `None` for one that is not about a job.
fn job_event(event: Event) -> Result<Option<JobEvent>, TrackError> {
    let Some(event_type) = JobEventType::from_wire(event.body.kind()) else {
        return Ok(None);
    };
    let data = data_of(&event.body)?;
    Ok(Some(kept_event(event, event_type, data)))
}

fn kept_event(event: Event, event_type: JobEventType, data: Value) -> JobEvent {
    let run = event.run;
    JobEvent {
        event_id: event.id,
        job_id: event.job.id,
        job_kind: event.job.kind,
        owner: event.job.owner,
        caused_by: event.job.caused_by,
        event_type,
        run_id: run.as_ref().map(|run| run.id),
        replays: run.as_ref().map_or(0, |run| run.replays),
        attempt: run.as_ref().map_or(0, |run| run.attempt),
        redeliveries: run.as_ref().map_or(0, |run| run.redeliveries),
        sequence: run.as_ref().map_or(0, |run| run.sequence),
        worker: run.map(|run| run.worker),
        at: event.at,
        data,
    }
}

/// Whether the database refuses what the event holds (SQLSTATE 22 and 23: data, constraints). Whatever else is wrong, from a
/// lost connection to a wrong password, is not the event's fault, and must not bury it.
fn is_about_the_event(error: &DatabaseError) -> bool {
    let DatabaseError::Failed { source, .. } = error else {
        return false;
    };
    let code = source.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        || matches!(source, sqlx::Error::Encode(_))
}

/// What belongs to the type of the event, without the type.
fn data_of(body: &EventBody) -> Result<Value, TrackError> {
    let mut data = serde_json::to_value(body).map_err(|error| TrackError::Never(error.to_string()))?;
    if let Value::Object(data) = &mut data {
        data.remove("type");
    }
    Ok(data)
}

/// The event that nobody was left to send. It comes after everything that the attempt's runs have told.
fn dead_event(letter: DeadLetter) -> JobEvent {
    JobEvent {
        event_id: letter.event_id,
        job_id: letter.job.id,
        job_kind: letter.job.kind,
        owner: letter.job.owner,
        caused_by: letter.job.caused_by,
        event_type: JobEventType::Dead,
        run_id: None,
        replays: letter.replays,
        attempt: letter.attempt,
        redeliveries: u32::MAX,
        sequence: u32::MAX,
        worker: None,
        at: Utc::now(),
        data: json!({"failure": letter.failure}),
    }
}

#[cfg(test)]
mod tests {
    use store::DatabaseError;

    use super::is_about_the_event;

    #[test]
    fn only_an_event_that_cannot_be_written_is_to_blame() {
        let failed = |source| DatabaseError::Failed { action: "apply", source };
        assert!(is_about_the_event(&failed(sqlx::Error::Encode("too long".into()))));
        for passing in [sqlx::Error::PoolTimedOut, sqlx::Error::RowNotFound] {
            assert!(!is_about_the_event(&failed(passing)));
        }
    }
}
