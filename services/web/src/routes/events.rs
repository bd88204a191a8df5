//! The events of a job as they happen, as server-sent events.

use std::convert::Infallible;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use store::DatabaseError;
use tokio::time::Instant;
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::changes::Watched;
use crate::job_status::Job;
use crate::places::Place;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::routes::jobs::{EventView, find};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Proxies that know it then pass each event on at once.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// How long a client waits before it comes back after a stream broke off.
const RECONNECT: std::time::Duration = std::time::Duration::from_secs(1);

/// The events of a job as they happen, as server-sent events.
///
/// `id` is the event's number, `event` its type, `data` the event as JSON. With `Last-Event-ID` the stream goes on after that
/// event, on any server. It ends after the final event; asking again after that one is answered with 204, which tells a browser
/// to stop. Of the reports of progress the latest is kept: who resumes may find numbers left out.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    tag = "jobs",
    params(
        ("id" = Uuid, Path, description = "The job's id"),
        ("Last-Event-ID" = Option<i64>, Header, description = "The number of the last event that was received"),
    ),
    responses(
        (status = 200, description = "The events", body = EventView, content_type = "text/event-stream"),
        (status = 204, description = "The job is final, and there is nothing after that event"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such job, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "Too many streams are open, or too many of the caller's, or what is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn stream(
    State(app): State<App>,
    caller: Caller,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let place = app.waiting.take(caller.user()).ok_or(Problem::TooManyStreams)?;
    let watched = app.changes.watch(id);
    let job = find(&app, id, caller.id()).await?.ok_or(Problem::NotFound("job"))?;
    let seen = last_event_id(&headers);
    if end(&job).is_some_and(|end| seen >= end) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let follower =
        Follower { app: app.clone(), id, owner: caller.id().to_owned(), watched, seen, failing: false, _place: place };
    let first = stream::once(async { Ok(sse::Event::default().retry(RECONNECT)) });
    let end = app.drain.clone().cancelled_owned();
    let events = first.chain(follow(follower)).take_until(end);
    let keep_alive = KeepAlive::new().interval(app.limits.keep_alive);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

/// What a browser sends when it comes back. What is no number is no event of ours: then from the beginning.
fn last_event_id(headers: &HeaderMap) -> i64 {
    headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.trim().parse().ok()).unwrap_or(0)
}

/// One stream: how far it has come, and what keeps it awake.
struct Follower {
    app: App,
    id: Uuid,
    owner: String,
    watched: Watched,
    seen: i64,
    failing: bool,
    _place: Place,
}

/// The events after `seen`, until the final one was sent or the stream is old.
fn follow(follower: Follower) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    let end = Instant::now() + follower.app.limits.stream_age;
    let batches = stream::unfold(Some(follower), move |follower| async move {
        let mut follower = follower?;
        loop {
            match follower.look().await {
                Ok((events, done)) => {
                    follower.failing = false;
                    if done || !events.is_empty() {
                        return Some((events, (!done).then_some(follower)));
                    }
                }
                // A stream that ended now would be asked for again, get a 503, and a browser would give up for good.
                Err(error) => {
                    if !follower.failing {
                        let error = format!("{:#}", anyhow::Error::new(error));
                        tracing::warn!(job.id = %follower.id, error, "read events for a stream: trying again");
                    }
                    follower.failing = true;
                }
            }
            if Instant::now() >= end {
                return None;
            }
            tokio::select! {
                () = follower.watched.changed() => {}
                () = tokio::time::sleep_until(end) => return None,
            }
        }
    });
    batches.flat_map(stream::iter)
}

impl Follower {
    /// What is new, and whether nothing comes after it.
    async fn look(&mut self) -> Result<(Vec<Result<sse::Event, Infallible>>, bool), DatabaseError> {
        // It was there. A row may come later than its copy goes.
        let Some(job) = find(&self.app, self.id, &self.owner).await? else { return Ok((Vec::new(), false)) };
        let (mut events, seen, end) = (Vec::new(), self.seen, end(&job));
        let is_over = |number| end.is_some_and(|end| number > end);
        for row in job.events.into_iter().skip_while(|row| row.number <= seen).take_while(|row| !is_over(row.number)) {
            self.seen = row.number;
            let event = sse::Event::default().id(row.number.to_string()).event(row.event_type.as_str());
            match event.json_data(EventView::of(row)) {
                Ok(event) => events.push(Ok(event)),
                Err(error) => tracing::error!(job.id = %self.id, %error, "write an event as JSON"),
            }
        }
        Ok((events, end.is_some()))
    }
}

/// The number of the event with which a job ended, if it has. Who accepted it and who tracks it write side by side, so that what came
/// before may have a number after that: it is told no more.
fn end(job: &Job) -> Option<i64> {
    let final_event = || job.events.iter().rev().find(|row| row.event_type.state() == job.row.state);
    job.row.state.is_final().then(|| final_event().map_or(job.row.last_number, |row| row.number))
}
