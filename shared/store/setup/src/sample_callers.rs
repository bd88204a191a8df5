//! Users with a token each, to try the API with: no password opens their accounts.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use store::PgPool;
use uuid::Uuid;

/// What their tokens are called, so that they are known by the next run.
const TOKEN_NAME: &str = "sample data";
/// A token that a person made up is shorter; one of 20 random characters is out of reach of guessing. Web looks no longer one up.
const LENGTHS: std::ops::RangeInclusive<usize> = 20..=128;

/// Has the users exist and their tokens work for a year from now. A token that was another one at the last run is revoked.
///
/// # Errors
/// A name or a token cannot be one, or the database fails; nothing has changed then.
pub async fn sign_up(pool: &PgPool, tokens: &BTreeMap<String, SecretString>) -> anyhow::Result<()> {
    let mut transaction = pool.begin().await.context("begin to sign up the sample callers")?;
    for (name, token) in tokens {
        let named = (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase());
        ensure!(named, "settings, at `tokens`: the name \"{name}\" is not 1 to 32 characters of a-z");
        let token = token.expose_secret();
        ensure!(
            LENGTHS.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()),
            "settings, at `tokens.{name}`: not {} to {} characters of printable ASCII without spaces",
            LENGTHS.start(),
            LENGTHS.end()
        );
        let user: Uuid = sqlx::query_scalar(
            "INSERT INTO users (id, name, email, country, role) VALUES ($1, initcap($2), $2 || '@shop.example', 'DE', 'staff')
             ON CONFLICT (lower(email)) DO UPDATE SET role = CASE users.role WHEN 'operator' THEN 'operator' ELSE 'staff' END
             RETURNING id",
        )
        .bind(Uuid::now_v7())
        .bind(name)
        .fetch_one(&mut *transaction)
        .await
        .context("sign up a sample caller")?;
        let digest = Sha256::digest(token.as_bytes());
        sqlx::query("UPDATE api_tokens SET revoked_at = now() WHERE user_id = $1 AND name = $2 AND digest <> $3 AND revoked_at IS NULL")
            .bind(user)
            .bind(TOKEN_NAME)
            .bind(digest.as_slice())
            .execute(&mut *transaction)
            .await
            .context("revoke the earlier token of a sample caller")?;
        let given = sqlx::query(
            "INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at)
             VALUES ($1, $2, $3, $4, '{jobs:read,jobs:write}', now() + interval '1 year')
             ON CONFLICT (digest) DO UPDATE SET expires_at = excluded.expires_at, revoked_at = NULL WHERE api_tokens.user_id = excluded.user_id",
        )
        .bind(Uuid::now_v7())
        .bind(user)
        .bind(TOKEN_NAME)
        .bind(digest.as_slice())
        .execute(&mut *transaction)
        .await
        .context("give a sample caller its token")?;
        ensure!(given.rows_affected() == 1, "settings, at `tokens.{name}`: somebody else has the same token");
    }
    transaction.commit().await.context("commit the sample callers")
}
