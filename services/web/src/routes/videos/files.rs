//! Handing out the files of a video, whole or by range, as a plain video element asks for them.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::header::{
    ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
    ETAG, VARY,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use futures_util::TryStreamExt;
use serde::Deserialize;
use store::files::video_key;
use utoipa::ToSchema;
use uuid::Uuid;

use super::range::{Part, part};
use super::{made, own_video};
use crate::App;
use crate::caller::Caller;
use crate::problem::{Problem, ProblemBody};
use crate::routes::jobs::matches_etag;

/// Playlists are read whole, to be rewritten; they have a line for each few seconds of a video.
const LONGEST_PLAYLIST: u64 = 4 * 1024 * 1024;
/// Who opens a file by its link gets a page of the browser's own making, with a video element for the same address.
const OPENED: &str =
    "default-src 'none'; media-src 'self'; img-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'";
const PLAYLIST: &str = "application/vnd.apple.mpegurl";
/// What the answer depends on beside the address.
const CREDENTIALS: &str = "Authorization, Cookie";

/// A part of a video, or all of it.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the bytes of the answer")]
struct VideoPart(Vec<u8>);

/// What makes an address open to whoever holds it.
#[derive(Clone, Debug, Deserialize)]
struct SignedLink {
    /// Until when, in unix seconds.
    expires: i64,
    /// That this server made it.
    signature: String,
}

/// By which right somebody watches a video.
pub(crate) enum Viewer {
    /// As the caller who owns it.
    Owner(Caller),
    /// By a signed link, which opens every file of one video.
    Link(Link),
}

/// See [`Viewer::Link`].
pub(crate) struct Link(SignedLink);

impl FromRequestParts<App> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        if parts.headers.contains_key(AUTHORIZATION) || !query.contains("signature=") {
            return Caller::from_request_parts(parts, app).await.map(Self::Owner);
        }
        let link = Query::<SignedLink>::from_request_parts(parts, app).await.map_err(|_| Problem::LinkInvalid)?;
        Ok(Self::Link(Link(link.0)))
    }
}

/// A file of a video: to its owner by session or token, to anybody by a signed link such as the one in the mail. There is none before
/// all of them were made.
#[utoipa::path(
    get,
    path = "/v1/videos/{id}/files/{name}",
    tag = "videos",
    params(
        ("id" = Uuid, Path, description = "The video's id"),
        ("name" = String, Path, description = "One of the video's `files`", example = "720p.mp4"),
        ("expires" = Option<i64>, Query, description = "Of a signed link: until when, in unix seconds"),
        ("signature" = Option<String>, Query, description = "Of a signed link"),
        ("Range" = Option<String>, Header, description = "One range of bytes", example = "bytes=0-1023"),
        ("If-Range" = Option<String>, Header, description = "The ETag of what is known already: if it is another now, all of it is sent"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, description = "The file", body = VideoPart, content_type = "video/mp4"),
        (status = 206, description = "The part of it that was asked for", body = VideoPart, content_type = "video/mp4"),
        (status = 304, description = "The same as the one with the ETag in If-None-Match"),
        (status = 401, description = "Neither session nor token nor link", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "The link was changed or has expired, or the token has not the scope `jobs:read`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "Not ready, no such file, or not the caller's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 416, description = "The range lies outside of the file", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be read at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("token" = []), ("session" = []), ())
)]
pub(crate) async fn file(
    State(app): State<App>,
    path: Result<Path<(String, String)>, PathRejection>,
    viewer: Viewer,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path((id, name)) = path.map_err(|_| Problem::NotFound("file"))?;
    let id: Uuid = id.parse().map_err(|_| Problem::NotFound("video"))?;
    let media_type = media_type(&name).ok_or(Problem::NotFound("file"))?;
    let link = match viewer {
        Viewer::Owner(caller) => {
            let job = own_video(&app, id, &caller).await?;
            let has = made(&job).is_some_and(|made| made.files.contains(&name));
            has.then_some(()).ok_or(Problem::NotFound("file"))?;
            None
        }
        Viewer::Link(Link(link)) => {
            app.links.verify_video(id, link.expires, &link.signature, Utc::now()).map_err(|error| match error {
                store::LinkError::Expired => Problem::LinkExpired,
                _ => Problem::LinkInvalid,
            })?;
            Some(link)
        }
    };
    let key = video_key(id, &name);
    let bytes = app.files.size(&key).await?.ok_or(Problem::NotFound("file"))?;
    // What is shown is not written again.
    let etag = format!("\"{}-{name}-{bytes}\"", id.simple());
    if matches_etag(&headers, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, described(&etag)?).into_response());
    }
    if media_type == PLAYLIST
        && let Some(link) = &link
    {
        return playlist(&app, &key, link).await;
    }
    let (status, range) = match part(&headers, bytes, &etag) {
        Part::Whole => (StatusCode::OK, 0..bytes),
        Part::Bytes(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Outside => return Err(Problem::RangeOutside(bytes)),
    };
    let length = range.end - range.start;
    let file = app.files.get_range(&key, range.clone()).await?.ok_or(Problem::NotFound("file"))?;
    let mut answer = described(&etag)?;
    answer.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer.insert(CONTENT_LENGTH, length.into());
    answer.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let told = format!("bytes {}-{}/{bytes}", range.start, range.end - 1);
        answer.insert(CONTENT_RANGE, text(&told)?);
    }
    Ok((status, answer, Body::from_stream(file.content)).into_response())
}

/// A playlist for somebody with a link: whatever it names is opened by the same link.
async fn playlist(app: &App, key: &str, link: &SignedLink) -> Result<Response, Problem> {
    let file = app.files.get(key).await?.filter(|file| file.bytes <= LONGEST_PLAYLIST);
    let file = file.ok_or(Problem::NotFound("file"))?;
    let pieces: Vec<_> = file.content.try_collect().await?;
    let content = String::from_utf8(pieces.concat()).map_err(|error| Problem::Internal(error.into()))?;
    let signed = with_link(&content, link.expires, &link.signature);
    let headers = [(CONTENT_TYPE, PLAYLIST), (CACHE_CONTROL, "private, no-cache"), (VARY, CREDENTIALS)];
    Ok((headers, signed).into_response())
}

/// In a playlist, what is neither empty nor begins with `#` is an address (RFC 8216, 4.1). None of ours has a query.
fn with_link(playlist: &str, expires: i64, signature: &str) -> String {
    let signed = |line: &str| match line.is_empty() || line.starts_with('#') {
        true => format!("{line}\n"),
        false => format!("{line}?expires={expires}&signature={signature}\n"),
    };
    playlist.lines().map(signed).collect()
}

/// By its name; `None` for what no video has, such as the file that was uploaded.
fn media_type(name: &str) -> Option<&'static str> {
    match name {
        "720p.mp4" | "480p.mp4" => Some("video/mp4"),
        "720p.ts" | "480p.ts" => Some("video/mp2t"),
        "master.m3u8" | "720p.m3u8" | "480p.m3u8" => Some(PLAYLIST),
        "poster.jpg" => Some("image/jpeg"),
        _ => None,
    }
}

fn described(etag: &str) -> Result<HeaderMap, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(OPENED));
    headers.insert(ETAG, text(etag)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    headers.insert(VARY, HeaderValue::from_static(CREDENTIALS));
    Ok(headers)
}

fn text(text: &str) -> Result<HeaderValue, Problem> {
    HeaderValue::try_from(text).map_err(|error| Problem::Internal(error.into()))
}

#[cfg(test)]
mod tests {
    use super::with_link;

    #[test]
    fn whatever_a_playlist_names_is_opened_by_the_same_link() {
        let playlist = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n720p.m3u8\n\n#EXTINF:6,\n720p.ts\n";
        let signed = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n720p.m3u8?expires=7&signature=ab\n\n#EXTINF:6,\n720p.ts?expires=7&signature=ab\n";
        assert_eq!(with_link(playlist, 7, "ab"), signed);
    }
}
