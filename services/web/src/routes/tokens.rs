//! The tokens of one's machines.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Days, SubsecRound, Utc};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use store::tokens::{Created, NewToken, Scope, Scopes, TokenRow};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::caller::Member;
use crate::problem::{Problem, ProblemBody};
use crate::routes::{Id, checked_name};
use crate::strict_json::StrictJson;
use crate::tokens::Fresh;

/// So many good tokens may one user have.
const MOST: usize = 50;
/// How many days a token is good, where nothing is said, and at most.
const DAYS: u16 = 90;
pub(crate) const MOST_DAYS: u16 = 366;

/// What token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    /// What to call it: 1 to 200 characters.
    #[schema(example = "nightly reports")]
    name: String,
    /// What it is to be good for.
    #[schema(value_type = Vec<ScopeName>, min_items = 1)]
    scopes: Vec<Scope>,
    /// For how many days, 1 to 366. Left out: 90.
    #[serde(default)]
    expires_in_days: Option<u16>,
}

/// What a token is good for.
#[derive(ToSchema)]
#[schema(as = Scope)]
#[expect(dead_code, reason = "describes store's Scope, which knows no OpenAPI")]
enum ScopeName {
    #[schema(rename = "jobs:read")]
    JobsRead,
    #[schema(rename = "jobs:write")]
    JobsWrite,
}

/// A token, as its owner sees it from then on.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
pub(crate) struct TokenView {
    /// Its id, by which it is revoked.
    id: Uuid,
    /// What it is called.
    name: String,
    /// What it is good for.
    #[schema(value_type = Vec<ScopeName>)]
    scopes: Scopes,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// Until when it is good.
    expires_at: DateTime<Utc>,
}

/// A token that was just made.
#[derive(Serialize, ToSchema)]
#[schema(as = NewToken)]
pub(crate) struct MadeView {
    #[serde(flatten)]
    view: TokenView,
    /// The token itself, to be sent as `Authorization: Bearer`. It is shown this once, and kept nowhere.
    token: String,
}

/// The tokens of a user.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    /// The oldest first.
    tokens: Vec<TokenView>,
}

/// Makes a token for a machine that is to act for the user.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    tag = "tokens",
    request_body = TokenRequest,
    responses(
        (status = 201, description = "Made", body = MadeView),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request, or a token came with it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "The user has 50 good tokens already", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn create(
    State(app): State<App>,
    member: Member,
    StrictJson(request): StrictJson<TokenRequest>,
) -> Result<(StatusCode, Json<MadeView>), Problem> {
    let TokenRequest { name, mut scopes, expires_in_days } = request;
    let days = expires_in_days.unwrap_or(DAYS);
    if !(1..=MOST_DAYS).contains(&days) {
        return Err(Problem::field("expires_in_days", format!("it is not 1 to {MOST_DAYS}")));
    }
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err(Problem::field("scopes", "there is none"));
    }
    let fresh = Fresh::random();
    let new = NewToken {
        id: Uuid::now_v7(),
        user_id: member.user(),
        name: checked_name(name)?,
        digest: fresh.digest,
        scopes,
        expires_at: Utc::now().trunc_subsecs(6) + Days::new(days.into()),
    };
    match store::tokens::create(&app.pool, &new, MOST as i64).await? {
        Created::TooMany => Err(Problem::TooManyTokens(MOST)),
        Created::Made(row) => {
            app.tokens.introduce(&fresh.digest, app.patience()).await;
            tracing::info!(token.id = %row.id, "made a token");
            let made = MadeView { view: TokenView::of(row), token: fresh.token.expose_secret().to_owned() };
            Ok((StatusCode::CREATED, Json(made)))
        }
    }
}

/// The user's good tokens, without themselves.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    tag = "tokens",
    responses(
        (status = 200, description = "The tokens, the oldest first", body = Tokens),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "A token came with it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "What is stored cannot be reached at the moment", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn list(State(app): State<App>, member: Member) -> Result<Json<Tokens>, Problem> {
    let rows = store::tokens::list(&app.pool, member.user()).await?;
    Ok(Json(Tokens { tokens: rows.into_iter().map(TokenView::of).collect() }))
}

/// Revokes a token: from the answer on it opens nothing, wherever it is sent to. Asking again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    tag = "tokens",
    params(("id" = Uuid, Path, description = "The token's id")),
    responses(
        (status = 204, description = "Revoked"),
        (status = 401, description = "Nobody is signed in", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request, or a token came with it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 404, description = "No such token, or not the user's", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "It may still open something: the same again finishes it", body = ProblemBody,
            content_type = "application/problem+json"),
    ),
    security(("session" = []))
)]
pub(crate) async fn revoke(State(app): State<App>, member: Member, Id(id): Id) -> Result<StatusCode, Problem> {
    if !app.tokens.revoke(id, member.user()).await? {
        return Err(Problem::NotFound("token"));
    }
    tracing::info!(token.id = %id, "revoked a token");
    Ok(StatusCode::NO_CONTENT)
}

impl TokenView {
    fn of(row: TokenRow) -> Self {
        let TokenRow { id, name, scopes, created_at, expires_at } = row;
        Self { id, name, scopes, created_at, expires_at }
    }
}
