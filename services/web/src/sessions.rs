//! Sessions of people: kept in the durable Redis under the hash of their id, for half an hour after the last use and half a day
//! in all. A record is written once; what changes gets a new id.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderValue;
use axum::http::header::SET_COOKIE;
use axum::response::Response;
use cache::{Redis, RedisError};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tower_sessions::cookie::SameSite;
use tower_sessions::cookie::time::OffsetDateTime;
use tower_sessions::session::{Error, Id, Record};
use tower_sessions::session_store::{Error as StoreError, Result as StoreResult};
use tower_sessions::{Expiry, Session, SessionManagerLayer, SessionStore};

use crate::App;
use crate::caller::Person;
use crate::generations::Of;
use crate::problem::Problem;

/// `__Host-` binds it to this host and to HTTPS, whatever a subdomain or a proxy sets.
pub(crate) const COOKIE: &str = "__Host-sid";
/// As the cookie is taken back: without `Secure` a browser would pass over it.
const TAKEN_BACK: HeaderValue =
    HeaderValue::from_static("__Host-sid=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax");
/// Where it stands in a record.
const SIGNED_IN: &str = "signed_in";
/// So many ids would have to be somebody else's already.
const TRIES: u32 = 3;

/// What a session says of its user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SignedIn {
    /// As it was at sign-in.
    pub(crate) person: Person,
    /// The generation of the user's sessions in which it began.
    generation: i64,
    begun_at: DateTime<Utc>,
}

/// Whose session it is, if it is one that counts. Using it keeps it.
pub(crate) async fn signed_in(app: &App, session: &Session) -> Result<Option<SignedIn>, Problem> {
    let found = match session.get::<SignedIn>(SIGNED_IN).await {
        Ok(found) => found,
        // Written by a release with other sessions.
        Err(Error::SerdeJson(_)) => None,
        Err(error) => return Err(unavailable(error)),
    };
    let Some(signed_in) = found else {
        return Ok(None);
    };
    let longest = TimeDelta::from_std(app.limits.session_absolute).unwrap_or(TimeDelta::MAX);
    let current = app.generations.current(Of::Sessions, signed_in.person.user).await.map_err(away)?;
    if Utc::now() - signed_in.begun_at >= longest || signed_in.generation != current {
        session.flush().await.map_err(unavailable)?;
        return Ok(None);
    }
    Ok(Some(signed_in))
}

/// Begins a session under a new id; the one that the request came with is over. `generation` was read before the password was.
pub(crate) async fn begin(session: &Session, person: Person, generation: i64) -> Result<(), Problem> {
    let signed_in = SignedIn { person, generation, begun_at: Utc::now() };
    write(session, signed_in).await
}

/// Gives the user's own session a new id and the new generation; it lasts no longer for that.
pub(crate) async fn renew(session: &Session, signed_in: SignedIn, generation: i64) -> Result<(), Problem> {
    write(session, SignedIn { generation, ..signed_in }).await
}

async fn write(session: &Session, signed_in: SignedIn) -> Result<(), Problem> {
    let written = async {
        session.cycle_id().await?;
        session.clear().await;
        session.insert(SIGNED_IN, signed_in).await?;
        session.save().await
    };
    written.await.map_err(unavailable)
}

/// Ends the session.
pub(crate) async fn end(session: &Session) -> Result<(), Problem> {
    session.flush().await.map_err(unavailable)
}

fn unavailable(error: Error) -> Problem {
    Problem::IdentityUnavailable(anyhow::Error::new(error).context("look after a session"))
}

pub(crate) fn away(error: RedisError) -> Problem {
    Problem::IdentityUnavailable(error.into())
}

/// Gives each request its session, which is read when it is asked for. The cookie lasts as long as the browser: how long the
/// session does is not the browser's to say.
pub(crate) fn layer(redis: Redis, idle: Duration) -> SessionManagerLayer<Kept> {
    SessionManagerLayer::new(Kept { redis, idle })
        .with_name(COOKIE)
        .with_secure(true)
        .with_http_only(true)
        .with_same_site(SameSite::Lax)
        .with_path("/")
        .with_expiry(Expiry::OnSessionEnd)
}

/// The layer takes a cookie back without the attributes that its name demands.
pub(crate) async fn take_back_well(mut response: Response) -> Response {
    let taken_back = |value: &HeaderValue| value.as_bytes().starts_with(b"__Host-sid=;");
    for value in response.headers_mut().iter_mut().filter(|(name, value)| **name == SET_COOKIE && taken_back(value)) {
        *value.1 = TAKEN_BACK;
    }
    response
}

/// The records in Redis.
#[derive(Clone)]
pub(crate) struct Kept {
    redis: Redis,
    /// After which a session that nobody uses is gone.
    idle: Duration,
}

impl Kept {
    /// Under a hash: whoever reads the server's memory or its file gets no id that works.
    fn key(&self, id: &Id) -> String {
        let digest = Sha256::digest(id.to_string().as_bytes());
        self.redis.key(&["session", &digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()])
    }

    fn idle_ms(&self) -> u64 {
        u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Kept").finish_non_exhaustive()
    }
}

fn failed(error: RedisError) -> StoreError {
    StoreError::Backend(format!("{:#}", anyhow::Error::new(error)))
}

#[async_trait]
impl SessionStore for Kept {
    async fn create(&self, record: &mut Record) -> StoreResult<()> {
        let text = serde_json::to_string(&record.data).map_err(|error| StoreError::Encode(error.to_string()))?;
        for _ in 0..TRIES {
            let command = redis::cmd("SET")
                .arg(self.key(&record.id))
                .arg(&text)
                .arg("NX")
                .arg("PX")
                .arg(self.idle_ms())
                .to_owned();
            let made: Option<String> = self.redis.query("make a session", &command).await.map_err(failed)?;
            if made.is_some() {
                return Ok(());
            }
            record.id = Id::default();
        }
        Err(StoreError::Backend("no id is free".to_owned()))
    }

    /// A record never changes after it was made. To write it again could bring one back that has just been ended.
    async fn save(&self, _: &Record) -> StoreResult<()> {
        Ok(())
    }

    async fn load(&self, id: &Id) -> StoreResult<Option<Record>> {
        let command = redis::cmd("GETEX").arg(self.key(id)).arg("PX").arg(self.idle_ms()).to_owned();
        let text: Option<String> = self.redis.query("read a session", &command).await.map_err(failed)?;
        let data = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(data.map(|data| Record { id: *id, data, expiry_date: OffsetDateTime::now_utc() + self.idle }))
    }

    async fn delete(&self, id: &Id) -> StoreResult<()> {
        self.redis.query("end a session", redis::cmd("DEL").arg(self.key(id))).await.map_err(failed)
    }
}
