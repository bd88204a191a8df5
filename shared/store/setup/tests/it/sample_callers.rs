//! Who may try the API, by which tokens.

use std::collections::BTreeMap;

use secrecy::SecretString;
use sha2::{Digest, Sha256};
use store::PgPool;
use store::tokens::holder;
use store_setup::sample_callers::sign_up;

use crate::migrated;

const ONE: &str = "one-token-of-alices-0123456789";
const OTHER: &str = "other-token-of-alices-0123456789";

fn tokens(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretString> {
    pairs.iter().map(|(name, token)| ((*name).to_owned(), (*token).into())).collect()
}

/// The address of the user for whom a token speaks.
async fn speaks_for(pool: &PgPool, token: &str) -> Option<String> {
    let found = holder(pool, &Sha256::digest(token.as_bytes()).into()).await.unwrap();
    found.map(|found| found.account.email)
}

#[tokio::test]
async fn a_sample_caller_has_the_one_token_of_the_latest_run() {
    let (_database, pool) = migrated().await;
    for _ in 0..2 {
        sign_up(&pool, &tokens(&[("alice", ONE), ("bob", "token-of-bobs-0123456789")])).await.unwrap();
        assert_eq!(speaks_for(&pool, ONE).await.as_deref(), Some("alice@shop.example"));
    }
    sign_up(&pool, &tokens(&[("alice", OTHER)])).await.unwrap();
    assert_eq!(speaks_for(&pool, ONE).await, None);
    assert_eq!(speaks_for(&pool, OTHER).await.as_deref(), Some("alice@shop.example"));
    assert_eq!(speaks_for(&pool, "token-of-bobs-0123456789").await.as_deref(), Some("bob@shop.example"));
    let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&pool).await.unwrap();
    assert_eq!(users, 2);
    sign_up(&pool, &tokens(&[("alice", ONE)])).await.unwrap();
    assert_eq!(speaks_for(&pool, ONE).await.as_deref(), Some("alice@shop.example"), "the way back");
    assert_eq!(speaks_for(&pool, OTHER).await, None);
}

#[tokio::test]
async fn what_cannot_be_a_caller_changes_nothing() {
    let (_database, pool) = migrated().await;
    for bad in [
        &[("alice", ONE), ("bob", "short")] as &[_],
        &[("alice", ONE), ("bob", "with spaces in it, and long")],
        &[("alice", ONE), ("bob", ONE)],
        &[("alice", ONE), ("b@b", OTHER)],
    ] {
        let error = sign_up(&pool, &tokens(bad)).await.unwrap_err().to_string();
        assert!(error.contains("tokens") && !error.contains("0123456789"), "{error}");
        assert_eq!(speaks_for(&pool, ONE).await, None);
    }
}
