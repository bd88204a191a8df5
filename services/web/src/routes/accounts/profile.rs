//! Profiles: one's own, and for those who look after the shop everybody's.

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use cache::{Family, Times};
use chrono::{DateTime, Utc};
use pipeline::jobs::PersonName;
use serde::{Deserialize, Serialize};
use store::accounts::Role;
use store::profiles::{NewProfile, Profile};
use utoipa::ToSchema;
use uuid::Uuid;

use super::RoleName;
use super::register::Country;
use crate::App;
use crate::caller::Member;
use crate::generations::Of;
use crate::problem::{Problem, ProblemBody};
use crate::routes::{Id, to_its_end};
use crate::sessions::away;
use crate::strict_json::StrictJson;
use crate::versioned;

/// By the user's id. Whatever changes a profile ends its copy.
pub(super) const PROFILE: Family = Family::new(
    "user-profile",
    1,
    Times {
        fresh: Duration::from_secs(60),
        grace: Duration::from_secs(600),
        absent: Duration::from_secs(10),
        lease: Duration::from_secs(2),
        load: Duration::from_secs(5),
    },
);

/// What the shop knows of a user.
#[derive(Serialize, ToSchema)]
#[schema(as = Profile)]
pub(crate) struct ProfileView {
    /// The user's id.
    id: Uuid,
    /// First and last name.
    #[schema(example = "Ada Lovelace")]
    name: String,
    /// The address.
    #[schema(example = "ada@shop.example")]
    email: String,
    /// ISO 3166 alpha-2.
    #[schema(example = "DE")]
    country: String,
    /// What the user may do.
    #[schema(value_type = RoleName)]
    role: Role,
    /// Since when there is the account.
    created_at: DateTime<Utc>,
}

/// What of a profile can be changed, whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProfileChange {
    /// First and last name: 1 to 100 characters, none of them a control character.
    #[schema(value_type = String, example = "Ada Lovelace")]
    name: PersonName,
    /// Where to: ISO 3166 alpha-2.
    #[schema(value_type = String, example = "DE")]
    country: Country,
}

/// A user's profile: one's own; staff and operators see everybody's.
#[utoipa::path(
    get,
    path = "/v1/users/{id}",
    tag = "accounts",
    params(
        ("id" = Uuid, Path, description = "The user's id"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what is known already"),
    ),
    responses(
        (status = 200, description = "The profile", body = ProfileView,
            headers(("ETag" = String, description = "Changes with everything that stands in it"))),
        (status = 304, description = "The profile has not changed"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "A token came with it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such user, or not the caller", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn show_profile(
    State(app): State<App>,
    member: Member,
    Id(user): Id,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    may_see(&member, user)?;
    let pool = app.pool.clone();
    let load = async move || store::profiles::find(&pool, user).await;
    let profile = app.cache.fetch(&PROFILE, &user.to_string(), load).await?.value.ok_or(Problem::NotFound("user"))?;
    Ok(versioned::show(&headers, profile.version, ProfileView::of(profile)))
}

/// Changes a profile: one's own; operators change everybody's. The address stays.
///
/// With `If-Match` only what was seen is replaced. Without, the last one counts.
#[utoipa::path(
    put,
    path = "/v1/users/{id}",
    tag = "accounts",
    params(
        ("id" = Uuid, Path, description = "The user's id"),
        ("If-Match" = Option<String>, Header, description = "The ETag of the profile that is to be replaced"),
    ),
    request_body = ProfileChange,
    responses(
        (status = 200, description = "The profile as it is now", body = ProfileView,
            headers(("ETag" = String, description = "Changes with everything that stands in it"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "It is another's and who is signed in belongs to the staff, another site sent the request, or a \
            token came with it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such user, or not the caller", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 412, description = "The profile is not what `If-Match` says", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "It cannot be done, or not be finished, at the moment; the same again finishes it, where there is \
            an `If-Match` with the ETag that there is then", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn replace_profile(
    State(app): State<App>,
    member: Member,
    Id(user): Id,
    headers: HeaderMap,
    StrictJson(request): StrictJson<ProfileChange>,
) -> Result<Response, Problem> {
    may_see(&member, user)?;
    if user != member.user() {
        member.must_be(Role::Operator)?;
        // Numbers are raised for those who are there alone.
        store::profiles::find(&app.pool, user).await?.ok_or(Problem::NotFound("user"))?;
    }
    let ProfileChange { name, country: Country(country) } = request;
    let (new, versions) = (NewProfile { name: name.into(), country }, versioned::versions(&headers));
    let profile = to_its_end(replace(app, user, new, versions)).await?;
    tracing::info!(user.id = %user, "changed a profile");
    Ok(versioned::show_replaced(profile.version, ProfileView::of(profile)))
}

async fn replace(app: App, user: Uuid, new: NewProfile, versions: Option<Vec<i64>>) -> Result<Profile, Problem> {
    let key = user.to_string();
    // What Redis keeps of the user's tokens has the name. First, so that none of it is left when this ends halfway; and after, for what
    // was read before the change and kept after the first.
    app.generations.end(Of::Account, user).await.map_err(away)?;
    let replaced = store::profiles::replace(&app.pool, user, &new, versions.as_deref(), &PROFILE.entry(&key)).await;
    let settled = versioned::settle(&app, (&PROFILE, &key), "user", replaced).await;
    let ended = app.generations.end(Of::Account, user).await.map_err(away);
    let (profile, _) = (settled?, ended?);
    Ok(profile)
}

/// Whose profile it is, or who looks after the shop. Whether there are others, nobody else is told.
fn may_see(member: &Member, user: Uuid) -> Result<(), Problem> {
    let others = || member.must_be(Role::Staff).map_err(|_| Problem::NotFound("user"));
    if user == member.user() { Ok(()) } else { others() }
}

impl ProfileView {
    fn of(profile: Profile) -> Self {
        let Profile { id, name, email, country, role, created_at, version: _ } = profile;
        Self { id, name, email, country, role, created_at }
    }
}
