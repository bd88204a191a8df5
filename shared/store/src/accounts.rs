//! Users as those who sign in: their address, password and role. What a password's hash is made of is the caller's affair.

use serde::{Deserialize, Serialize};
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use crate::cache_invalidations;
use crate::database::{DatabaseError, call};
use crate::jobs::NewJob;
use crate::outbox::{NewOutboxRow, cancel_all_in, put_in};
use crate::schedules::stop_in;

/// What a user may do, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Buys, and sees its own.
    Customer,
    /// Keeps the shop's catalogue.
    Staff,
    /// Looks after the system, and says who is what.
    Operator,
}

impl Role {
    /// Every role there is.
    pub const ALL: [Self; 3] = [Self::Customer, Self::Staff, Self::Operator];

    /// The name in the database and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Staff => "staff",
            Self::Operator => "operator",
        }
    }
}

impl TryFrom<String> for Role {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| format!("no role: {text}"))
    }
}

/// Somebody with an account.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Account {
    /// The user's id.
    pub id: Uuid,
    /// First and last name.
    pub name: String,
    /// The address, as it was written.
    pub email: String,
    /// What it may do.
    #[sqlx(try_from = "String")]
    pub role: Role,
}

/// An account that is asked for.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The user's id, if the address is free.
    pub id: Uuid,
    /// First and last name.
    pub name: String,
    /// The address.
    pub email: String,
    /// ISO 3166 alpha-2.
    pub country: String,
    /// Of its password, as a PHC string.
    pub password_hash: String,
}

/// A job that goes out with a change: both or neither.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The job.
    pub job: NewJob,
    /// Its message.
    pub row: NewOutboxRow,
}

/// Whose address it is that somebody registers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registered {
    /// Nobody's until now: the account is made.
    New,
    /// An account's, which stays as it is.
    Taken(Account),
}

/// Makes an account, or finds that its address has one, however that is capitalised; and puts the mail that `letter` writes for
/// either into the outbox. Both or neither. A mail whose job the outbox has already is not sent again.
///
/// # Errors
/// The database cannot be reached, or fails; or `letter` fails.
pub async fn register(
    pool: &PgPool,
    new: &NewAccount,
    letter: impl FnOnce(&Registered) -> Result<Letter, serde_json::Error>,
) -> Result<Registered, DatabaseError> {
    call(pool, "register an account", async |connection| {
        let mut transaction = connection.begin().await?;
        let registered = insert_or_find(&mut transaction, new).await?;
        let letter = letter(&registered).map_err(|error| sqlx::Error::Encode(error.into()))?;
        put_in(&mut transaction, &letter.job, &letter.row).await?;
        transaction.commit().await?;
        Ok(registered)
    })
    .await
}

async fn insert_or_find(connection: &mut PgConnection, new: &NewAccount) -> Result<Registered, sqlx::Error> {
    loop {
        let made = sqlx::query(
            "INSERT INTO users (id, name, email, country, password_hash) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (lower(email)) DO NOTHING",
        )
        .bind(new.id)
        .bind(&new.name)
        .bind(&new.email)
        .bind(&new.country)
        .bind(&new.password_hash)
        .execute(&mut *connection)
        .await?;
        if made.rows_affected() == 1 {
            return Ok(Registered::New);
        }
        let found = sqlx::query_as("SELECT id, name, email, role FROM users WHERE lower(email) = lower($1)")
            .bind(&new.email)
            .fetch_optional(&mut *connection)
            .await?;
        // Else it went away between the two.
        if let Some(account) = found {
            return Ok(Registered::Taken(account));
        }
    }
}

/// Whose address it is.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn id_of_address(pool: &PgPool, email: &str) -> Result<Option<Uuid>, DatabaseError> {
    call(pool, "look for the address", async |connection| {
        sqlx::query_scalar("SELECT id FROM users WHERE lower(email) = lower($1)")
            .bind(email)
            .fetch_optional(connection)
            .await
    })
    .await
}

/// An account with what its password is checked against.
#[derive(Clone, Debug, FromRow)]
pub struct SignIn {
    /// The account.
    #[sqlx(flatten)]
    pub account: Account,
    /// Of its password; `None` where there is none.
    pub password_hash: Option<String>,
}

/// An account with the hash of its password.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn sign_in(pool: &PgPool, id: Uuid) -> Result<Option<SignIn>, DatabaseError> {
    call(pool, "read the account", async |connection| {
        sqlx::query_as("SELECT id, name, email, role, password_hash FROM users WHERE id = $1")
            .bind(id)
            .fetch_optional(connection)
            .await
    })
    .await
}

/// Gives an account another hash, if it still has that one; whether it had.
///
/// # Errors
/// The database cannot be reached, or fails.
pub async fn replace_password(pool: &PgPool, id: Uuid, old: &str, new: &str) -> Result<bool, DatabaseError> {
    let replaced = call(pool, "replace the password", async |connection| {
        sqlx::query("UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2")
            .bind(id)
            .bind(old)
            .bind(new)
            .execute(connection)
            .await
    });
    Ok(replaced.await?.rows_affected() == 1)
}

/// Gives a user another role, and names `entry`, under which its profile is cached. Of the kinds in `lost`, for which that role may
/// not ask, its schedules stop and its jobs in the outbox are cancelled. All or nothing. Whether there is such a user.
///
/// # Errors
/// The database cannot be reached, or fails. The change may have taken effect all the same, or may yet.
pub async fn set_role(pool: &PgPool, id: Uuid, role: Role, lost: &[&str], entry: &str) -> Result<bool, DatabaseError> {
    call(pool, "set the role", async |connection| {
        let mut transaction = connection.begin().await?;
        let set = sqlx::query("UPDATE users SET role = $2 WHERE id = $1")
            .bind(id)
            .bind(role.as_str())
            .execute(&mut *transaction)
            .await?;
        if set.rows_affected() == 1 {
            cache_invalidations::put_in(&mut transaction, entry).await?;
            let owner = id.to_string();
            // The schedules first: what one of them fires until then is in the outbox after.
            stop_in(&mut transaction, &owner, lost).await?;
            cancel_all_in(&mut transaction, &owner, lost).await?;
        }
        transaction.commit().await?;
        Ok(set.rows_affected() == 1)
    })
    .await
}
