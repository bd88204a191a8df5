//! How a job and its events are shown: what its owner may see, and nothing else.

use chrono::{DateTime, Utc};
use pipeline::jobs::{Job, RenderReport};
use serde::Serialize;
use serde_json::{Map, Value};
use store::jobs::{JobEventRow, JobEventType, JobRow, JobState, NewJob};
use utoipa::ToSchema;
use uuid::Uuid;

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
    /// Which attempt it is at; 0 before the first.
    attempt: u32,
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
    /// What happened, by run, the oldest first. Progress is left out.
    timeline: Vec<RunView>,
    /// Where to go from here.
    links: Links,
}

/// What happened in one run; before the first, and between two, there is none.
#[derive(Serialize, ToSchema)]
#[schema(as = Run)]
pub(crate) struct RunView {
    /// The run's id.
    run_id: Option<Uuid>,
    /// Which attempt it was.
    attempt: u32,
    /// What happened.
    events: Vec<EventView>,
}

/// Something that happened to a job.
#[derive(Serialize, ToSchema)]
#[schema(as = Event)]
pub(crate) struct EventView {
    /// Grows with each event of the job.
    number: i64,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "job.started")]
    event_type: JobEventType,
    /// Which attempt it was.
    attempt: u32,
    /// When.
    at: DateTime<Utc>,
    /// What belongs to the type: `progress`, `failure`, `delay_seconds`, `next_attempt`, `result`, `refusal`.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
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
}

/// How far a run is.
#[derive(ToSchema)]
#[schema(as = Progress)]
#[expect(dead_code, reason = "describes what workers send and the store keeps as it is")]
struct ProgressView {
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
enum StateName {
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
    pub(crate) fn queued(job: &NewJob) -> Self {
        Self {
            id: job.id,
            kind: job.kind.clone(),
            state: JobState::Queued,
            attempt: 0,
            progress: None,
            error: None,
            result: None,
            created_at: job.at,
            updated_at: job.at,
            finished_at: None,
            timeline: Vec::new(),
            links: Links::of(job.id, false),
        }
    }

    /// A job as it was read, with events that may be newer.
    pub(crate) fn of(job: JobRow, events: Vec<JobEventRow>) -> Self {
        let has_pdf = job.kind == RenderReport::KIND && job.state == JobState::Succeeded;
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
            attempt: job.attempt,
            progress: job.progress,
            error: job.error.map(without_internals),
            result: job.result,
            created_at: job.created_at,
            updated_at: job.updated_at,
            finished_at: job.finished_at,
            timeline: timeline(events, job.last_number),
            links: Links::of(job.id, has_pdf),
        }
    }
}

impl Links {
    fn of(id: Uuid, has_pdf: bool) -> Self {
        Self {
            own: format!("/v1/jobs/{id}"),
            events: format!("/v1/jobs/{id}/events"),
            pdf: has_pdf.then(|| format!("/v1/reports/{id}/pdf")),
        }
    }
}

/// The events up to `last`, by run. What came after the job was read would not fit the state that is shown.
fn timeline(events: Vec<JobEventRow>, last: i64) -> Vec<RunView> {
    let mut runs: Vec<RunView> = Vec::new();
    for event in events.into_iter().filter(|event| event.number <= last && event.event_type != JobEventType::Progressed)
    {
        let (run_id, attempt) = (event.run_id, event.attempt);
        let of_its_run = |run: &&mut RunView| run.run_id.is_some() && run.run_id == run_id;
        match runs.iter_mut().find(of_its_run) {
            Some(run) => run.events.push(EventView::of(event)),
            None => runs.push(RunView { run_id, attempt, events: vec![EventView::of(event)] }),
        }
    }
    runs
}

impl EventView {
    /// An event as it was read.
    pub(crate) fn of(event: JobEventRow) -> Self {
        let mut data = match event.data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        if let Some(failure) = data.get_mut("failure") {
            *failure = without_internals(failure.take());
        }
        // A foreign worker may send anything beside what belongs to the type.
        for own in ["number", "type", "attempt", "at"] {
            data.remove(own);
        }
        Self { number: event.number, event_type: event.event_type, attempt: event.attempt, at: event.at, data }
    }
}

/// The reason of a failure is for operators: it may name hosts and queries. Customers see its kind. The reason of a refusal
/// is written for them; it comes with a code.
fn without_internals(mut error: Value) -> Value {
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
