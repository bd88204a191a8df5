//! Jobs: where one stands, asked once or waited for.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use store::DatabaseError;
use store::jobs::Chain;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::job_status::{Copy, Job};
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::unwritten;

mod cancel;
mod timeline;
mod view;

// With what describes it: the description is made of paths.
pub(crate) use cancel::*;
pub(crate) use timeline::EventView;
pub(crate) use view::{JobView, ProgressView, StateName, is_cancelling};

/// How often one looks for a row that may be being written.
const LOOK: Duration = Duration::from_millis(50);
const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Where a job stands.
///
/// With `If-None-Match` a job that has not changed is answered with 304. With `Prefer: wait=N` the answer is held back until
/// the job differs from that, or without `If-None-Match` until it is final; at most N seconds and 60.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    tag = "jobs",
    params(
        ("id" = Uuid, Path, description = "The job's id"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: hold the answer back up to N seconds", example = "wait=30"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, description = "The job", body = JobView, headers(
            ("ETag" = String, description = "Changes with everything that happens to the job, and with how those stand that it caused"),
            ("Preference-Applied" = String, description = "`wait=N`, when the answer was held back"),
        )),
        (status = 304, description = "The job has not changed"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such job, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn show(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wait = preferred_wait(&headers).map(|wait| wait.min(app.limits.longest_wait));
    let (job, applied) = match wait {
        None => (find(&app, id, caller.id()).await?, None),
        Some(wait) => wait_for_change(&app, id, &caller, &headers, wait).await?,
    };
    let job = job.ok_or(Problem::NotFound("job"))?;

    let etag = etag_of(&job);
    let mut response = if matches_etag(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Json(JobView::from(job)).into_response()
    };
    let text = |text: String| HeaderValue::try_from(text).map_err(|error| Problem::Internal(error.into()));
    response.headers_mut().insert(ETAG, text(etag)?);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Authorization, Cookie"));
    if let Some(wait) = applied {
        response.headers_mut().insert(PREFERENCE_APPLIED, text(format!("wait={}", wait.as_secs()))?);
    }
    Ok(response)
}

/// The job, if it is the owner's, once it is known whether there is one: Redis, lost just now, may have had the only copy of a job whose
/// row is being written.
pub(crate) async fn find(app: &App, id: Uuid, owner: &str) -> Result<Option<Job>, DatabaseError> {
    find_for(app, id, Some(owner)).await
}

/// The same for those who see the jobs of this owner, or of everybody.
pub(crate) async fn find_for(app: &App, id: Uuid, owner: Option<&str>) -> Result<Option<Job>, DatabaseError> {
    let end = Instant::now() + app.limits.unwritten;
    loop {
        let (found, is_told) = look(app, id, owner).await?;
        if found.is_some() || is_told || Instant::now() >= end || app.drain.is_cancelled() {
            return Ok(found);
        }
        sleep(LOOK).await;
    }
}

/// The job, if it is the owner's, as far as one look tells.
pub(crate) async fn find_now(app: &App, id: Uuid, owner: &str) -> Result<Option<Job>, DatabaseError> {
    Ok(look(app, id, Some(owner)).await?.0)
}

/// The job as its copy has it, else as the database does, else as it was noted that could not be written down. And whether Redis has
/// been there for a while.
async fn look(app: &App, id: Uuid, owner: Option<&str>) -> Result<(Option<Job>, bool), DatabaseError> {
    let (copy, ticket) = match app.status.look(id).await {
        Ok(look) => (look.copy, Some(look.ticket)),
        Err(_) => (None, None),
    };
    let is_told = ticket.is_some() && app.changes.is_told();
    let sees = |theirs: Option<&str>| owner.is_none_or(|owner| theirs == Some(owner));
    let copied = |copy: Copy| (Some(copy.job).filter(|job| sees(job.row.owner.as_deref())), is_told);
    let loaded = match copy {
        Some(copy) if copy.fresh || !app.changes.is_live() => return Ok(copied(copy)),
        // It is told without the database, if need be, and so without a long wait for it.
        Some(copy) => match load_in_time(app, id, owner).await {
            Ok(Some(job)) => job,
            // It was swept: its row had been there.
            Ok(None) if copy.job.row.last_number > 0 => return Ok((None, is_told)),
            _ => return Ok(copied(copy)),
        },
        None => match load_in_time(app, id, owner).await {
            Ok(Some(job)) => job,
            unknown => match unwritten::find(&app.redis, id).await {
                Ok(Some(job)) if sees(Some(&job.owner)) => {
                    return Ok((Some(Job::accepted((&job).into())), is_told));
                }
                _ => return Ok((unknown?, is_told)),
            },
        },
    };
    // Whose it is may be written without a word to Redis.
    if let Some(ticket) = ticket.filter(|_| loaded.row.owner.is_some())
        && let Err(error) = app.status.fill(&ticket, &loaded).await
    {
        tracing::debug!(job.id = %id, error = format!("{:#}", anyhow::Error::new(error)), "keep a copy of a job");
    }
    Ok((Some(loaded), is_told))
}

/// No longer than one waits for the database on the way to a 202: the pool would try for longer to reach one that is away.
async fn load_in_time(app: &App, id: Uuid, owner: Option<&str>) -> Result<Option<Job>, DatabaseError> {
    let deadline = app.patience();
    let late = |_| Err(DatabaseError::Deadline { action: "look for the job", deadline });
    timeout(deadline, load_for(app, id, owner)).await.unwrap_or_else(late)
}

/// The job as the database has it.
pub(crate) async fn load(app: &App, id: Uuid, owner: &str) -> Result<Option<Job>, DatabaseError> {
    load_for(app, id, Some(owner)).await
}

async fn load_for(app: &App, id: Uuid, owner: Option<&str>) -> Result<Option<Job>, DatabaseError> {
    // The job first: whatever made it final is then among the events.
    let Some(row) = store::jobs::find_job_for(&app.pool, id, owner).await? else {
        return Ok(None);
    };
    let events = store::jobs::events_after(&app.pool, id, 0).await?;
    // Last: what a final job caused in one transaction with its end is then among it.
    let chain = store::jobs::chain_of(&app.pool, &row).await?;
    Ok(Some(Job { row, events, chain: Some(chain) }))
}

/// The job as soon as it is worth an answer, else as it stands when the wait is over or the process drains; and the wait that
/// was granted. Where nobody more may wait, or the caller not once more, the answer comes at once, which a preference allows.
async fn wait_for_change(
    app: &App,
    id: Uuid,
    caller: &Caller,
    headers: &HeaderMap,
    wait: Duration,
) -> Result<(Option<Job>, Option<Duration>), Problem> {
    let end = Instant::now() + wait;
    let known = headers.contains_key(IF_NONE_MATCH);
    let mut watched = app.changes.watch(id);
    let mut place = None;
    loop {
        let Some(job) = find(app, id, caller.id()).await? else {
            return Ok((None, None));
        };
        let news = known && !matches_etag(headers, &etag_of(&job));
        if news || job.row.state.is_final() || app.drain.is_cancelled() || Instant::now() >= end {
            return Ok((Some(job), Some(wait)));
        }
        if place.is_none() {
            place = app.waiting.take(caller.user());
            if place.is_none() {
                return Ok((Some(job), None));
            }
        }
        // However the wait ends, one last look decides.
        let _ended = app.drain.run_until_cancelled(timeout_at(end, watched.changed())).await;
    }
}

/// Every event of a job has a number of its own, so the newest number says which state of the job it is; but for what is no
/// event of it: that it is told to stop, that it waits until it is due, what caused it and how what it caused stands.
fn etag_of(Job { row: job, chain, .. }: &Job) -> String {
    let told = if is_cancelling(job) { "-cancelling" } else { "" };
    let waits = if job.due_at.is_some() { "-due" } else { "" };
    let chain = match chain {
        Some(Chain { caused_by, caused }) => {
            let cause = caused_by.iter().map(|_| "^");
            cause.chain(caused.iter().flat_map(|job| ["+", job.state.as_str()])).collect()
        }
        None => "?".to_owned(),
    };
    format!("\"{}{told}{waits}{chain}\"", job.last_number)
}

/// Whether `If-None-Match` names the tag; compared weakly (RFC 9110, 13.1.2).
pub(crate) fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let values = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

/// The `wait` of `Prefer` (RFC 7240). What cannot be read is no preference; the first of several counts.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
    let mut waits = values.flat_map(|value| value.split(',')).filter_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        name.trim().eq_ignore_ascii_case("wait").then(|| value.trim().trim_matches('"').to_owned())
    });
    waits.next()?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::header::IF_NONE_MATCH;
    use axum::http::{HeaderMap, HeaderName, HeaderValue};

    use super::{PREFER, matches_etag, preferred_wait};

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    #[test]
    fn a_wait_is_read_from_among_other_preferences() {
        let wait = |values: &[&'static str]| preferred_wait(&headers(PREFER, values)).map(|wait| wait.as_secs());
        assert_eq!(wait(&["wait=10"]), Some(10));
        assert_eq!(wait(&["respond-async, Wait=\"20\"; foo=bar"]), Some(20));
        assert_eq!(wait(&["respond-async", "wait=30"]), Some(30));
        for none in [&[] as &[&'static str], &["wait"], &["wait="], &["wait=-1"], &["wait=ten"], &["await=10"]] {
            assert_eq!(wait(none), None, "{none:?}");
        }
        assert_eq!(
            preferred_wait(&headers(PREFER, &["wait=18446744073709551615"])),
            Some(Duration::from_secs(u64::MAX))
        );
    }

    #[test]
    fn a_tag_is_found_in_a_list_strong_or_weak() {
        let known = |values: &[&'static str]| matches_etag(&headers(IF_NONE_MATCH, values), "\"7\"");
        for same in [&["\"7\""] as &[&'static str], &["W/\"7\""], &["\"6\", \"7\""], &["\"6\"", "\"7\""], &["*"]] {
            assert!(known(same), "{same:?}");
        }
        for other in [&[] as &[&'static str], &["\"77\""], &["7"], &[""]] {
            assert!(!known(other), "{other:?}");
        }
    }
}
