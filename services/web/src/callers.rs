//! Who calls: one token per caller, from the settings, until there are accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::ensure;
use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use pipeline::jobs::Recipient;
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::App;
use crate::problem::Problem;
use crate::settings::CallerSettings;

/// A token that a person made up is shorter; one of 20 random characters is out of reach of guessing.
const LEAST_TOKEN_CHARACTERS: usize = 20;
/// An id is a label in logs and on the wire.
const LONGEST_ID: usize = 64;

/// Who sent a request. As an argument of a handler it makes the route answer 401 to everybody else.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Identity>);

#[derive(Debug)]
struct Identity {
    id: String,
    recipient: Recipient,
}

impl Caller {
    /// The id, which owns what the caller asks for.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Where its mail goes.
    pub(crate) fn recipient(&self) -> &Recipient {
        &self.0.recipient
    }
}

/// Everybody who may call.
#[derive(Debug)]
pub struct Callers(Vec<([u8; 32], Caller)>);

impl Callers {
    /// Checks the settings and keeps the digests of the tokens, not the tokens.
    ///
    /// # Errors
    /// Nobody may call, an id is not made of `a-z 0-9 - _`, a token is short or not printable ASCII, or two are the same.
    pub fn new(settings: &BTreeMap<String, CallerSettings>) -> anyhow::Result<Self> {
        ensure!(
            !settings.is_empty(),
            "settings: no callers (in the environment: POSTROOM__CALLERS__<ID>__TOKEN, …__ADDRESS, …__NAME)"
        );
        let mut callers = Vec::with_capacity(settings.len());
        for (id, caller) in settings {
            let id_good = (1..=LONGEST_ID).contains(&id.len())
                && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte));
            ensure!(
                id_good,
                "settings, at `callers`: the id \"{id}\" is not 1 to {LONGEST_ID} characters of a-z, 0-9, - and _"
            );
            let token = caller.token.expose_secret();
            ensure!(
                token.len() >= LEAST_TOKEN_CHARACTERS && token.bytes().all(|byte| byte.is_ascii_graphic()),
                "settings, at `callers.{id}.token`: not {LEAST_TOKEN_CHARACTERS} or more characters of printable ASCII without spaces"
            );
            let digest = digest(token);
            ensure!(
                callers.iter().all(|(other, _)| *other != digest),
                "settings, at `callers.{id}.token`: another caller has the same token"
            );
            let recipient = Recipient { name: caller.name.clone(), address: caller.address.clone() };
            callers.push((digest, Caller(Arc::new(Identity { id: id.clone(), recipient }))));
        }
        Ok(Self(callers))
    }

    /// Whose token it is. Looks at every caller and compares digests in constant time, so that the time tells nothing.
    fn find(&self, token: &str) -> Option<&Caller> {
        let digest = digest(token);
        let mut found = None;
        for (theirs, caller) in &self.0 {
            if bool::from(theirs.ct_eq(&digest)) {
                found = Some(caller);
            }
        }
        found
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The token of `Authorization: Bearer <token>` (RFC 6750). The scheme's name is in either case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (first, None) = (values.next()?, values.next()) else {
        return None;
    };
    let (scheme, token) = first.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        // Once a request: its limits ask before its handler does.
        if let Some(caller) = parts.extensions.get::<Self>() {
            return Ok(caller.clone());
        }
        let given = parts.headers.contains_key(AUTHORIZATION);
        let caller = bearer(&parts.headers)
            .and_then(|token| app.callers.find(token))
            .ok_or(Problem::Unauthenticated { given })?;
        tracing::Span::current().record("caller.id", caller.id());
        parts.extensions.insert(caller.clone());
        Ok(caller.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::http::header::AUTHORIZATION;
    use axum::http::{HeaderMap, HeaderValue};

    use super::{Callers, bearer};
    use crate::settings::CallerSettings;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, CallerSettings> {
        let caller = |token: &str| CallerSettings {
            token: token.into(),
            address: "alice@shop.example".to_owned().try_into().unwrap(),
            name: "Alice".to_owned().try_into().unwrap(),
        };
        pairs.iter().map(|(id, token)| ((*id).to_owned(), caller(token))).collect()
    }

    #[test]
    fn a_caller_is_found_by_its_own_token_only() {
        let callers =
            Callers::new(&settings(&[("alice", "alice-token-0123456789"), ("bob", "bob-token-0123456789ab")])).unwrap();
        assert_eq!(callers.find("bob-token-0123456789ab").unwrap().id(), "bob");
        for wrong in ["", "bob-token-0123456789a", "bob-token-0123456789abc", "BOB-TOKEN-0123456789AB"] {
            assert!(callers.find(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn callers_that_cannot_be_told_apart_or_guessed_at_are_refused() {
        let refused = |pairs: &[(&str, &str)]| Callers::new(&settings(pairs)).unwrap_err().to_string();
        assert!(refused(&[]).contains("POSTROOM__CALLERS"));
        assert!(refused(&[("alice", "too-short-a-token-1")]).contains("callers.alice.token"));
        assert!(refused(&[("alice", "with a space in it, and long")]).contains("callers.alice.token"));
        assert!(refused(&[("a b", "alice-token-0123456789")]).contains("a b"));
        let twice = refused(&[("alice", "alice-token-0123456789"), ("bob", "alice-token-0123456789")]);
        assert!(twice.contains("callers.bob.token") && !twice.contains("0123456789"), "{twice}");
    }

    #[test]
    fn the_token_is_read_from_one_bearer_header() {
        let read = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(read(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&["bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(read(&["Basic abc"]), None);
        assert_eq!(read(&["Bearer"]), None);
        assert_eq!(read(&["Bearer abc", "Bearer abc"]), None);
        assert_eq!(read(&[]), None);
    }
}
