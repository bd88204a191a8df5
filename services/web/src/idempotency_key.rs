//! The key by which a caller may repeat a request without asking twice (draft-ietf-httpapi-idempotency-key-header-06).

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::problem::Problem;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// As long as others take them.
const LONGEST: usize = 255;
/// In which the ids of jobs are made of keys. It must never change: a repeat would be another job.
const NAMESPACE: Uuid = Uuid::from_u128(0x8a5b_7c52_66f4_4d0e_9a55_3f0f_6c0b_7d1e);

/// A key: 1 to 255 characters of visible ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(String);

/// The key of a request, if it has one. A request with one that is none is answered with 400.
#[derive(Debug)]
pub(crate) struct OptionalKey(pub(crate) Option<IdempotencyKey>);

impl IdempotencyKey {
    /// Reads the header: a string in quotes, as the draft has it, or bare, as most clients send it. Both are the same key.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let key = match text.strip_prefix('"') {
            Some(quoted) => unquoted(quoted.strip_suffix('"')?)?,
            None if text.contains('"') => return None,
            None => text.to_owned(),
        };
        let good = (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        good.then_some(Self(key))
    }

    /// The id of the job that a caller asks for under this key: the same for every repeat, at whatever process.
    pub(crate) fn job_id(&self, caller: &str, route: &str) -> Uuid {
        // Neither a caller's id nor a route nor a key has a line break in it.
        Uuid::new_v5(&NAMESPACE, format!("{caller}\n{route}\n{}", self.0).as_bytes())
    }
}

/// What stands between the quotes of a structured field's string (RFC 8941, 3.3.3).
fn unquoted(quoted: &str) -> Option<String> {
    let mut characters = quoted.chars();
    let mut key = String::with_capacity(quoted.len());
    while let Some(character) = characters.next() {
        key.push(match character {
            '\\' => characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?,
            '"' => return None,
            plain => plain,
        });
    }
    Some(key)
}

fn key_of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().ok().filter(|_| values.next().is_none());
    text.and_then(IdempotencyKey::parse).map(Some).ok_or(Problem::KeyInvalid)
}

impl<S: Send + Sync> FromRequestParts<S> for OptionalKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        key_of(&parts.headers).map(Self)
    }
}

/// A hash of what is asked for, in hexadecimal. What is asked for in other words, or in another order, has the same.
///
/// # Errors
/// It cannot be written as JSON.
pub(crate) fn payload_hash(asked: &impl Serialize) -> Result<String, serde_json::Error> {
    let digest = Sha256::digest(serde_json::to_vec(asked)?);
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue};

    use super::{IDEMPOTENCY_KEY, IdempotencyKey, key_of};

    fn parsed(text: &str) -> Option<String> {
        IdempotencyKey::parse(text).map(|key| key.0)
    }

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        for (text, key) in [
            ("a", "a"),
            ("\"a\"", "a"),
            (" 8e03978e-40d5-43dd-bc93-6894a57f9324 ", "8e03978e-40d5-43dd-bc93-6894a57f9324"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r"a\b", r"a\b"),
        ] {
            assert_eq!(parsed(text).as_deref(), Some(key), "{text}");
        }
        assert_eq!(parsed(&"k".repeat(255)).map(|key| key.len()), Some(255));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in
            ["", "\"\"", "\"", "\"a", "a\"", "a\"b", "a b", "\"a b\"", "\"a\";p=1", r#""a\n""#, r#""a\""#, "a\tb"]
        {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        assert_eq!(parsed(&"k".repeat(256)), None);
    }

    #[test]
    fn two_keys_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(key_of(&headers).unwrap(), None);
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert!(key_of(&headers).unwrap().is_some());
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("a"));
        assert!(key_of(&headers).is_err());
        let odd = [(IDEMPOTENCY_KEY, HeaderValue::from_bytes(b"\xff").unwrap())].into_iter().collect();
        assert!(key_of(&odd).is_err());
    }

    #[test]
    fn a_key_belongs_to_its_caller_and_its_route_and_never_changes() {
        let key = IdempotencyKey("k".to_owned());
        let id = key.job_id("alice", "POST /v1/reports");
        assert_eq!(id.to_string(), "a8aadfeb-04e4-5d06-859f-4f5ab512e7ce");
        assert_ne!(id, key.job_id("bob", "POST /v1/reports"));
        assert_ne!(id, key.job_id("alice", "POST /v1/orders"));
        assert_ne!(id, IdempotencyKey("l".to_owned()).job_id("alice", "POST /v1/reports"));
    }
}
