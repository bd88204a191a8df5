//! The tokens by which machines act for a user. Only their digests are known here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, PgPool};
use uuid::Uuid;

use crate::accounts::Account;
use crate::database::{DatabaseError, call};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// To look at jobs, reports and schedules.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// To ask for them, and to stop them.
    #[serde(rename = "jobs:write")]
    JobsWrite,
}

impl Scope {
    /// Every scope there is.
    pub const ALL: [Self; 2] = [Self::JobsRead, Self::JobsWrite];

    /// The name in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
        }
    }
}

/// A token's SHA-256.
pub type Digest = [u8; 32];

/// A token that is to be.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Its id, by which it is listed and revoked.
    pub id: Uuid,
    /// Whose it is.
    pub user_id: Uuid,
    /// What its owner calls it.
    pub name: String,
    /// Of the token.
    pub digest: Digest,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// Until when.
    pub expires_at: DateTime<Utc>,
}

/// A token as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct TokenRow {
    /// Its id.
    pub id: Uuid,
    /// What its owner calls it.
    pub name: String,
    /// What it is good for.
    #[sqlx(try_from = "Vec<String>")]
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
}

/// What a token is good for, read from names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scopes(pub Vec<Scope>);

impl TryFrom<Vec<String>> for Scopes {
    type Error = String;

    fn try_from(names: Vec<String>) -> Result<Self, String> {
        let scope = |name: String| {
            Scope::ALL.into_iter().find(|scope| scope.as_str() == name).ok_or_else(|| format!("no scope: {name}"))
        };
        names.into_iter().map(scope).collect::<Result<_, _>>().map(Self)
    }
}

/// What became of a token that was to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// It is there.
    Made(TokenRow),
    /// The user has as many as it may have.
    TooMany,
}

/// Makes a token, unless the user has `most` that are good. Forgets those of the user that have not been good for 30 days.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn create(pool: &PgPool, new: &NewToken, most: i64) -> Result<Created, DatabaseError> {
    call(pool, "make a token", async |connection| {
        let mut transaction = connection.begin().await?;
        // One after the other, so that the count is right.
        sqlx::query("SELECT FROM users WHERE id = $1 FOR UPDATE").bind(new.user_id).execute(&mut *transaction).await?;
        sqlx::query(
            "DELETE FROM api_tokens WHERE user_id = $1 AND least(expires_at, revoked_at) < now() - interval '30 days'",
        )
        .bind(new.user_id)
        .execute(&mut *transaction)
        .await?;
        let made: Option<TokenRow> = sqlx::query_as(
            "INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at)
             SELECT $1, $2, $3, $4, $5, $6
             WHERE (SELECT count(*) FROM api_tokens
                    WHERE user_id = $2 AND revoked_at IS NULL AND expires_at > now()) < $7
             RETURNING id, name, scopes, created_at, expires_at",
        )
        .bind(new.id)
        .bind(new.user_id)
        .bind(&new.name)
        .bind(new.digest.as_slice())
        .bind(new.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>())
        .bind(new.expires_at)
        .bind(most)
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(made.map_or(Created::TooMany, Created::Made))
    })
    .await
}

/// The good tokens of a user, the oldest first.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn list(pool: &PgPool, user_id: Uuid) -> Result<Vec<TokenRow>, DatabaseError> {
    call(pool, "list the tokens", async |connection| {
        sqlx::query_as(
            "SELECT id, name, scopes, created_at, expires_at FROM api_tokens
             WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > now() ORDER BY created_at, id",
        )
        .bind(user_id)
        .fetch_all(connection)
        .await
    })
    .await
}

/// The digest of a user's token and until when it is good, revoked or not.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find(pool: &PgPool, id: Uuid, user_id: Uuid) -> Result<Option<(Digest, DateTime<Utc>)>, DatabaseError> {
    call(pool, "find the token", async |connection| {
        sqlx::query_as("SELECT digest, expires_at FROM api_tokens WHERE id = $1 AND user_id = $2")
            .bind(id)
            .bind(user_id)
            .fetch_optional(connection)
            .await
    })
    .await
}

/// Revokes a token.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn revoke(pool: &PgPool, id: Uuid) -> Result<(), DatabaseError> {
    call(pool, "revoke the token", async |connection| {
        sqlx::query("UPDATE api_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = $1")
            .bind(id)
            .execute(connection)
            .await
    })
    .await
    .map(|_| ())
}

/// Whom a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Holder {
    /// The user.
    #[sqlx(flatten)]
    pub account: Account,
    /// What the token is good for.
    #[sqlx(try_from = "Vec<String>")]
    pub scopes: Scopes,
    /// Until when.
    pub expires_at: DateTime<Utc>,
}

/// Whom the token with this digest speaks for, if it is good.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn holder(pool: &PgPool, digest: &Digest) -> Result<Option<Holder>, DatabaseError> {
    call(pool, "look the token up", async |connection| {
        sqlx::query_as(
            "SELECT users.id, users.name, email, role, scopes, expires_at
             FROM api_tokens JOIN users ON users.id = user_id
             WHERE digest = $1 AND revoked_at IS NULL AND expires_at > now()",
        )
        .bind(digest.as_slice())
        .fetch_optional(connection)
        .await
    })
    .await
}
