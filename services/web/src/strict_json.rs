//! Reads a body as JSON and takes nothing else: media type, size, time, syntax and every field are checked, in this order.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::App;
use crate::problem::Problem;

/// What a request's body may have. Nothing that is asked for here comes near it.
pub(crate) const BODY_BYTES: usize = 16 * 1024;

/// A JSON object as the body of a request.
#[derive(Debug)]
pub(crate) struct StrictJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for StrictJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        check_type(request.headers())?;
        let body =
            read(request.headers().get(CONTENT_LENGTH).cloned(), app.limits.body_read, request.into_body()).await?;
        parse(&body).map(Self)
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let one = types.next().filter(|_| types.next().is_none()).and_then(|value| value.to_str().ok());
    if !one.is_some_and(is_json) {
        return Err(Problem::NotJson);
    }
    if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::Compressed);
    }
    Ok(())
}

/// JSON has no parameters (RFC 8259); a `charset` is commonly sent all the same, and is right when it is UTF-8.
pub(crate) fn is_json(media_type: &str) -> bool {
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = |charset: &str| charset.trim_matches('"').eq_ignore_ascii_case("utf-8");
    essence
        && parts.all(|parameter| match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("charset") => utf8(value),
            _ => true,
        })
}

async fn read(
    length: Option<axum::http::HeaderValue>,
    time: Duration,
    body: Body,
) -> Result<axum::body::Bytes, Problem> {
    let told = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if told.is_some_and(|told| told > BODY_BYTES as u64) {
        return Err(Problem::BodyTooLarge(BODY_BYTES as u64));
    }
    match tokio::time::timeout(time, to_bytes(body, BODY_BYTES)).await {
        Err(_) => Err(Problem::BodyLate),
        Ok(Ok(bytes)) => Ok(bytes),
        // Either it is longer than the limit, or the client is gone and reads no answer.
        Ok(Err(_)) => Err(Problem::BodyTooLarge(BODY_BYTES as u64)),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let Object(value) = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        problem_of(error.inner(), field)
    })?;
    reader.end().map_err(|error| problem_of(&error, String::new()))?;
    Ok(value)
}

fn problem_of(error: &serde_json::Error, field: String) -> Problem {
    if !error.is_data() {
        return Problem::Malformed(error.to_string());
    }
    // A field that is missing or twice there is told of at the object; name it itself.
    let text = error.to_string();
    for (start, detail) in [("missing field `", "it is missing"), ("duplicate field `", "it is there twice")] {
        if let Some((name, _)) = text.strip_prefix(start).and_then(|rest| rest.split_once('`')) {
            let separator = if field.is_empty() { "" } else { "." };
            return Problem::field(format!("{field}{separator}{name}"), detail);
        }
    }
    Problem::field(field, text)
}

/// A JSON object that becomes a `T`. Serde alone takes an array of a struct's fields too.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = T;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

/// For `#[serde(deserialize_with)]`: one of an enum's names, as a text. Serde alone takes `{"name": null}` too.
///
/// # Errors
/// It is no text, or not one of the names.
pub(crate) fn word<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    T::deserialize(StringDeserializer::new(text))
}

/// The same where there may be none.
///
/// # Errors
/// As [`word`].
pub(crate) fn optional_word<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| T::deserialize(StringDeserializer::new(text))).transpose()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::{Object, is_json, parse, word};
    use crate::problem::Problem;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Outer {
        #[serde(deserialize_with = "word")]
        colour: Colour,
        inner: Object<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Inner {
        number: u8,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Colour {
        Red,
    }

    /// `malformed`, or the field that is named.
    fn refusal(body: &str) -> String {
        match parse::<Outer>(body.as_bytes()).unwrap_err() {
            Problem::Malformed(_) => "malformed".to_owned(),
            Problem::Invalid(errors) => errors[0].field.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_meant_is_taken() {
        parse::<Outer>(br#" {"colour":"red","inner":{"number":1}} "#).unwrap();
    }

    #[test]
    fn a_body_that_is_no_json_is_malformed() {
        let deep = format!(r#"{{"colour":"red","inner":{{"number":{}"#, "[".repeat(10_000));
        for body in [
            "",
            "{",
            "nonsense",
            r#"{"colour":"red","inner":{"number":1}} x"#,
            r#"{"colour":"red","inner":{"number":01}}"#,
        ] {
            assert_eq!(refusal(body), "malformed", "{body}");
        }
        assert_eq!(refusal(&deep), "inner.number");
        assert!(matches!(parse::<Outer>(b"{\"colour\":\"\xff\"}"), Err(Problem::Malformed(_))));
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        for (body, field) in [
            (r#"{"colour":"red","inner":{"number":256}}"#, "inner.number"),
            (r#"{"colour":"red","inner":{"number":1,"extra":1}}"#, "inner.extra"),
            (r#"{"colour":"red","inner":{"number":1},"extra":1}"#, "extra"),
            (r#"{"colour":"red","inner":{}}"#, "inner.number"),
            (r#"{"inner":{"number":1}}"#, "colour"),
            (r#"{"colour":"blue","inner":{"number":1}}"#, "colour"),
            (r#"{"colour":"red","colour":"red","inner":{"number":1}}"#, "colour"),
            // What serde takes by itself, and we do not.
            (r#"{"colour":{"red":null},"inner":{"number":1}}"#, "colour"),
            (r#"{"colour":"red","inner":[1]}"#, "inner"),
            (r#"["red",{"number":1}]"#, ""),
            ("null", ""),
        ] {
            assert_eq!(refusal(body), field, "{body}");
        }
    }

    #[test]
    fn json_is_declared_by_its_media_type() {
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
        ] {
            assert!(is_json(good), "{good}");
        }
        for bad in
            ["", "text/json", "application/problem+json", "application/json; charset=latin1", "application/jsonp"]
        {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
