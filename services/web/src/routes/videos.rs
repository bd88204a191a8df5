//! Videos: uploaded as they are, made playable by a job, shown as far as that is, and handed out by range.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use pipeline::jobs::{Job as _, TranscodeVideo};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::jobs::{JobRow, JobState};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::caller::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::Id;
use crate::routes::jobs::{ProgressView, StateName, find};

mod files;
mod range;
mod sniff;
mod upload;

// With what describes them: the description is made of paths.
pub(crate) use files::*;
pub(crate) use upload::*;

/// A video, as its owner sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Video)]
pub(crate) struct VideoView {
    /// Its id, which is its job's.
    id: Uuid,
    /// As its job: `queued`, `running`, `retrying`; then for good `succeeded`, `refused`, `cancelled` or `dead`.
    #[schema(value_type = StateName)]
    state: JobState,
    /// How far it is: `done` of 100.
    #[schema(value_type = Option<ProgressView>)]
    progress: Option<Value>,
    /// Why it cannot be shown, if it was refused: `code` and `reason`.
    #[schema(value_type = Option<Object>)]
    refusal: Option<Value>,
    /// When it was uploaded.
    created_at: DateTime<Utc>,
    /// What there is to watch, once it has succeeded.
    made: Option<MadeVideo>,
    /// Where to go from here.
    links: VideoLinks,
}

/// What was made of an upload.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
pub(crate) struct MadeVideo {
    /// What its owner calls it.
    title: String,
    /// How long it lasts, in milliseconds.
    millis: u64,
    /// The sizes that there are, the largest first.
    renditions: Vec<Rendition>,
    /// The files, each to be had at `/v1/videos/{id}/files/{name}`.
    files: Vec<String>,
}

/// One size of a video: `<name>.mp4`, and for adaptive players `<name>.m3u8`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, ToSchema)]
struct Rendition {
    /// `720p` or `480p`.
    #[schema(example = "720p")]
    name: String,
    /// Pixels.
    width: u32,
    /// Pixels.
    height: u32,
    /// The size of the MP4 file.
    bytes: u64,
}

/// Where to go from a video.
#[derive(Serialize, ToSchema)]
struct VideoLinks {
    /// The video itself.
    #[serde(rename = "self")]
    own: String,
    /// The job that makes it playable.
    job: String,
    /// The job's events, as they happen.
    events: String,
    /// The largest MP4 file.
    #[serde(skip_serializing_if = "Option::is_none")]
    mp4: Option<String>,
    /// The HLS playlist of all sizes (RFC 8216).
    #[serde(skip_serializing_if = "Option::is_none")]
    hls: Option<String>,
    /// A picture of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    poster: Option<String>,
}

/// Where a video stands, and what there is to watch.
#[utoipa::path(
    get,
    path = "/v1/videos/{id}",
    tag = "videos",
    params(("id" = Uuid, Path, description = "The video's id, which is its job's")),
    responses(
        (status = 200, description = "The video", body = VideoView),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such video, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn show(State(app): State<App>, caller: Caller, Id(id): Id) -> Result<Response, Problem> {
    let job = own_video(&app, id, &caller).await?;
    let mut response = Json(VideoView::of(job)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    Ok(response)
}

/// The job of a video that is the caller's.
async fn own_video(app: &App, id: Uuid, caller: &Caller) -> Result<JobRow, Problem> {
    let job = find(app, id, caller.id()).await?;
    let row = job.map(|job| job.row).filter(|row| row.kind == TranscodeVideo::KIND);
    row.ok_or(Problem::NotFound("video"))
}

/// What was made, once all of it was: a job that has not succeeded has no result. Before, no file of it is shown.
fn made(job: &JobRow) -> Option<MadeVideo> {
    MadeVideo::deserialize(job.result.as_ref()?).ok()
}

impl VideoView {
    fn of(job: JobRow) -> Self {
        let made = made(&job);
        let refusal = if job.state == JobState::Refused { job.error } else { None };
        let (id, links) = (job.id, VideoLinks::of(job.id, made.as_ref()));
        Self { id, state: job.state, progress: job.progress, refusal, created_at: job.created_at, made, links }
    }
}

impl VideoLinks {
    fn of(id: Uuid, made: Option<&MadeVideo>) -> Self {
        let own = format!("/v1/videos/{id}");
        let file = |name: &str| made?.files.iter().any(|file| file == name).then(|| format!("{own}/files/{name}"));
        let largest = made.and_then(|made| made.renditions.first());
        Self {
            mp4: largest.and_then(|rendition| file(&format!("{}.mp4", rendition.name))),
            hls: file("master.m3u8"),
            poster: file("poster.jpg"),
            job: format!("/v1/jobs/{id}"),
            events: format!("/v1/jobs/{id}/events"),
            own,
        }
    }
}
