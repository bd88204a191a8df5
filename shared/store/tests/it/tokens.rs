//! Whom a token speaks for, and for how long.

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use store::PgPool;
use store::tokens::{Created, NewToken, Scope, create, find, holder, list, revoke};
use uuid::Uuid;

use crate::TestStore;

async fn user(pool: &PgPool, email: &str) -> Uuid {
    sqlx::query_scalar(
        "INSERT INTO users (id, name, email, country) VALUES (gen_random_uuid(), 'Ada', $1, 'DE') RETURNING id",
    )
    .bind(email)
    .fetch_one(pool)
    .await
    .unwrap()
}

fn token(user_id: Uuid, digest: u8) -> NewToken {
    NewToken {
        id: Uuid::now_v7(),
        user_id,
        name: "a machine".to_owned(),
        digest: [digest; 32],
        scopes: vec![Scope::JobsWrite],
        expires_at: Utc::now() + TimeDelta::days(1),
    }
}

#[tokio::test]
async fn a_token_speaks_for_its_user_until_it_is_revoked_or_over() {
    let store = TestStore::create().await;
    let (ada, bob) = (user(&store.pool, "ada@shop.example").await, user(&store.pool, "bob@shop.example").await);
    let (one, two) = (token(ada, 1), token(ada, 2));
    for new in [&one, &two] {
        assert!(matches!(create(&store.pool, new, 10).await.unwrap(), Created::Made(_)));
    }
    let found = holder(&store.pool, &[1; 32]).await.unwrap().unwrap();
    assert_eq!((found.account.id, found.scopes.0), (ada, vec![Scope::JobsWrite]));
    assert_eq!(holder(&store.pool, &[3; 32]).await.unwrap(), None);
    assert_eq!(find(&store.pool, one.id, bob).await.unwrap(), None);
    assert_eq!(find(&store.pool, one.id, ada).await.unwrap().unwrap().0, [1; 32]);

    revoke(&store.pool, one.id).await.unwrap();
    assert_eq!(holder(&store.pool, &[1; 32]).await.unwrap(), None);
    assert!(find(&store.pool, one.id, ada).await.unwrap().is_some(), "so that it can be revoked again");
    let over = "UPDATE api_tokens SET created_at = now() - interval '2 days', expires_at = now() - interval '1 second'";
    assert_eq!(list(&store.pool, ada).await.unwrap().len(), 1);
    sqlx::query(over).execute(&store.pool).await.unwrap();
    assert_eq!(holder(&store.pool, &[2; 32]).await.unwrap(), None);
    assert_eq!(list(&store.pool, ada).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_so_many_tokens_and_no_more_and_old_ones_are_forgotten() {
    let store = TestStore::create().await;
    let ada = user(&store.pool, "ada@shop.example").await;
    let making = (0..8).map(|digest| {
        let pool = store.pool.clone();
        tokio::spawn(async move { create(&pool, &token(ada, digest), 3).await.unwrap() })
    });
    let made: Vec<_> = join_all(making).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(made.iter().filter(|made| **made != Created::TooMany).count(), 3);
    let old = "UPDATE api_tokens SET created_at = now() - interval '90 days', revoked_at = now() - interval '31 days'";
    sqlx::query(old).execute(&store.pool).await.unwrap();
    assert!(matches!(create(&store.pool, &token(ada, 9), 3).await.unwrap(), Created::Made(_)));
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM api_tokens").fetch_one(&store.pool).await.unwrap();
    assert_eq!(left, 1);
}
