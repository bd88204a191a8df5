//! What is kept: the PostgreSQL schema and every query on it, stored files, and signed links to them.
//! It knows neither the broker nor HTTP; who asks passes plain values and gets plain values.

pub mod accounts;
pub mod cache_invalidations;
pub mod database;
pub mod files;
pub mod idempotency;
pub mod jobs;
pub mod links;
pub mod money;
pub mod notices;
pub mod orders;
pub mod outbox;
pub mod products;
pub mod profiles;
pub mod retention;
pub mod sales;
pub mod schedules;
pub mod sent_mails;
pub mod tokens;
pub mod versions;

pub use database::{DatabaseError, DatabaseSettings, MIGRATOR, connect};
pub use files::{Files, FilesError, FilesSettings};
pub use links::{LinkError, LinkSettings, SignedLinks};
// What callers hold and pass on, so that they need not name sqlx themselves.
pub use sqlx::{PgConnection, PgPool, Postgres, Transaction};
