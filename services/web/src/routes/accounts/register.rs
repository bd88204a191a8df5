//! Making an account, and the mail that says so.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use chrono::{SubsecRound, Utc};
use pipeline::jobs::{EmailAddress, Job, Message, PersonName, Recipient, SendEmail};
use pipeline::{OutgoingJob, TraceContext};
use serde::{Deserialize, Serialize};
use store::accounts::{Account, Letter, NewAccount, Registered};
use store::jobs::NewJob;
use store::outbox::NewOutboxRow;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::App;
use crate::client_address::ClientAddress;
use crate::passwords::NewPassword;
use crate::problem::{Problem, ProblemBody};
use crate::strict_json::StrictJson;

/// Who wants an account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registration {
    /// First and last name: 1 to 100 characters, none of them a control character.
    #[schema(value_type = String, example = "Ada Lovelace")]
    name: PersonName,
    /// The address, to which mail goes.
    #[schema(value_type = String, example = "ada@shop.example")]
    email: EmailAddress,
    /// 8 to 128 characters.
    #[schema(value_type = String, format = Password)]
    password: NewPassword,
    /// Where to: ISO 3166 alpha-2.
    #[schema(value_type = String, example = "DE")]
    country: Country,
}

/// A country by its ISO 3166 alpha-2 code: two capital letters.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Country(pub(super) String);

impl TryFrom<String> for Country {
    type Error = &'static str;

    fn try_from(code: String) -> Result<Self, &'static str> {
        let good = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
        good.then_some(Self(code)).ok_or("a country is two capital letters, as in ISO 3166")
    }
}

/// What is said to whoever registers, whether the address was free or not.
#[derive(Serialize, ToSchema)]
pub(crate) struct Noted {
    /// What to do next.
    #[schema(example = "look into the inbox of that address")]
    detail: &'static str,
}

/// Makes an account.
///
/// The answer is the same, and takes as long, whether the address has an account already or not: what became of it stands in a mail
/// to that address. A new account can be signed in to at once.
#[utoipa::path(
    post,
    path = "/v1/register",
    tag = "accounts",
    request_body = Registration,
    responses(
        (status = 202, description = "Noted; a mail says what became of it", body = Noted),
        (status = 400, description = "The body is no JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 403, description = "Another site sent the request", body = ProblemBody, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ProblemBody, content_type = "application/problem+json"),
        (status = 415, description = "The body is not declared to be JSON", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "A field is unknown, missing or impossible; `errors` names it", body = ProblemBody,
            content_type = "application/problem+json"),
        (status = 503, description = "Nothing was made; Retry-After says when to try again", body = ProblemBody,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn register(
    State(app): State<App>,
    ClientAddress(address): ClientAddress,
    Extension(trace): Extension<TraceContext>,
    StrictJson(request): StrictJson<Registration>,
) -> Result<(StatusCode, Json<Noted>), Problem> {
    let Registration { name, email, password, country: Country(country) } = request;
    app.rate_limits.check_sign_in(email.as_str(), address).await?;
    // Also for an address that is taken: the time tells nothing.
    let password_hash = app.passwords.hash(password).await?;
    let recipient = Recipient { name, address: email };
    let new = NewAccount {
        id: Uuid::now_v7(),
        name: recipient.name.as_str().to_owned(),
        email: recipient.address.as_str().to_owned(),
        country,
        password_hash,
    };
    let id = new.id;
    let letter = move |registered: &Registered| match registered {
        Registered::New => letter(Uuid::now_v7(), id, recipient, Message::Welcome, trace),
        Registered::Taken(account) => told_already(account, trace),
    };
    store::accounts::register(&app.pool, &new, letter).await?;
    let detail = "look into the inbox of that address: a mail says what became of it";
    Ok((StatusCode::ACCEPTED, Json(Noted { detail })))
}

/// At most one a day, whoever registers with the address and however often: the job's id is the day's.
fn told_already(account: &Account, trace: TraceContext) -> Result<Letter, serde_json::Error> {
    let id = Uuid::new_v5(&account.id, format!("address-taken {}", Utc::now().date_naive()).as_bytes());
    let not_written = |error: pipeline::jobs::InvalidMailbox| serde::ser::Error::custom(error);
    let recipient = Recipient {
        name: account.name.clone().try_into().map_err(not_written)?,
        address: account.email.clone().try_into().map_err(not_written)?,
    };
    letter(id, account.id, recipient, Message::AddressTaken, trace)
}

fn letter(
    id: Uuid,
    owner: Uuid,
    to: Recipient,
    message: Message,
    trace: TraceContext,
) -> Result<Letter, serde_json::Error> {
    let (owner, at) = (owner.to_string(), Utc::now().trunc_subsecs(6));
    let job = OutgoingJob {
        owner: Some(owner.clone()),
        accepted_at: at,
        trace: Some(trace),
        ..OutgoingJob::new(id, SendEmail { to, message })
    };
    let row = NewOutboxRow { message: serde_json::to_value(job.sealed()?)?, due_at: None };
    Ok(Letter { job: NewJob { id, kind: SendEmail::KIND.to_owned(), owner, caused_by: None, at }, row })
}
