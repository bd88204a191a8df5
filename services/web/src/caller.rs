//! Who calls: a person with a session, or a machine with a token of somebody's.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use pipeline::jobs::{EmailAddress, PersonName, Recipient};
use serde::{Deserialize, Serialize};
use store::accounts::{Account, Role};
use store::tokens::{Scope, Scopes};
use tower_sessions::Session;
use uuid::Uuid;

use crate::App;
use crate::client_address::ClientAddress;
use crate::problem::{Credential, Problem};
use crate::sessions::{self, SignedIn};

/// A user, as a session or what Redis keeps of a token describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Person {
    pub(crate) user: Uuid,
    pub(crate) name: PersonName,
    pub(crate) address: EmailAddress,
    pub(crate) role: Role,
}

impl TryFrom<Account> for Person {
    type Error = Problem;

    fn try_from(account: Account) -> Result<Self, Problem> {
        let Account { id, name, email, role } = account;
        let internal = |error: pipeline::jobs::InvalidMailbox| Problem::Internal(error.into());
        let (name, address) = (name.try_into().map_err(internal)?, email.try_into().map_err(internal)?);
        Ok(Self { user: id, name, address, role })
    }
}

/// Who sent a request, by session or by token. As an argument of a handler it makes the route answer 401 to everybody else, and
/// 403 to a token that has not the scope: `jobs:read` for what only looks, `jobs:write` for everything else.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<Identity>);

#[derive(Debug)]
struct Identity {
    user: Uuid,
    id: String,
    recipient: Recipient,
    role: Role,
}

impl Caller {
    /// The user's id, which owns what the caller asks for.
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// The same as what it is in the shop's tables.
    pub(crate) fn user(&self) -> Uuid {
        self.0.user
    }

    /// Whose things it may look at: `None` is everybody's, for those who look after the shop.
    pub(crate) fn sees(&self) -> Option<Uuid> {
        if self.0.role >= Role::Staff { None } else { Some(self.0.user) }
    }

    /// Where its mail goes.
    pub(crate) fn recipient(&self) -> &Recipient {
        &self.0.recipient
    }

    /// That the user has a role, or one that may do more.
    pub(crate) fn must_be(&self, role: Role) -> Result<(), Problem> {
        must_be(self.0.role, role)
    }
}

impl From<Person> for Caller {
    fn from(person: Person) -> Self {
        let recipient = Recipient { name: person.name, address: person.address };
        Self(Arc::new(Identity { user: person.user, id: person.user.to_string(), recipient, role: person.role }))
    }
}

/// A person who is signed in. A token is answered with 403: what it could do to the account, it could do to those who trust it.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) session: Session,
    pub(crate) signed_in: SignedIn,
}

impl Member {
    /// The user's id.
    pub(crate) fn user(&self) -> Uuid {
        self.signed_in.person.user
    }

    /// That the person has a role, or one that may do more.
    pub(crate) fn must_be(&self, role: Role) -> Result<(), Problem> {
        must_be(self.signed_in.person.role, role)
    }
}

fn must_be(role: Role, least: Role) -> Result<(), Problem> {
    if role >= least { Ok(()) } else { Err(Problem::RoleMissing(least)) }
}

/// By what a request shows who sends it. A token comes before a session: it was put there on purpose.
#[derive(Clone)]
enum Shown {
    Token(Person, Scopes),
    Session(Member),
    /// Nobody who is known.
    Nobody(Credential),
}

impl Shown {
    fn user(&self) -> Option<Uuid> {
        match self {
            Self::Token(person, _) => Some(person.user),
            Self::Session(member) => Some(member.user()),
            Self::Nobody(_) => None,
        }
    }
}

/// Whose request it is, whatever its user may do; `None` where nobody known has sent it.
pub(crate) async fn user_of(parts: &mut Parts, app: &App) -> Option<Uuid> {
    shown(parts, app).await.ok()?.user()
}

async fn shown(parts: &mut Parts, app: &App) -> Result<Shown, Problem> {
    // Once a request: its limits ask before its handler does.
    if let Some(shown) = parts.extensions.get::<Shown>() {
        return Ok(shown.clone());
    }
    let shown = if parts.headers.contains_key(AUTHORIZATION) {
        by_token(parts, app).await?
    } else {
        by_session(parts, app).await?
    };
    if let Some(user) = shown.user() {
        tracing::Span::current().record("caller.id", user.to_string());
    }
    parts.extensions.insert(shown.clone());
    Ok(shown)
}

async fn by_token(parts: &mut Parts, app: &App) -> Result<Shown, Problem> {
    let ClientAddress(address) = ClientAddress::from_request_parts(parts, app).await?;
    let Some(token) = bearer(&parts.headers) else {
        return Ok(Shown::Nobody(Credential::Token));
    };
    // Before the database is asked: whoever guesses would have it answer each guess.
    let counted = (&app.rate_limits, address);
    let found = app.tokens.find(token, app.patience(), app.changes.is_live(), counted).await?;
    Ok(found.map_or(Shown::Nobody(Credential::Token), |bearer| Shown::Token(bearer.person, bearer.scopes)))
}

async fn by_session(parts: &Parts, app: &App) -> Result<Shown, Problem> {
    let session = parts.extensions.get::<Session>().filter(|session| session.id().is_some());
    let Some(session) = session.cloned() else {
        return Ok(Shown::Nobody(Credential::None));
    };
    let signed_in = sessions::signed_in(app, &session).await?;
    Ok(signed_in.map_or(Shown::Nobody(Credential::Session), |signed_in| Shown::Session(Member { session, signed_in })))
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match shown(parts, app).await? {
            Shown::Nobody(credential) => Err(Problem::Unauthenticated(credential)),
            Shown::Session(member) => Ok(member.signed_in.person.into()),
            Shown::Token(person, Scopes(scopes)) => {
                let needed = if is_safe(&parts.method) { Scope::JobsRead } else { Scope::JobsWrite };
                if scopes.contains(&needed) { Ok(person.into()) } else { Err(Problem::ScopeMissing(needed)) }
            }
        }
    }
}

impl FromRequestParts<App> for Member {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match shown(parts, app).await? {
            Shown::Nobody(credential) => Err(Problem::Unauthenticated(credential)),
            Shown::Session(member) => Ok(member),
            Shown::Token(..) => Err(Problem::SessionNeeded),
        }
    }
}

/// Whether a request only looks (RFC 9110, 9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method)
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

#[cfg(test)]
mod tests {
    use axum::http::header::AUTHORIZATION;
    use axum::http::{HeaderMap, HeaderValue};

    use super::bearer;

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
