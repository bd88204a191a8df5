//! Uploading a video: streamed into the store of files, never whole in memory, and then a job like any other.

use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use futures_util::StreamExt;
use pipeline::TraceContext;
use pipeline::jobs::{TranscodeVideo, VideoSource, VideoTitle};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::Files;
use store::files::{upload_key, video_source_key};
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::sniff;
use crate::App;
use crate::accept::{Accepted, accept, asked_for};
use crate::caller::Caller;
use crate::idempotency_key::OptionalKey;
use crate::problem::{Problem, ProblemBody};
use crate::routes::jobs::JobView;

/// What a key belongs to, beside its caller. It must never change: a repeat would be another video.
const ROUTE: &str = "POST /v1/videos";
/// What a video is called whose owner does not say.
const UNTITLED: &str = "Untitled video";
/// So much must come of an upload in each [`crate::Limits::body_read`]: 8 KiB a second. Who is slower holds a place for too long.
const LEAST: u64 = 64 * 1024;
/// How often one looks whether there is still room: once in so many bytes.
const LOOK_AFTER: u64 = 64 * 1024 * 1024;

/// How a video is to be called.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// 1 to 200 characters; left out: "Untitled video".
    title: Option<String>,
}

/// A video as a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the bytes of the request")]
pub(crate) struct VideoFile(Vec<u8>);

/// What is asked for under a key.
#[derive(Serialize)]
struct Asked<'a> {
    title: &'a str,
    sha256: &'a str,
}

/// A request's body that is to be a video, before any of it was read.
pub(crate) struct Incoming {
    bytes: u64,
    body: Body,
}

impl FromRequest<App> for Incoming {
    type Rejection = Problem;

    /// Says no before the first byte where that can be known.
    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        check_type(request.headers())?;
        let bytes = declared(request.headers()).ok_or(Problem::LengthMissing)?;
        if bytes > app.limits.video_bytes {
            return Err(Problem::BodyTooLarge(app.limits.video_bytes));
        }
        Ok(Self { bytes, body: request.into_body() })
    }
}

/// Uploads a video, which is then made playable everywhere: MP4 files of 720 and 480 lines, an HLS playlist, a picture. A mail tells when
/// it can be watched, or why it cannot.
///
/// The body is the file itself: MP4, QuickTime, Matroska or WebM. With an `Idempotency-Key` the request can be repeated for a day: there is
/// one video, and each answer names it.
#[utoipa::path(
    post,
    path = "/v1/videos",
    tag = "videos",
    params(
        UploadQuery,
        (
            "Idempotency-Key" = Option<String>, Header,
            description = "1 to 255 characters of visible ASCII, in quotes or bare; another video needs another key"
        ),
    ),
    request_body(content = VideoFile, content_type = "video/*"),
    responses(
        (
            status = 202,
            description = "Accepted: the file is stored, and the job is on its queue or in the outbox, on disk. Its id is the video's",
            body = JobView,
            headers(
                ("Location" = String, description = "The job; its state can be asked for there"),
                ("Retry-After" = u64, description = "Seconds until it is worth asking"),
            )
        ),
        (status = 400, description = "The query is wrong, the Idempotency-Key is none, or the upload broke off", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 401, description = "Who calls is not known", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The token has not the scope `jobs:write`, or another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 411, description = "There is no Content-Length", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is no video of a kind that is taken", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "The title is none, or the Idempotency-Key stands for another video", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "Nothing takes work at the moment, there is no room, or too much is waiting; Retry-After says when to \
            try again. After `/problems/outcome-unknown` repeat it with the same Idempotency-Key", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []))
)]
pub(crate) async fn upload(
    State(app): State<App>,
    caller: Caller,
    Extension(trace): Extension<TraceContext>,
    OptionalKey(key): OptionalKey,
    query: Result<Query<UploadQuery>, QueryRejection>,
    incoming: Incoming,
) -> Result<Accepted, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::QueryInvalid(rejection.body_text()))?;
    let title = VideoTitle::try_from(query.title.unwrap_or_else(|| UNTITLED.to_owned()))
        .map_err(|error| Problem::field("title", error.to_string()))?;
    let _place = app.uploads.take(caller.user()).ok_or(Problem::TooManyUploads)?;
    let upload = Uuid::new_v4();
    let uploaded = upload_key(upload);
    let Stored { bytes, sha256 } = store(&app, &uploaded, incoming).await?;

    let source = VideoSource { key: String::new(), bytes, sha256: sha256.clone() };
    let recipient = caller.recipient().clone();
    let asked = Asked { title: title.as_str(), sha256: &sha256 };
    let mut job = asked_for(&caller, trace, (ROUTE, key), &asked, |_| TranscodeVideo {
        title: title.clone(),
        source,
        recipient,
    })?;
    // By a name of its own: what comes later under the same key takes the place of nothing.
    let source = video_source_key(job.id, upload);
    if !app.files.rename(&uploaded, &source).await? {
        return Err(Problem::Internal(anyhow::anyhow!("the upload is gone")));
    }
    job.payload.source.key = source.clone();
    let accepted = accept(&app, job, None).await;
    let is_of_use = match &accepted {
        Ok(accepted) => !accepted.is_repeat(),
        Err(problem) => matches!(problem, Problem::OutcomeUnknown { .. }),
    };
    if !is_of_use && let Err(error) = app.files.delete(&source).await {
        tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "delete an upload that is of no use");
    }
    accepted
}

/// A file in the store.
struct Stored {
    bytes: u64,
    sha256: String,
}

/// Stores a body under a key, whole or not at all.
async fn store(app: &App, key: &str, incoming: Incoming) -> Result<Stored, Problem> {
    check_room(&app.files, incoming.bytes).await?;
    let mut pieces = incoming.body.into_data_stream();
    let mut pace = Pace::new(app.limits.body_read);
    let mut start = Vec::new();
    // What tells a video from other files comes first, and nothing is stored before that.
    while start.len() < sniff::BYTES {
        match pace.next(&mut pieces).await? {
            Some(piece) => start.extend_from_slice(&piece),
            None => break,
        }
    }
    if !sniff::is_video(&start) {
        return Err(Problem::NotVideo);
    }
    let (mut upload, mut digest) = (app.files.begin(key).await?, Sha256::new());
    let (mut piece, mut looked) = (Some(Bytes::from(start)), 0);
    while let Some(bytes) = piece {
        digest.update(&bytes);
        upload.write(bytes).await?;
        if pace.bytes - looked >= LOOK_AFTER {
            looked = pace.bytes;
            check_room(&app.files, 0).await?;
        }
        piece = pace.next(&mut pieces).await?;
    }
    let bytes = upload.finish().await?;
    let sha256 = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Stored { bytes, sha256 })
}

/// Watches how fast a body comes.
struct Pace {
    bytes: u64,
    window: Duration,
    /// By when, and up to which byte.
    due: (Instant, u64),
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { bytes: 0, window, due: (Instant::now() + window, LEAST) }
    }

    /// The next piece of a body; `None` at its end.
    async fn next(&mut self, pieces: &mut axum::body::BodyDataStream) -> Result<Option<Bytes>, Problem> {
        let piece = timeout_at(self.due.0, pieces.next()).await.map_err(|_| Problem::BodyLate)?;
        let Some(piece) = piece.transpose().map_err(|_| Problem::BodyBroken)? else { return Ok(None) };
        self.bytes += piece.len() as u64;
        if self.bytes >= self.due.1 {
            self.due = (Instant::now() + self.window, self.bytes + LEAST);
        }
        Ok(Some(piece))
    }
}

/// Whether so much more can be stored, and enough is left for others.
async fn check_room(files: &Files, bytes: u64) -> Result<(), Problem> {
    let room = files.room().await?;
    if room.left_after(bytes) < room.reserve() { Err(Problem::StorageFull) } else { Ok(()) }
}

/// Any type that is not one of a form's: what the file is, its first bytes tell.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let one = types.next().filter(|_| types.next().is_none()).and_then(|value| value.to_str().ok());
    let essence = one.and_then(|value| value.split(';').next()).map(|value| value.trim().to_ascii_lowercase());
    let taken = essence.is_some_and(|essence| essence.starts_with("video/") || essence == "application/octet-stream");
    if !taken {
        return Err(Problem::NotVideo);
    }
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::Compressed);
    }
    Ok(())
}

/// Checked by hyper against what comes.
fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
