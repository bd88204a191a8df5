//! Everything that can go wrong in a request: one enum, one status mapping, one answer (RFC 9457).

use axum::Json;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use cache::FetchError;
use pipeline::PublishError;
use serde::Serialize;
use store::accounts::Role;
use store::jobs::JobState;
use store::tokens::Scope;
use store::{DatabaseError, FilesError};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::rate_limits::TooMany;
use crate::routes::orders::OrderState;

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum Problem {
    /// Nothing shows who calls, or what is shown is nobody's, or nobody's any more.
    Unauthenticated(Credential),
    /// Address or password are wrong. Which of them is not said.
    CredentialsWrong,
    /// A token does not reach that far.
    ScopeMissing(Scope),
    /// Only a person may do this, not a token.
    SessionNeeded,
    /// Only who has this role may.
    RoleMissing(Role),
    /// A browser sent it on behalf of another site.
    CrossSite,
    /// Neither Redis nor the database says who calls.
    IdentityUnavailable(anyhow::Error),
    /// As many passwords are being hashed as may be.
    Busy,
    /// The user has as many tokens as it may have.
    TooManyTokens(usize),
    /// A signed link that was not made here, or not for this report or video.
    LinkInvalid,
    /// A signed link whose time is over.
    LinkExpired,
    /// No such address.
    UnknownRoute,
    /// Nothing there that is the caller's. What belongs to somebody else gets the same answer.
    NotFound(&'static str),
    /// The address has other methods; `Allow` says which.
    MethodNotAllowed,
    /// The body did not arrive in time.
    BodyLate,
    /// The body is larger than so many bytes.
    BodyTooLarge(u64),
    /// An upload does not say how long it is.
    LengthMissing,
    /// An upload broke off.
    BodyBroken,
    /// An upload is no video of a kind that is taken, by its declared type or by its first bytes.
    NotVideo,
    /// As many uploads are under way as may be.
    TooManyUploads,
    /// The store of files has no room for it.
    StorageFull,
    /// The range that was asked for lies outside of a file of so many bytes.
    RangeOutside(u64),
    /// The body is not declared to be JSON.
    NotJson,
    /// The body is compressed.
    Compressed,
    /// The body is no JSON text.
    Malformed(String),
    /// The body is JSON, but not what is asked for here.
    Invalid(Vec<FieldError>),
    /// The query of the address has a part that is wrong, or unknown.
    QueryInvalid(String),
    /// The `Idempotency-Key` is none.
    KeyInvalid,
    /// The `Idempotency-Key` stands for another request.
    KeyReused,
    /// Neither the broker nor the outbox took the job.
    BrokerUnavailable(anyhow::Error),
    /// The outbox did not take a job that is due later.
    OutboxUnavailable(anyhow::Error),
    /// The broker or the database did not say whether it took the job, which may therefore run.
    OutcomeUnknown {
        /// Its id.
        job: Uuid,
        /// What kept the other from taking it.
        cause: anyhow::Error,
    },
    /// The queue is full.
    QueueFull(PublishError),
    /// The queue has room for retries only.
    QueueNearlyFull,
    /// Nothing on the broker takes this kind of job.
    NoQueue(PublishError),
    /// The database did not answer, and may later.
    DatabaseUnavailable(DatabaseError),
    /// What is read through the cache was neither there nor loaded, and may be later.
    NotLoaded(FetchError),
    /// The store of files did not answer, and may later.
    FilesUnavailable(FilesError),
    /// What is to be replaced is not what `If-Match` says.
    VersionDiffers,
    /// The job has ended already.
    JobFinal(JobState),
    /// The order is past what is asked for, or not that far.
    OrderIs(OrderState),
    /// The caller, the account or the address has asked too often.
    TooMany(TooMany),
    /// The caller has as many schedules as it may have.
    TooManySchedules(usize),
    /// As many streams are open as may be.
    TooManyStreams,
    /// The answer was not ready in time.
    Late,
    /// A defect. The cause is for the log only.
    Internal(anyhow::Error),
    /// A handler panicked; the panic hook has logged it.
    Panicked,
}

/// By what a request tried to show who sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// Nothing.
    None,
    /// An `Authorization` header.
    Token,
    /// A session's cookie.
    Session,
}

/// What is wrong with one field of a body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// The path of the field, for example `period.from`; empty for the body itself.
    pub(crate) field: String,
    /// What is wrong with it.
    pub(crate) detail: String,
}

/// A problem on the wire (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// What kind of problem: what a program switches on. It never changes its meaning.
    #[serde(rename = "type")]
    #[schema(example = "/problems/validation")]
    kind: String,
    /// The kind in words; the same for all of its kind.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// This case, for a person.
    detail: String,
    /// The fields that are wrong, of a `/problems/validation`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Where the job will show if it was taken, of an `/problems/outcome-unknown`.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
}

impl Problem {
    /// Name (the end of the type), status and title.
    fn kind(&self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Unauthenticated(_) => ("unauthenticated", StatusCode::UNAUTHORIZED, "Who calls is not known"),
            Self::CredentialsWrong => ("credentials-wrong", StatusCode::UNAUTHORIZED, "Address or password are wrong"),
            Self::ScopeMissing(_) => ("scope-missing", StatusCode::FORBIDDEN, "The token does not reach that far"),
            Self::SessionNeeded => ("session-needed", StatusCode::FORBIDDEN, "A token may not do this"),
            Self::RoleMissing(_) => ("role-missing", StatusCode::FORBIDDEN, "Others may do this"),
            Self::CrossSite => ("cross-site", StatusCode::FORBIDDEN, "The request comes from another site"),
            Self::IdentityUnavailable(_) => {
                ("identity-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Who calls cannot be told at the moment")
            }
            Self::Busy => ("busy", StatusCode::SERVICE_UNAVAILABLE, "Too many sign in at once"),
            Self::TooManyTokens(_) => {
                ("too-many-tokens", StatusCode::CONFLICT, "There are as many tokens as there may be")
            }
            Self::LinkInvalid => ("link-invalid", StatusCode::FORBIDDEN, "The link is not valid"),
            Self::LinkExpired => ("link-expired", StatusCode::FORBIDDEN, "The link has expired"),
            Self::UnknownRoute | Self::NotFound(_) => ("not-found", StatusCode::NOT_FOUND, "There is nothing here"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The method is not known here")
            }
            Self::BodyLate => ("body-late", StatusCode::REQUEST_TIMEOUT, "The body came too slowly"),
            Self::BodyTooLarge(_) => ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::LengthMissing => {
                ("length-missing", StatusCode::LENGTH_REQUIRED, "The body does not say how long it is")
            }
            Self::BodyBroken => ("body-broken", StatusCode::BAD_REQUEST, "The body broke off"),
            Self::TooManyUploads => {
                ("too-many-uploads", StatusCode::SERVICE_UNAVAILABLE, "Too many files are being uploaded")
            }
            Self::StorageFull => ("storage-full", StatusCode::SERVICE_UNAVAILABLE, "There is no room for the file"),
            Self::RangeOutside(_) => {
                ("range-outside", StatusCode::RANGE_NOT_SATISFIABLE, "The range lies outside of the file")
            }
            Self::NotJson | Self::NotVideo | Self::Compressed => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body is of a type that is not taken",
            ),
            Self::Malformed(_) => ("malformed-json", StatusCode::BAD_REQUEST, "The body is no JSON"),
            Self::Invalid(_) => ("validation", StatusCode::UNPROCESSABLE_ENTITY, "The body has fields that are wrong"),
            Self::BrokerUnavailable(_) => {
                ("broker-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Work cannot be taken at the moment")
            }
            Self::QueryInvalid(_) => ("query-invalid", StatusCode::BAD_REQUEST, "The query has a part that is wrong"),
            Self::KeyInvalid => ("idempotency-key-invalid", StatusCode::BAD_REQUEST, "The Idempotency-Key is none"),
            Self::KeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key stands for another request",
            ),
            Self::OutcomeUnknown { .. } => {
                ("outcome-unknown", StatusCode::SERVICE_UNAVAILABLE, "It is not known whether the work was taken")
            }
            Self::QueueFull(_) | Self::QueueNearlyFull => {
                ("queue-full", StatusCode::SERVICE_UNAVAILABLE, "Too much work is waiting")
            }
            Self::NoQueue(_) => ("no-queue", StatusCode::SERVICE_UNAVAILABLE, "Nobody takes this kind of work"),
            Self::DatabaseUnavailable(_)
            | Self::NotLoaded(_)
            | Self::FilesUnavailable(_)
            | Self::OutboxUnavailable(_) => {
                ("store-unavailable", StatusCode::SERVICE_UNAVAILABLE, "What is stored cannot be reached at the moment")
            }
            Self::VersionDiffers => {
                ("version-differs", StatusCode::PRECONDITION_FAILED, "It was changed by somebody else meanwhile")
            }
            Self::JobFinal(_) => ("job-final", StatusCode::CONFLICT, "The job has ended already"),
            Self::OrderIs(_) => ("order-state", StatusCode::CONFLICT, "The order does not stand so"),
            Self::TooMany(_) => ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "Too much was asked for"),
            Self::TooManySchedules(_) => {
                ("too-many-schedules", StatusCode::CONFLICT, "There are as many schedules as there may be")
            }
            Self::TooManyStreams => ("too-many-streams", StatusCode::SERVICE_UNAVAILABLE, "Too many streams are open"),
            Self::Late => ("late", StatusCode::SERVICE_UNAVAILABLE, "The answer was not ready in time"),
            Self::Internal(_) | Self::Panicked => {
                ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong here")
            }
        }
    }

    /// This case in words. It holds nothing of a cause that is ours.
    fn detail(&self) -> String {
        match self {
            Self::Unauthenticated(Credential::None) => {
                "sign in, or send a token as \"Authorization: Bearer <token>\"".to_owned()
            }
            Self::Unauthenticated(Credential::Token) => {
                "the Authorization header is not one bearer token that is good".to_owned()
            }
            Self::Unauthenticated(Credential::Session) => "the session is over; sign in again".to_owned(),
            Self::CredentialsWrong => "no account has this address and this password".to_owned(),
            Self::ScopeMissing(scope) => format!("it needs the scope {}", scope.as_str()),
            Self::SessionNeeded => "sign in with address and password".to_owned(),
            Self::RoleMissing(role) => format!("it needs the role {}", role.as_str()),
            Self::CrossSite => "send it from a page of this site, or with a token".to_owned(),
            Self::IdentityUnavailable(_) | Self::Busy => "try again".to_owned(),
            Self::TooManyTokens(most) => format!("revoke one of the {most} first"),
            Self::LinkInvalid => "the address was changed, or is not one that this server made".to_owned(),
            Self::LinkExpired => "ask for it with a token, or have a new link made".to_owned(),
            Self::UnknownRoute => "no such address; GET /openapi.json lists those there are".to_owned(),
            Self::NotFound(what) => format!("no such {what}"),
            Self::MethodNotAllowed => "see the Allow header".to_owned(),
            Self::BodyLate => "send the body at once".to_owned(),
            Self::BodyTooLarge(limit) => format!("a body has at most {limit} bytes here"),
            Self::LengthMissing => "send a Content-Length".to_owned(),
            Self::BodyBroken => "nothing was kept; send it again".to_owned(),
            Self::NotVideo => "send an MP4, QuickTime, Matroska or WebM file, and its type as Content-Type".to_owned(),
            Self::TooManyUploads | Self::StorageFull => "nothing was kept; try again later".to_owned(),
            Self::RangeOutside(bytes) => format!("the file has {bytes} bytes"),
            Self::NotJson => "the Content-Type must be application/json, in UTF-8".to_owned(),
            Self::Compressed => "the body must not have a Content-Encoding".to_owned(),
            Self::Malformed(detail) | Self::QueryInvalid(detail) => detail.clone(),
            Self::Invalid(_) => "see errors".to_owned(),
            Self::BrokerUnavailable(_) => "nothing was started; try again".to_owned(),
            Self::KeyInvalid => "send one key of 1 to 255 characters of visible ASCII, in quotes or bare".to_owned(),
            Self::KeyReused => "send a new key with a new request, and the old one only with the old".to_owned(),
            Self::OutcomeUnknown { .. } => {
                "the work may have been taken; with the same Idempotency-Key, asking again does not do it twice"
                    .to_owned()
            }
            Self::QueueFull(_) | Self::QueueNearlyFull => "nothing was started; try again later".to_owned(),
            Self::NoQueue(_) => "nothing was started; an operator must look at it".to_owned(),
            Self::DatabaseUnavailable(_)
            | Self::NotLoaded(_)
            | Self::FilesUnavailable(_)
            | Self::OutboxUnavailable(_) => "try again".to_owned(),
            Self::VersionDiffers => "get it again, and send the change with its ETag".to_owned(),
            Self::JobFinal(state) => format!("it is {}", state.as_str()),
            Self::OrderIs(state) => format!("it is {}", state.as_str()),
            Self::TooMany(_) => "nothing was done; Retry-After says when to try again".to_owned(),
            Self::TooManySchedules(most) => format!("delete one of the {most} first"),
            Self::TooManyStreams => "try again, or ask without a stream".to_owned(),
            Self::Late => "what was asked for may have been done all the same".to_owned(),
            Self::Internal(_) | Self::Panicked => "it has been noted and is no fault of the request".to_owned(),
        }
    }

    /// After how many seconds to try again. Every 429 and 503 says so.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::NoQueue(_) | Self::StorageFull => Some(60),
            Self::TooMany(too_many) => Some(too_many.retry_after_seconds()),
            Self::QueueFull(_) | Self::QueueNearlyFull => Some(30),
            _ if self.kind().1 == StatusCode::SERVICE_UNAVAILABLE => Some(5),
            _ => None,
        }
    }

    /// Tells an operator why, once. What a person must mend is an error; what passes is a warning.
    fn log(&self, name: &str) {
        match self {
            Self::QueueFull(error) => tracing::warn!(problem = name, error = chain(error), "a request failed"),
            Self::BrokerUnavailable(error) | Self::OutboxUnavailable(error) | Self::IdentityUnavailable(error) => {
                tracing::warn!(problem = name, error = format!("{error:#}"), "a request failed");
            }
            Self::NoQueue(error) => tracing::error!(problem = name, error = chain(error), "a request failed"),
            Self::DatabaseUnavailable(error) => {
                tracing::warn!(problem = name, error = chain(error), "a request failed")
            }
            Self::NotLoaded(error) => tracing::warn!(problem = name, error = chain(error), "a request failed"),
            Self::FilesUnavailable(error) => tracing::warn!(problem = name, error = chain(error), "a request failed"),
            Self::OutcomeUnknown { job, cause } => {
                tracing::warn!(problem = name, job.id = %job, error = format!("{cause:#}"), "a request failed");
            }
            Self::Internal(error) => tracing::error!(problem = name, error = format!("{error:#}"), "a request failed"),
            Self::Late | Self::TooManyStreams | Self::Busy | Self::TooManyUploads | Self::StorageFull => {
                tracing::warn!(problem = name, "a request failed")
            }
            _ => {}
        }
    }

    /// A problem of the body with one field.
    #[must_use]
    pub(crate) fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError { field: field.into(), detail: detail.into() }])
    }
}

impl From<DatabaseError> for Problem {
    fn from(error: DatabaseError) -> Self {
        if error.is_transient() { Self::DatabaseUnavailable(error) } else { Self::Internal(error.into()) }
    }
}

impl From<FetchError> for Problem {
    fn from(error: FetchError) -> Self {
        let passes = match &error {
            FetchError::Load(_) => error.load_error().is_none_or(DatabaseError::is_transient),
            FetchError::Deadline(_) | FetchError::Busy | FetchError::Lost => true,
            FetchError::Value => false,
        };
        if passes { Self::NotLoaded(error) } else { Self::Internal(error.into()) }
    }
}

impl From<TooMany> for Problem {
    fn from(too_many: TooMany) -> Self {
        Self::TooMany(too_many)
    }
}

impl From<FilesError> for Problem {
    fn from(error: FilesError) -> Self {
        if error.is_transient() { Self::FilesUnavailable(error) } else { Self::Internal(error.into()) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (name, status, title) = self.kind();
        self.log(name);
        let (detail, retry_after) = (self.detail(), self.retry_after());
        let (errors, job) = match &self {
            Self::Invalid(errors) => (errors.clone(), None),
            Self::OutcomeUnknown { job, .. } => (Vec::new(), Some(format!("/v1/jobs/{job}"))),
            _ => (Vec::new(), None),
        };
        let body =
            ProblemBody { kind: format!("/problems/{name}"), title, status: status.as_u16(), detail, errors, job };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        match self {
            Self::Unauthenticated(Credential::Token) => {
                let challenge = HeaderValue::from_static(r#"Bearer realm="postroom", error="invalid_token""#);
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::Unauthenticated(_) | Self::CredentialsWrong => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer realm="postroom""#));
            }
            Self::ScopeMissing(_) => {
                let challenge = HeaderValue::from_static(r#"Bearer realm="postroom", error="insufficient_scope""#);
                headers.insert(WWW_AUTHENTICATE, challenge);
            }
            Self::TooMany(too_many) => too_many.tell(headers),
            Self::NotJson => _ = headers.insert(ACCEPT, HeaderValue::from_static("application/json")),
            Self::Compressed => _ = headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity")),
            // What is still to come of the body is not waited for.
            Self::BodyLate
            | Self::BodyTooLarge(_)
            | Self::BodyBroken
            | Self::NotVideo
            | Self::StorageFull
            | Self::TooManyUploads => _ = headers.insert(CONNECTION, HeaderValue::from_static("close")),
            Self::RangeOutside(bytes) => {
                let told = HeaderValue::try_from(format!("bytes */{bytes}"));
                told.into_iter().for_each(|told| drop(headers.insert(CONTENT_RANGE, told)));
            }
            _ => {}
        }
        response
    }
}

/// An error with its sources, as one line of a log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
