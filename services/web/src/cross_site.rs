//! Refuses what another site has a browser send: beside `SameSite` and bodies that must be JSON, the guard against forged
//! requests. It asks what the browser itself says of a request's origin, and needs no token in a form.

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::caller::is_safe;
use crate::problem::Problem;
use crate::sessions;
use crate::strict_json::is_json;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Lets through what is no browser's, what only looks, and what comes from our own pages.
pub(crate) async fn refuse(request: Request, next: Next) -> Response {
    match check(request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    // What has a token was not sent by a browser of its own accord.
    if is_safe(method) || headers.contains_key(AUTHORIZATION) {
        return Ok(());
    }
    if !is_from_here(headers) {
        return Err(Problem::CrossSite);
    }
    let with_session = headers.get_all(COOKIE).iter().any(|cookies| {
        cookies.to_str().is_ok_and(|cookies| cookies.split(';').any(|cookie| name(cookie) == sessions::COOKIE))
    });
    // What a form can send; handlers without a body would not look.
    let form = headers.get(CONTENT_TYPE).is_some_and(|kind| !kind.to_str().is_ok_and(is_no_forms));
    if with_session && form { Err(Problem::NotJson) } else { Ok(()) }
}

/// A type with which no form can send, and no script of another site without asking first.
fn is_no_forms(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    is_json(media_type) || essence.starts_with("video/") || essence == "application/octet-stream"
}

fn name(cookie: &str) -> &str {
    cookie.split('=').next().unwrap_or_default().trim()
}

/// `Sec-Fetch-Site`, else `Origin` against `Host`. What has neither comes from no browser of these years.
fn is_from_here(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            let origin = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            origin.is_some() && origin == host
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::check;
    use crate::problem::Problem;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_another_site_sends_is_refused() {
        for bad in [
            &[("sec-fetch-site", "cross-site")] as &[_],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://shop.example")],
            &[("origin", "https://evil.example")],
            &[("origin", "https://shop.example.evil.example")],
            &[("origin", "https://shop.example:8443")],
            &[("origin", "null")],
            &[("origin", "")],
        ] {
            let mut headers = headers(bad);
            headers.insert("host", HeaderValue::from_static("shop.example"));
            assert!(matches!(check(&Method::POST, &headers), Err(Problem::CrossSite)), "{bad:?}");
            check(&Method::GET, &headers).unwrap();
            headers.insert("authorization", HeaderValue::from_static("Bearer x"));
            check(&Method::POST, &headers).unwrap();
        }
    }

    #[test]
    fn what_our_own_pages_and_programs_send_is_let_through() {
        for good in [
            &[] as &[_],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://shop.example")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://shop.example")],
            &[("cookie", "a=b; __Host-sid=x"), ("content-type", "application/json")],
            &[("cookie", "__Host-sid=x")],
        ] {
            let mut headers = headers(good);
            headers.insert("host", HeaderValue::from_static("shop.example"));
            check(&Method::DELETE, &headers).unwrap();
        }
    }

    #[test]
    fn a_form_with_a_session_is_refused_whatever_its_origin() {
        for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"] {
            let form = headers(&[("cookie", "a=b; __Host-sid=x"), ("content-type", kind)]);
            assert!(matches!(check(&Method::POST, &form), Err(Problem::NotJson)), "{kind}");
        }
    }
}
