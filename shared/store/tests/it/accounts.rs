//! Who has an account, and the mail that goes with it.

use chrono::Utc;
use futures_util::future::join_all;
use serde_json::json;
use store::accounts::{
    Letter, NewAccount, Registered, Role, id_of_address, register, replace_password, set_role, sign_in,
};
use store::jobs::{JobMark, JobState, NewJob, find_job, mark_of};
use store::outbox::{NewOutboxRow, put, take_due};
use store::{DatabaseError, PgPool};
use uuid::Uuid;

use crate::TestStore;
use crate::cache_invalidations::entries;

fn new(email: &str) -> NewAccount {
    NewAccount {
        id: Uuid::now_v7(),
        name: "Ada".to_owned(),
        email: email.to_owned(),
        country: "DE".to_owned(),
        password_hash: "a hash".to_owned(),
    }
}

fn letter(id: Uuid) -> Letter {
    let job =
        NewJob { id, kind: "email.send".to_owned(), owner: "somebody".to_owned(), caused_by: None, at: Utc::now() };
    Letter { job, row: NewOutboxRow { message: json!({}), due_at: None } }
}

async fn count(pool: &PgPool) -> (i64, i64) {
    let counts = "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM outbox)";
    sqlx::query_as(counts).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn an_account_and_its_mail_are_there_both_or_neither() {
    let store = TestStore::create().await;
    let broken = serde_json::from_str::<u8>("x").unwrap_err();
    let failed = register(&store.pool, &new("ada@shop.example"), |_| Err(broken)).await;
    assert!(matches!(failed, Err(DatabaseError::Failed { .. })), "{failed:?}");
    assert_eq!(count(&store.pool).await, (0, 0));

    sqlx::query("ALTER TABLE outbox ADD CHECK (kind <> 'email.send')").execute(&store.pool).await.unwrap();
    register(&store.pool, &new("ada@shop.example"), |_| Ok(letter(Uuid::now_v7()))).await.unwrap_err();
    assert_eq!(count(&store.pool).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_register_with_an_address_at_once_one_gets_the_account_and_each_a_mail() {
    let store = TestStore::create().await;
    let registering = (0..10).map(|place| {
        let pool = store.pool.clone();
        let email = ["ada@shop.example", "Ada@Shop.Example"][place % 2];
        tokio::spawn(async move { register(&pool, &new(email), |_| Ok(letter(Uuid::now_v7()))).await.unwrap() })
    });
    let outcomes: Vec<_> = join_all(registering).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Registered::New).count(), 1);
    assert_eq!(count(&store.pool).await, (1, 10));
    assert!(id_of_address(&store.pool, "ADA@shop.example").await.unwrap().is_some());
}

#[tokio::test]
async fn a_password_is_replaced_only_if_it_is_the_one_that_was_seen() {
    let store = TestStore::create().await;
    let ada = new("ada@shop.example");
    register(&store.pool, &ada, |_| Ok(letter(Uuid::now_v7()))).await.unwrap();
    assert!(!replace_password(&store.pool, ada.id, "another hash", "new").await.unwrap());
    assert!(replace_password(&store.pool, ada.id, "a hash", "new").await.unwrap());
    let found = sign_in(&store.pool, ada.id).await.unwrap().unwrap();
    assert_eq!((found.password_hash.as_deref(), found.account.role), (Some("new"), Role::Customer));
    assert!(set_role(&store.pool, ada.id, Role::Staff, &[], "user-profile:1:a").await.unwrap());
    assert!(!set_role(&store.pool, Uuid::now_v7(), Role::Staff, &[], "user-profile:1:b").await.unwrap());
    assert_eq!(sign_in(&store.pool, ada.id).await.unwrap().unwrap().account.role, Role::Staff);
    assert_eq!(entries(&store.pool).await, ["user-profile:1:a"]);
}

#[tokio::test]
async fn with_a_role_goes_what_waits_of_the_kinds_that_it_was_for_also_what_is_being_sent() {
    let store = TestStore::create().await;
    let ada = new("ada@shop.example");
    register(&store.pool, &ada, |_| Ok(letter(Uuid::now_v7()))).await.unwrap();
    let put_as = async |owner: &str, kind: &str| {
        let (id, owner) = (Uuid::now_v7(), owner.to_owned());
        let job = NewJob { id, kind: kind.to_owned(), owner, caused_by: None, at: Utc::now() };
        put(&store.pool, &job, &NewOutboxRow { message: json!({}), due_at: None }).await.unwrap();
        id
    };
    let owner = ada.id.to_string();
    let being_sent = put_as(&owner, "report.render").await;
    let batch = take_due(&store.pool, 10).await.unwrap().unwrap();
    let waiting = put_as(&owner, "report.render").await;
    let kept = [(owner.as_str(), "order.place"), ("bob", "report.render")];
    let kept = [put_as(kept[0].0, kept[0].1).await, put_as(kept[1].0, kept[1].1).await];
    assert!(set_role(&store.pool, ada.id, Role::Customer, &["report.render"], "user-profile:1:a").await.unwrap());

    assert_eq!(find_job(&store.pool, waiting, &owner).await.unwrap().unwrap().state, JobState::Cancelled);
    let marks = [mark_of(&store.pool, waiting, 0).await.unwrap(), mark_of(&store.pool, being_sent, 0).await.unwrap()];
    assert_eq!(marks, [JobMark::Final, JobMark::CancelRequested]);
    for id in kept {
        assert_eq!(mark_of(&store.pool, id, 0).await.unwrap(), JobMark::Open);
    }
    drop(batch);
}
