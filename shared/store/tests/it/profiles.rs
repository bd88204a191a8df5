//! Profiles: read, and changed as they were seen.

use futures_util::future::join_all;
use sqlx::PgPool;
use store::accounts::{Role, set_role};
use store::profiles::{NewProfile, Profile, find, replace};
use store::versions::Replaced;
use uuid::Uuid;

use crate::TestStore;
use crate::cache_invalidations::entries;

const ADA: Uuid = Uuid::from_u128(10);
const ENTRY: &str = "user-profile:1:ada";

async fn with_ada() -> TestStore {
    let store = TestStore::create().await;
    let insert = "INSERT INTO users (id, name, email, country) VALUES ($1, 'Ada', 'ada@shop.example', 'DE')";
    sqlx::query(insert).bind(ADA).execute(&store.pool).await.unwrap();
    store
}

async fn change(pool: &PgPool, id: Uuid, name: &str, versions: Option<&[i64]>) -> Replaced<Profile> {
    let new = NewProfile { name: name.to_owned(), country: "FR".to_owned() };
    replace(pool, id, &new, versions, ENTRY).await.unwrap()
}

#[tokio::test]
async fn a_profile_is_changed_as_it_was_seen_and_its_entry_named_with_the_change() {
    let store = with_ada().await;
    let seen = find(&store.pool, ADA).await.unwrap().unwrap();
    assert_eq!((seen.name.as_str(), seen.country.as_str(), seen.role), ("Ada", "DE", Role::Customer));
    let Replaced::Done(changed) = change(&store.pool, ADA, "Grace", Some(&[77, seen.version])).await else {
        panic!("it was changed");
    };
    assert_eq!((changed.name.as_str(), changed.country.as_str(), &*changed.email), ("Grace", "FR", "ada@shop.example"));
    assert!(changed.version > seen.version);
    assert_eq!(find(&store.pool, ADA).await.unwrap().unwrap(), changed);
    assert_eq!(entries(&store.pool).await, [ENTRY]);

    assert_eq!(change(&store.pool, ADA, "Eve", Some(&[seen.version])).await, Replaced::Differs);
    assert_eq!(change(&store.pool, ADA, "Eve", Some(&[])).await, Replaced::Differs);
    assert_eq!(change(&store.pool, Uuid::from_u128(11), "Eve", None).await, Replaced::Missing);
    assert_eq!(find(&store.pool, ADA).await.unwrap().unwrap(), changed);
    assert_eq!(entries(&store.pool).await, [ENTRY], "what changes nothing ends nothing");
    assert!(matches!(change(&store.pool, ADA, "Ada", None).await, Replaced::Done(_)));
}

#[tokio::test]
async fn a_change_whose_entry_cannot_be_named_is_not_made() {
    let store = with_ada().await;
    let seen = find(&store.pool, ADA).await.unwrap();
    let new = NewProfile { name: "Grace".to_owned(), country: "FR".to_owned() };
    replace(&store.pool, ADA, &new, None, "no name of an entry").await.unwrap_err();
    set_role(&store.pool, ADA, Role::Operator, &[], "no name of an entry").await.unwrap_err();
    assert_eq!(find(&store.pool, ADA).await.unwrap(), seen);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_change_the_same_version_at_once_one_does() {
    let store = with_ada().await;
    let seen = find(&store.pool, ADA).await.unwrap().unwrap().version;
    let changing = (0..8).map(|place| {
        let pool = store.pool.clone();
        tokio::spawn(async move { change(&pool, ADA, &format!("Ada {place}"), Some(&[seen])).await })
    });
    let outcomes: Vec<_> = join_all(changing).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Replaced::Done(_))).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Replaced::Differs).count(), 7);
    assert_eq!(entries(&store.pool).await, [ENTRY]);
}

#[tokio::test]
async fn a_version_grows_with_what_a_profile_shows_whoever_changes_it_and_with_nothing_else() {
    let store = with_ada().await;
    let version = async || find(&store.pool, ADA).await.unwrap().unwrap().version;
    let first = version().await;
    assert!(set_role(&store.pool, ADA, Role::Staff, &[], ENTRY).await.unwrap());
    let second = version().await;
    assert!(second > first);
    sqlx::query("UPDATE users SET role = 'operator'").execute(&store.pool).await.unwrap();
    let third = version().await;
    assert!(third > second, "by hand");
    sqlx::query("UPDATE users SET password_hash = 'a hash'").execute(&store.pool).await.unwrap();
    assert_eq!(version().await, third);
    assert_eq!(entries(&store.pool).await, [ENTRY]);
}
