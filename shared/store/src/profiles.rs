//! What the shop knows of a user beside how it signs in.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, PgPool};
use uuid::Uuid;

use crate::accounts::Role;
use crate::cache_invalidations;
use crate::database::{DatabaseError, call};
use crate::versions::Replaced;

/// A user's profile.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
pub struct Profile {
    /// The user's id.
    pub id: Uuid,
    /// First and last name.
    pub name: String,
    /// The address.
    pub email: String,
    /// ISO 3166 alpha-2.
    pub country: String,
    /// What it may do.
    #[sqlx(try_from = "String")]
    pub role: Role,
    /// Since when it has an account.
    pub created_at: DateTime<Utc>,
    /// Grows with each change of what stands here.
    pub version: i64,
}

/// What of a profile can be changed.
#[derive(Clone, Debug)]
pub struct NewProfile {
    /// First and last name.
    pub name: String,
    /// ISO 3166 alpha-2.
    pub country: String,
}

/// The user's profile, if there is such a user.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn find(pool: &PgPool, id: Uuid) -> Result<Option<Profile>, DatabaseError> {
    call(pool, "find the profile", async |connection| {
        sqlx::query_as("SELECT id, name, email, country, role, created_at, version FROM users WHERE id = $1")
            .bind(id)
            .fetch_optional(connection)
            .await
    })
    .await
}

/// Changes a profile, if it is one of `versions`, or whatever it is without any; and names `entry`, under which it is cached. Both
/// or neither.
///
/// # Errors
/// The database cannot be reached, or fails. The change may have taken effect all the same, or may yet.
pub async fn replace(
    pool: &PgPool,
    id: Uuid,
    new: &NewProfile,
    versions: Option<&[i64]>,
    entry: &str,
) -> Result<Replaced<Profile>, DatabaseError> {
    call(pool, "change the profile", async |connection| {
        let mut transaction = connection.begin().await?;
        let changed: Option<Profile> = sqlx::query_as(
            "UPDATE users SET name = $2, country = $3 WHERE id = $1 AND ($4::bigint[] IS NULL OR version = ANY($4))
             RETURNING id, name, email, country, role, created_at, version",
        )
        .bind(id)
        .bind(&new.name)
        .bind(&new.country)
        .bind(versions)
        .fetch_optional(&mut *transaction)
        .await?;
        if changed.is_some() {
            cache_invalidations::put_in(&mut transaction, entry).await?;
        }
        let exists = sqlx::query_scalar("SELECT EXISTS (SELECT FROM users WHERE id = $1)")
            .bind(id)
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(Replaced::of(changed, exists))
    })
    .await
}
