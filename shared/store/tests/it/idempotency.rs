//! What a key stands for.

use futures_util::future::join_all;
use store::idempotency::{Claim, claim};
use uuid::Uuid;

use crate::TestStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_claim_a_key_at_once_exactly_one_is_the_first() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let claims = (0..20).map(|place| {
        let pool = store.pool.clone();
        tokio::spawn(async move { claim(&pool, job_id, ["one", "two"][place % 2]).await.unwrap() })
    });
    let claims: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
    let count = |wanted| claims.iter().filter(|claim| **claim == wanted).count();
    // The first one's payload is the same for nine others.
    assert_eq!((count(Claim::New), count(Claim::Same), count(Claim::Other)), (1, 9, 10), "{claims:?}");
}

#[tokio::test]
async fn a_key_stands_for_one_payload_however_old_it_is() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    assert_eq!(claim(&store.pool, job_id, "one").await.unwrap(), Claim::New);
    sqlx::query("UPDATE idempotency_keys SET claimed_at = now() - interval '29 days'")
        .execute(&store.pool)
        .await
        .unwrap();
    assert_eq!(claim(&store.pool, job_id, "one").await.unwrap(), Claim::Same);
    assert_eq!(claim(&store.pool, job_id, "two").await.unwrap(), Claim::Other);
}
