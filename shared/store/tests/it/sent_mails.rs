//! Who may send a mail.

use std::time::Duration;

use futures_util::future::join_all;
use store::PgPool;
use store::sent_mails::{Claim, GivenBack, SendLease, claim, mark_sent, release};
use uuid::Uuid;

use crate::TestStore;

const LEASE: Duration = Duration::from_secs(60);

async fn send(pool: &PgPool, job_id: Uuid) -> SendLease {
    match claim(pool, job_id, LEASE).await.unwrap() {
        Claim::Send(lease) => lease,
        other => panic!("{other:?}"),
    }
}

async fn send_again(pool: &PgPool, job_id: Uuid) -> SendLease {
    match claim(pool, job_id, LEASE).await.unwrap() {
        Claim::SendAgain(lease) => lease,
        other => panic!("{other:?}"),
    }
}

/// Lets every lease end, without waiting for it.
async fn end_leases(pool: &PgPool) {
    sqlx::query("UPDATE sent_mails SET held_until = held_until - interval '1 hour'").execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_claim_a_mail_at_once_exactly_one_sends() {
    let store = TestStore::create().await;
    for _ in 0..3 {
        let job_id = Uuid::new_v4();
        let claims = (0..20).map(|_| {
            let pool = store.pool.clone();
            tokio::spawn(async move { claim(&pool, job_id, LEASE).await.unwrap() })
        });
        let claims: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Send(_))).count(), 1, "{claims:?}");
        assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::HeldUntil(_))).count(), 19, "{claims:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_find_an_ended_lease_exactly_one_sends_again() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let _lost = send(&store.pool, job_id).await;
    end_leases(&store.pool).await;
    let claims = (0..20).map(|_| {
        let pool = store.pool.clone();
        tokio::spawn(async move { claim(&pool, job_id, LEASE).await.unwrap() })
    });
    let claims: Vec<_> = join_all(claims).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::SendAgain(_))).count(), 1, "{claims:?}");
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::HeldUntil(_))).count(), 19, "{claims:?}");
}

#[tokio::test]
async fn a_mail_that_was_sent_is_never_sent_again() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let lease = send(&store.pool, job_id).await;
    mark_sent(&store.pool, &lease, "<first@shop.example>").await.unwrap();
    // Whatever still comes late changes nothing.
    mark_sent(&store.pool, &lease, "<second@shop.example>").await.unwrap();
    release(&store.pool, &lease, GivenBack::NotSent).await.unwrap();
    end_leases(&store.pool).await;
    match claim(&store.pool, job_id, LEASE).await.unwrap() {
        Claim::AlreadySent { message_id, .. } => assert_eq!(message_id, "<first@shop.example>"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lease_says_until_when_the_mail_is_held() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let before = chrono::Utc::now();
    let _lease = send(&store.pool, job_id).await;
    match claim(&store.pool, job_id, LEASE).await.unwrap() {
        Claim::HeldUntil(until) => {
            let held = until - before;
            assert!((55..=65).contains(&held.num_seconds()), "{held}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_mail_given_back_unsent_may_be_sent_without_doubt() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    for _ in 0..3 {
        let lease = send(&store.pool, job_id).await;
        release(&store.pool, &lease, GivenBack::NotSent).await.unwrap();
    }
    let _lease = send(&store.pool, job_id).await;
}

#[tokio::test]
async fn a_doubt_stays_until_the_mail_is_sent() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let lease = send(&store.pool, job_id).await;
    release(&store.pool, &lease, GivenBack::MaybeSent).await.unwrap();
    let lease = send_again(&store.pool, job_id).await;
    release(&store.pool, &lease, GivenBack::NotSent).await.unwrap();
    let lease = send_again(&store.pool, job_id).await;
    mark_sent(&store.pool, &lease, "<id@shop.example>").await.unwrap();
    assert!(matches!(claim(&store.pool, job_id, LEASE).await.unwrap(), Claim::AlreadySent { .. }));
}

#[tokio::test]
async fn who_lost_the_lease_cannot_give_back_what_another_holds() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let lost = send(&store.pool, job_id).await;
    end_leases(&store.pool).await;
    let _held = send_again(&store.pool, job_id).await;
    release(&store.pool, &lost, GivenBack::NotSent).await.unwrap();
    assert!(matches!(claim(&store.pool, job_id, LEASE).await.unwrap(), Claim::HeldUntil(_)));
}

#[tokio::test]
async fn a_mail_that_went_out_after_its_lease_ended_counts_as_sent() {
    let store = TestStore::create().await;
    let job_id = Uuid::new_v4();
    let slow = send(&store.pool, job_id).await;
    end_leases(&store.pool).await;
    let second = send_again(&store.pool, job_id).await;
    mark_sent(&store.pool, &slow, "<slow@shop.example>").await.unwrap();
    release(&store.pool, &second, GivenBack::NotSent).await.unwrap();
    assert!(matches!(claim(&store.pool, job_id, LEASE).await.unwrap(), Claim::AlreadySent { .. }));
}
