//! Fires schedules: when one is due, its job goes into the outbox, whence it is sent like any other.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use pipeline::OutgoingJob;
use pipeline::jobs::{Job, RenderReport, ReportTemplate};
use serde::Deserialize;
use store::PgPool;
use store::accounts::Role;
use store::jobs::NewJob;
use store::outbox::NewOutboxRow;
use store::profiles;
use store::schedules::{self, GRACE, Plan, Schedule, Timing, Turn};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::due::{Due, Watch};

/// How soon to try again after the database failed.
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

/// Fires what is due.
#[derive(Debug)]
pub struct Schedules {
    pool: PgPool,
    due: Watch,
}

impl Schedules {
    /// Those of this database.
    #[must_use]
    pub fn new(pool: PgPool, due: Due) -> Self {
        for outcome in ["fired", "missed", "failed"] {
            metrics::counter!("schedule_firings_total", "outcome" => outcome).increment(0);
        }
        Self { pool, due: due.watch() }
    }

    /// Fires until `drain`.
    ///
    /// # Errors
    /// None; it is a task like others.
    pub async fn run(mut self, drain: CancellationToken) -> anyhow::Result<()> {
        while !drain.is_cancelled() {
            let pause = match fire_next(&self.pool).await {
                Ok(true) => continue,
                Ok(false) => schedules::next_in(&self.pool).await.map_err(anyhow::Error::new),
                Err(error) => Err(error),
            };
            let pause = async {
                match pause {
                    Ok(next) => self.due.wait(next).await,
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "firing what is due was interrupted");
                        tokio::time::sleep(DATABASE_PAUSE).await;
                    }
                }
            };
            drain.run_until_cancelled(pause).await;
        }
        Ok(())
    }
}

/// Deals with one schedule that is due; false when there is none that nobody else holds.
///
/// # Errors
/// The database failed; the schedule is still due.
pub async fn fire_next(pool: &PgPool) -> anyhow::Result<bool> {
    let Some(due) = schedules::take_due(pool).await? else {
        return Ok(false);
    };
    let (id, kind) = (due.schedule().id, due.schedule().kind.clone());
    let (plan, turn) = if may_ask(pool, due.schedule()).await? {
        decide(due.schedule(), due.first_due(), due.now())
    } else {
        stopped(due.first_due(), "its owner may not ask for it".to_owned())
    };
    due.record(&plan, &turn).await?;
    let outcome = match turn {
        Turn::Fired(job) => {
            tracing::info!(schedule.id = %id, job.id = %job.0.id, job.kind = kind, due_at = %plan.due_at, "fired");
            "fired"
        }
        Turn::Missed => {
            tracing::warn!(schedule.id = %id, job.kind = kind, due_at = %plan.due_at, "missed: noticed too late");
            "missed"
        }
        Turn::Failed { reason } => {
            tracing::error!(schedule.id = %id, job.kind = kind, error = reason, "a schedule cannot be fired");
            "failed"
        }
    };
    metrics::counter!("schedule_firings_total", "outcome" => outcome).increment(1);
    Ok(true)
}

/// Whether the owner may ask for what the schedule makes: reports are for the staff. An owner from before there were accounts may.
async fn may_ask(pool: &PgPool, schedule: &Schedule) -> anyhow::Result<bool> {
    match schedule.owner.parse::<Uuid>() {
        Ok(user) if schedule.kind == RenderReport::KIND => {
            Ok(profiles::find(pool, user).await?.is_some_and(|owner| owner.role >= Role::Staff))
        }
        _ => Ok(true),
    }
}

/// A turn after which the schedule is not due again.
fn stopped(due_at: DateTime<Utc>, reason: String) -> (Plan, Turn) {
    (Plan { due_at, in_time: false, missed_since: None, next_due_at: None }, Turn::Failed { reason })
}

/// What becomes of a schedule of which `first_due` has come.
fn decide(schedule: &Schedule, first_due: DateTime<Utc>, now: DateTime<Utc>) -> (Plan, Turn) {
    let timing = match Timing::parse(&schedule.cron, &schedule.time_zone) {
        Ok(timing) => timing,
        // Nobody can say when it would be due again.
        Err(error) => return stopped(first_due, error.to_string()),
    };
    let plan = timing.plan(first_due, now, GRACE);
    if !plan.in_time {
        return (plan, Turn::Missed);
    }
    let turn = match job_of(schedule, &timing, plan.due_at, now) {
        Ok(job) => Turn::Fired(Box::new(job)),
        Err(error) => Turn::Failed { reason: format!("{error:#}") },
    };
    (plan, turn)
}

/// The job that a due time makes.
fn job_of(
    schedule: &Schedule,
    timing: &Timing,
    due_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> anyhow::Result<(NewJob, NewOutboxRow)> {
    let id = schedules::job_id(schedule.id, due_at);
    let payload = match schedule.kind.as_str() {
        RenderReport::KIND => {
            let template = ReportTemplate::deserialize(&schedule.template).context("read the template")?;
            template.due_on(timing.local_day(due_at)).context("count the days of the report")?
        }
        other => bail!("no template is known for \"{other}\""),
    };
    let owner = schedule.owner.clone();
    let job = OutgoingJob { owner: Some(owner.clone()), accepted_at: now, ..OutgoingJob::new(id, payload) };
    let message = serde_json::to_value(job.sealed()?).context("write the message")?;
    let job = NewJob { id, kind: schedule.kind.clone(), owner, caused_by: None, at: now };
    Ok((job, NewOutboxRow { message, due_at: None }))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use pipeline::SealedJob;
    use serde_json::{Value, json};
    use store::schedules::{Schedule, Turn, job_id};
    use uuid::Uuid;

    use super::decide;

    fn at(time: &str) -> DateTime<Utc> {
        time.parse().unwrap()
    }

    fn weekly() -> Schedule {
        Schedule {
            id: Uuid::from_u128(1),
            owner: "alice".to_owned(),
            kind: "report.render".to_owned(),
            name: "Mondays".to_owned(),
            cron: "0 0 * * MON".to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            template: json!({
                "report": "sales", "period": "last-week",
                "recipient": {"name": "Alice", "address": "alice@shop.example"},
            }),
            next_due_at: None,
            last_due_at: None,
            created_at: at("2026-01-01T00:00:00Z"),
        }
    }

    fn failure(schedule: &Schedule) -> (Option<DateTime<Utc>>, String) {
        match decide(schedule, at("2026-03-01T23:00:00Z"), at("2026-03-01T23:00:01Z")) {
            (plan, Turn::Failed { reason }) => (plan.next_due_at, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_days_are_counted_from_the_due_time_on_the_schedules_own_calendar() {
        // Monday, 2 March, 0 o'clock in Berlin is still Sunday in UTC; and it is fired a day late.
        let due = at("2026-03-01T23:00:00Z");
        let (plan, turn) = decide(&weekly(), due, at("2026-03-02T22:59:00Z"));
        assert_eq!((plan.due_at, plan.next_due_at), (due, Some(at("2026-03-08T23:00:00Z"))));
        let Turn::Fired(job) = turn else { panic!("{turn:?}") };
        let (job, row) = *job;
        let sealed: SealedJob = serde_json::from_value(row.message).unwrap();
        assert_eq!((job.id, sealed.job.id), (job_id(Uuid::from_u128(1), due), job.id));
        assert_eq!((sealed.kind.as_str(), sealed.job.owner.as_deref()), ("report.render", Some("alice")));
        assert_eq!(sealed.job.payload["period"], json!({"from": "2026-02-23", "to": "2026-03-01"}));
        assert_eq!(sealed.job.payload["recipient"]["address"], "alice@shop.example");
        assert_eq!((job.owner.as_str(), row.due_at), ("alice", None));
    }

    #[test]
    fn a_time_noticed_after_the_grace_is_missed() {
        let (plan, turn) = decide(&weekly(), at("2026-03-01T23:00:00Z"), at("2026-03-02T23:00:01Z"));
        assert!(matches!(turn, Turn::Missed), "{turn:?}");
        assert_eq!(plan.next_due_at, Some(at("2026-03-08T23:00:00Z")));
    }

    #[test]
    fn a_schedule_that_cannot_be_read_says_why_and_goes_on_where_it_can() {
        let (next, reason) = failure(&Schedule { time_zone: "Mars/Olympus".to_owned(), ..weekly() });
        assert_eq!((next, reason.contains("time zone")), (None, true), "{reason}");
        let next_week = Some(at("2026-03-08T23:00:00Z"));
        let (next, reason) = failure(&Schedule { kind: "noop.run".to_owned(), ..weekly() });
        assert_eq!((next, reason.as_str()), (next_week, "no template is known for \"noop.run\""));
        for template in [Value::Null, json!({"report": "sales"}), json!({"report": "sales", "period": "tomorrow"})] {
            let (next, reason) = failure(&Schedule { template, ..weekly() });
            assert_eq!((next, reason.contains("read the template")), (next_week, true), "{reason}");
        }
    }
}
