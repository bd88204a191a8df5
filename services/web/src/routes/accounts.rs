//! Accounts: signing in and out, another password, another profile, another role.

use anyhow::Context;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use pipeline::jobs::{EmailAddress, Job, PersonName, RenderReport};
use serde::{Deserialize, Serialize};
use store::accounts::Role;
use tower_sessions::Session;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::caller::{Member, Person};
use crate::client_address::ClientAddress;
use crate::generations::Of;
use crate::passwords::{Checked, GivenPassword, NewPassword};
use crate::problem::{Problem, ProblemBody};
use crate::routes::{Id, to_its_end};
use crate::sessions::{self, away};
use crate::strict_json::{StrictJson, word};
use crate::versioned::forget;

mod profile;
mod register;

// With what describes it: the description is made of paths.
pub(crate) use profile::*;
pub(crate) use register::*;

/// Who signs in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    /// The address of the account.
    #[schema(value_type = String, example = "ada@shop.example")]
    email: EmailAddress,
    /// Its password.
    #[schema(value_type = String, format = Password)]
    password: GivenPassword,
}

/// Who is signed in.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    /// The user's id, which owns its jobs.
    id: Uuid,
    /// First and last name.
    #[schema(value_type = String)]
    name: PersonName,
    /// The address.
    #[schema(value_type = String)]
    email: EmailAddress,
    /// What the user may do.
    #[schema(value_type = RoleName)]
    role: Role,
}

/// What a user may do, each more than the one before.
#[derive(ToSchema)]
#[schema(as = Role, rename_all = "lowercase")]
#[expect(dead_code, reason = "describes store's Role, which knows no OpenAPI")]
enum RoleName {
    Customer,
    Staff,
    Operator,
}

/// A password and its successor.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordChange {
    /// The one until now.
    #[schema(value_type = String, format = Password)]
    current_password: GivenPassword,
    /// The one from now on: 8 to 128 characters.
    #[schema(value_type = String, format = Password)]
    new_password: NewPassword,
}

/// What a user is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleChange {
    /// The role from now on.
    #[serde(deserialize_with = "word")]
    #[schema(value_type = RoleName)]
    role: Role,
}

/// Signs in: sets a cookie by which the browser is known from then on, for half an hour after its last use and 12 hours in all.
#[utoipa::path(
    post,
    path = "/v1/login",
    tag = "accounts",
    request_body = Login,
    responses(
        (status = 200, description = "Signed in", body = UserView,
            headers(("Set-Cookie" = String, description = "`__Host-sid`, the session"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Address or password are wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "Nobody can sign in at the moment; Retry-After says when to try again", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(())
)]
pub(crate) async fn login(
    State(app): State<App>,
    session: Session,
    ClientAddress(address): ClientAddress,
    StrictJson(request): StrictJson<Login>,
) -> Result<Json<UserView>, Problem> {
    let Login { email, password } = request;
    app.rate_limits.check_sign_in(email.as_str(), address).await?;
    let known = store::accounts::id_of_address(&app.pool, email.as_str()).await?;
    // Whoever is nobody's takes the same way.
    let user = known.unwrap_or(Uuid::nil());
    // Before the password is read: if that changes meanwhile, this session is over before it has begun.
    let generation = app.generations.current(Of::Sessions, user).await.map_err(away)?;
    let found = store::accounts::sign_in(&app.pool, user).await?;
    let kept = found.as_ref().and_then(|found| found.password_hash.clone());
    let checked = app.passwords.check(password, kept.clone()).await?;
    let (Some(found), Checked::Right { renewed }) = (found, checked) else {
        return Err(Problem::CredentialsWrong);
    };
    if let (Some(kept), Some(renewed)) = (kept, renewed) {
        renew_hash(&app, user, &kept, &renewed).await;
    }
    let person = Person::try_from(found.account)?;
    sessions::begin(&session, person.clone(), generation).await?;
    tracing::info!(caller.id = %user, "signed in");
    Ok(Json(UserView::of(person)))
}

/// The old one is good as well: what fails here is done at the next sign-in.
async fn renew_hash(app: &App, user: Uuid, kept: &str, renewed: &str) {
    if let Err(error) = store::accounts::replace_password(&app.pool, user, kept, renewed).await {
        tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "renew the hash of a password");
    }
}

/// Signs out: the session is over, here and in whatever browser has its cookie.
#[utoipa::path(
    post,
    path = "/v1/logout",
    tag = "accounts",
    responses(
        (status = 204, description = "Signed out"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request, or a token came with it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 415, description = "A body came with it that is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The session cannot be ended at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn logout(member: Member) -> Result<StatusCode, Problem> {
    sessions::end(&member.session).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Signs out everywhere: every session of the user is over, this one too. Tokens stay.
#[utoipa::path(
    post,
    path = "/v1/logout/everywhere",
    tag = "accounts",
    responses(
        (status = 204, description = "Signed out everywhere"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request, or a token came with it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 415, description = "A body came with it that is not JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "The sessions cannot be ended at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn logout_everywhere(State(app): State<App>, member: Member) -> Result<StatusCode, Problem> {
    app.generations.end(Of::Sessions, member.user()).await.map_err(away)?;
    sessions::end(&member.session).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the password. Every other session of the user is over, and this one goes on under a new id. Tokens stay.
#[utoipa::path(
    post,
    path = "/v1/password",
    tag = "accounts",
    request_body = PasswordChange,
    responses(
        (status = 204, description = "Changed",
            headers(("Set-Cookie" = String, description = "`__Host-sid`, the session under its new id"))),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request, or a token came with it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible, or `current_password` is another one; `errors` names \
            it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It cannot be done, or not be finished, at the moment. The sessions may be over: sign in with the \
            one or the other password", body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn change_password(
    State(app): State<App>,
    member: Member,
    ClientAddress(address): ClientAddress,
    StrictJson(request): StrictJson<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let user = member.user();
    // Whoever finds an open browser may not try passwords in it.
    app.rate_limits.check_sign_in(member.signed_in.person.address.as_str(), address).await?;
    let wrong = || Problem::field("current_password", "it is another one");
    let found = store::accounts::sign_in(&app.pool, user).await?;
    let kept = found.and_then(|found| found.password_hash).ok_or_else(wrong)?;
    let Checked::Right { .. } = app.passwords.check(request.current_password, Some(kept.clone())).await? else {
        return Err(wrong());
    };
    let new = app.passwords.hash(request.new_password).await?;
    let generation = to_its_end(replace_password(app, user, kept, new)).await?.ok_or_else(wrong)?;
    sessions::renew(&member.session, member.signed_in, generation).await?;
    tracing::info!("changed a password");
    Ok(StatusCode::NO_CONTENT)
}

/// The new generation of the user's sessions; `None` where the old hash is not the user's any more.
async fn replace_password(app: App, user: Uuid, old: String, new: String) -> Result<Option<i64>, Problem> {
    // First, so that none is left when this ends halfway; and after, for who signed in with the old one in between.
    app.generations.end(Of::Sessions, user).await.map_err(away)?;
    let replaced = store::accounts::replace_password(&app.pool, user, &old, &new).await;
    // Also where that failed: it may have taken effect all the same.
    let generation = app.generations.end(Of::Sessions, user).await.map_err(away);
    if replaced? { generation.map(Some) } else { Ok(None) }
}

/// Gives a user another role. Operators do; whoever's role it is signs in again.
///
/// Who does not belong to the staff any more gets no more reports: its schedules stop, and the reports that wait for their time are
/// cancelled.
#[utoipa::path(
    put,
    path = "/v1/users/{id}/role",
    tag = "accounts",
    params(("id" = Uuid, Path, description = "The user's id")),
    request_body = RoleChange,
    responses(
        (status = 204, description = "Changed; the sessions of that user are over"),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Who is signed in is no operator, another site sent the request, or a token came with it",
            body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "No such user", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "It cannot be done, or not be finished, at the moment; the same again finishes it",
            body = ProblemBody, content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn set_role(
    State(app): State<App>,
    member: Member,
    Id(user): Id,
    StrictJson(RoleChange { role }): StrictJson<RoleChange>,
) -> Result<StatusCode, Problem> {
    member.must_be(Role::Operator)?;
    // Numbers are raised for those who are there alone.
    store::profiles::find(&app.pool, user).await?.ok_or(Problem::NotFound("user"))?;
    to_its_end(replace_role(app, user, role)).await?;
    tracing::info!(user.id = %user, role = role.as_str(), "changed a role");
    Ok(StatusCode::NO_CONTENT)
}

async fn replace_role(app: App, user: Uuid, role: Role) -> Result<(), Problem> {
    end_what_was_known(&app, user).await?;
    // The staff alone asks for reports.
    let lost: &[&str] = if role < Role::Staff { &[RenderReport::KIND] } else { &[] };
    let set = store::accounts::set_role(&app.pool, user, role, lost, &PROFILE.entry(&user.to_string())).await;
    // Also where that failed: it may have taken effect all the same.
    forget(&app, &PROFILE, &user.to_string()).await;
    // Once more, for what was read before the change and handed out after the first.
    let ended = end_what_was_known(&app, user).await;
    if set? { ended } else { Err(Problem::NotFound("user")) }
}

/// Has nothing count any more that was handed out with the account as it was.
async fn end_what_was_known(app: &App, user: Uuid) -> Result<(), Problem> {
    for of in [Of::Sessions, Of::Account] {
        app.generations
            .end(of, user)
            .await
            .context("end what was known of an account")
            .map_err(Problem::IdentityUnavailable)?;
    }
    Ok(())
}

impl UserView {
    fn of(person: Person) -> Self {
        let Person { user, name, address, role } = person;
        Self { id: user, name, email: address, role }
    }
}
