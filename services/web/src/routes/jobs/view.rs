//! How a job and its events are shown: what its owner may see, and nothing else.

use chrono::{DateTime, Utc};
use pipeline::jobs::{Job as _, PlaceOrder, RenderReport, TranscodeVideo};
use serde::Serialize;
use serde_json::Value;
use store::jobs::{CausedJob, Chain, JobEventRow, JobRow, JobState, NewJob};
use utoipa::ToSchema;
use uuid::Uuid;

use super::timeline::{RunView, count, runs};
use crate::job_status::Job;

/// A job, as its owner sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobView {
    /// Its id.
    id: Uuid,
    /// Its kind.
    #[schema(example = "report.render")]
    kind: String,
    /// `queued`, `running`, `retrying`; then for good `succeeded`, `refused`, `cancelled` or `dead`.
    #[schema(value_type = StateName)]
    state: JobState,
    /// Whether it has been told to stop, and has not yet.
    cancelling: bool,
    /// When it goes, or was to go, to the broker; absent once it is there.
    due_at: Option<DateTime<Utc>>,
    /// Which attempt it is at; 0 before the first, and from 1 again after a replay.
    attempt: u32,
    /// Attempts so far, those before a replay included.
    attempts: u32,
    /// How often an attempt had to be delivered again because its worker was lost, or could not begin it; no further attempts.
    redeliveries: u32,
    /// How often an operator had it done again.
    replays: u32,
    /// How far the run is.
    #[schema(value_type = Option<ProgressView>)]
    progress: Option<Value>,
    /// Why it is retrying or dead (`kind`), or why it was refused (`code` and `reason`).
    #[schema(value_type = Option<Object>)]
    error: Option<Value>,
    /// What it made, once succeeded; by kind.
    result: Option<Value>,
    /// When it was accepted.
    created_at: DateTime<Utc>,
    /// When it came to its state.
    updated_at: DateTime<Utc>,
    /// When it became final.
    finished_at: Option<DateTime<Utc>>,
    /// The job that caused it, if that is its owner's too.
    caused_by: Option<Uuid>,
    /// The first 20 jobs that it caused, as far as they are its owner's, the oldest first; `null` while that cannot be looked up.
    caused: Option<Vec<CausedView>>,
    /// What happened, by run, the oldest first. Progress is left out.
    timeline: Vec<RunView>,
    /// Where to go from here.
    links: Links,
}

/// A job that the job caused.
#[derive(Serialize, ToSchema)]
#[schema(as = CausedJob)]
struct CausedView {
    /// Its id.
    id: Uuid,
    /// Its kind.
    #[schema(example = "email.send")]
    kind: String,
    /// Where it stands.
    #[schema(value_type = StateName)]
    state: JobState,
    /// The job itself.
    link: String,
}

/// Where to go from a job.
#[derive(Serialize, ToSchema)]
struct Links {
    /// The job itself.
    #[serde(rename = "self")]
    own: String,
    /// Its events, as they happen.
    events: String,
    /// The report, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pdf: Option<String>,
    /// The order that it places.
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<String>,
    /// The video that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    video: Option<String>,
    /// The job that caused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    caused_by: Option<String>,
}

/// How far a run is.
#[derive(ToSchema)]
#[schema(as = Progress)]
#[expect(dead_code, reason = "describes what workers send and the store keeps as it is")]
pub(crate) struct ProgressView {
    /// What is being done.
    phase: String,
    /// Steps done.
    done: u64,
    /// Steps in all; 0 where that is not known.
    total: u64,
}

/// Where a job stands.
#[derive(ToSchema)]
#[schema(as = State, rename_all = "lowercase")]
#[expect(dead_code, reason = "describes the store's JobState, which knows no OpenAPI")]
pub(crate) enum StateName {
    Queued,
    Running,
    Retrying,
    Succeeded,
    Refused,
    Cancelled,
    Dead,
}

impl JobView {
    /// A job that was accepted just now.
    pub(crate) fn queued(job: &NewJob, due_at: Option<DateTime<Utc>>) -> Self {
        Job::accepted(JobRow { due_at, ..JobRow::from(job) }).into()
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &str {
        &self.links.own
    }
}

impl From<Job> for JobView {
    fn from(Job { row: job, events, chain }: Job) -> Self {
        // What came after the job was read would not fit the state that is shown.
        let events: Vec<JobEventRow> = events.into_iter().filter(|event| event.number <= job.last_number).collect();
        let counters = count(&events);
        let cancelling = is_cancelling(&job);
        let (caused_by, caused) = match chain {
            Some(Chain { caused_by, caused }) => (caused_by, Some(caused.into_iter().map(CausedView::from).collect())),
            None => (None, None),
        };
        let links = Links::of(&job, caused_by);
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
            cancelling,
            due_at: job.due_at,
            attempt: job.attempt,
            attempts: counters.attempts,
            redeliveries: counters.redeliveries,
            replays: job.replays,
            progress: job.progress,
            error: job.error.map(without_internals),
            result: job.result,
            created_at: job.created_at,
            updated_at: job.updated_at,
            finished_at: job.finished_at,
            caused_by,
            caused,
            timeline: runs(events, job.state == JobState::Running),
            links,
        }
    }
}

/// Whether the job has been told to stop, and has not yet.
pub(crate) fn is_cancelling(job: &JobRow) -> bool {
    job.cancel_requested_at.is_some() && !job.state.is_final()
}

impl Links {
    fn of(job: &JobRow, caused_by: Option<Uuid>) -> Self {
        let id = job.id;
        let has_pdf = job.kind == RenderReport::KIND && job.state == JobState::Succeeded;
        Self {
            own: path_of(id),
            events: format!("/v1/jobs/{id}/events"),
            pdf: has_pdf.then(|| format!("/v1/reports/{id}/pdf")),
            order: (job.kind == PlaceOrder::KIND).then(|| format!("/v1/orders/{id}")),
            video: (job.kind == TranscodeVideo::KIND).then(|| format!("/v1/videos/{id}")),
            caused_by: caused_by.map(path_of),
        }
    }
}

fn path_of(id: Uuid) -> String {
    format!("/v1/jobs/{id}")
}

impl From<CausedJob> for CausedView {
    fn from(CausedJob { id, kind, state, .. }: CausedJob) -> Self {
        Self { id, kind, state, link: path_of(id) }
    }
}

/// The reason of a failure is for operators: it may name hosts and queries. Customers see its kind. The reason of a refusal
/// is written for them; it comes with a code.
pub(super) fn without_internals(mut error: Value) -> Value {
    if let Value::Object(error) = &mut error
        && !error.contains_key("code")
    {
        error.retain(|key, _| key == "kind");
    }
    error
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::without_internals;

    #[test]
    fn a_customer_sees_the_kind_of_a_failure_and_the_reason_of_a_refusal() {
        let failure = json!({"kind": "error", "reason": "connect to postgres at 10.0.0.3"});
        assert_eq!(without_internals(failure), json!({"kind": "error"}));
        let refusal = json!({"code": "out-of-stock", "reason": "there is one left"});
        assert_eq!(without_internals(refusal.clone()), refusal);
    }
}
