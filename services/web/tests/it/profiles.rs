//! Profiles: whose, what they may hold, and that nobody is shown one from before a change.

use std::sync::atomic::{AtomicBool, Ordering};

use backing::{Database, Proxy, redis_url};
use cache::RedisSettings;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::harness::{
    ALICE, ALICE_ID, Behind, Member, Web, cache, database, end_entries, etag, insert_token, problem, secret_key, wait,
};

fn path(user: Uuid) -> String {
    format!("/v1/users/{user}")
}

async fn show(web: &Web, who: &Member, user: Uuid) -> Response {
    web.with_sid(Method::GET, &path(user), &who.sid).send().await.unwrap()
}

async fn name(web: &Web, who: &Member, user: Uuid) -> Value {
    let shown = show(web, who, user).await;
    assert_eq!(shown.status(), StatusCode::OK);
    shown.json::<Value>().await.unwrap()["name"].clone()
}

async fn change(web: &Web, who: &Member, user: Uuid, name: &str) -> Response {
    web.replace(&who.sid, &path(user), &json!({"name": name, "country": "FR"}), None).await
}

fn entry(user: Uuid) -> String {
    format!("user-profile:1:{user}")
}

/// Two copies of web with one Redis and one cache.
async fn two(database: &Database) -> (Web, Web, RedisSettings) {
    let (one, cache) = (Behind { cache: cache(), ..Behind::database(database) }, cache());
    let redis = one.redis.clone();
    let one = Web::start(Behind { cache: cache.clone(), ..one }).await;
    (one, Web::start(Behind { redis, cache: cache.clone(), ..Behind::database(database) }).await, cache)
}

#[tokio::test]
async fn one_looks_at_ones_own_profile_and_changes_what_was_seen() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    let ada = web.member("ada@shop.example").await;
    let shown = show(&web, &ada, ada.user).await;
    let first = etag(&shown);
    assert_eq!(
        (&shown.headers()["cache-control"], &shown.headers()["vary"]),
        (&"private, no-cache".parse().unwrap(), &"Authorization, Cookie".parse().unwrap())
    );
    let mut profile: Value = shown.json().await.unwrap();
    let since = profile.as_object_mut().unwrap().remove("created_at").unwrap();
    let expected =
        json!({"id": ada.user, "name": "Ada", "email": "ada@shop.example", "country": "DE", "role": "customer"});
    assert_eq!(profile, expected);

    let again = async |tags: &str| {
        web.with_sid(Method::GET, &path(ada.user), &ada.sid).header("if-none-match", tags).send().await.unwrap()
    };
    let same = again(&first).await;
    assert_eq!(
        (same.status(), etag(&same), same.text().await.unwrap()),
        (StatusCode::NOT_MODIFIED, first.clone(), String::new())
    );

    let put = async |name: &str, tags: Option<&str>| {
        web.replace(&ada.sid, &path(ada.user), &json!({"name": name, "country": "FR"}), tags).await
    };
    let changed = put("Grace", Some(&first)).await;
    assert_eq!((changed.status(), &changed.headers()["cache-control"]), (StatusCode::OK, &"no-store".parse().unwrap()));
    let second = etag(&changed);
    assert_ne!(second, first);
    let expected = json!({"id": ada.user, "name": "Grace", "email": "ada@shop.example", "country": "FR", "role": "customer",
        "created_at": since});
    assert_eq!(changed.json::<Value>().await.unwrap(), expected);
    assert_eq!(
        (again(&second).await.status(), again(&first).await.status()),
        (StatusCode::NOT_MODIFIED, StatusCode::OK)
    );
    assert_eq!(show(&web, &ada, ada.user).await.json::<Value>().await.unwrap(), expected);

    for old in [&first, "\"no tag\"", "7", &format!("W/{second}")] {
        problem(put("Eve", Some(old)).await, 412, "version-differs").await;
    }
    assert_eq!(name(&web, &ada, ada.user).await, "Grace");
    assert_eq!(put("Ada", Some(&format!("{first}, {second}"))).await.status(), StatusCode::OK);
    assert_eq!(put("Grace", Some("*")).await.status(), StatusCode::OK);
    assert_eq!(put("Ada", None).await.status(), StatusCode::OK);
    assert_eq!(web.left_to_end().await, vec![entry(ada.user); 4], "what changes nothing ends nothing");
    web.stop().await;
}

/// What a client can see of an answer.
async fn seen(response: Response) -> (u16, Vec<String>, String) {
    let names = response.headers().iter().filter(|(name, _)| !["date", "ratelimit"].contains(&name.as_str()));
    let headers = names.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    (response.status().as_u16(), headers, response.text().await.unwrap())
}

#[tokio::test]
async fn the_profiles_of_others_are_there_for_those_only_who_look_after_the_shop() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    let (ada, eve) = (web.member("ada@shop.example").await, web.member("eve@shop.example").await);
    let nobody = Uuid::now_v7();
    // Whether there is somebody: for those who may not know, the same.
    let unknown = seen(show(&web, &eve, nobody).await).await;
    assert_eq!(unknown.0, 404);
    assert_eq!(seen(show(&web, &eve, ada.user).await).await, unknown);
    assert_eq!(
        seen(change(&web, &eve, ada.user, "Eve").await).await,
        seen(change(&web, &eve, nobody, "Eve").await).await
    );
    problem(change(&web, &eve, ada.user, "Eve").await, 404, "not-found").await;
    let token =
        web.client.put(web.url(&path(ALICE_ID))).bearer_auth(ALICE).json(&json!({"name": "A", "country": "DE"}));
    problem(token.send().await.unwrap(), 403, "session-needed").await;
    problem(web.client.get(web.url(&path(ada.user))).send().await.unwrap(), 401, "unauthenticated").await;

    let staff = web.staff_member("sam@shop.example").await;
    assert_eq!(name(&web, &staff, ada.user).await, "Ada");
    problem(change(&web, &staff, ada.user, "Sam").await, 403, "role-missing").await;
    problem(show(&web, &staff, nobody).await, 404, "not-found").await;
    let operator = web.member_who_is("olga@shop.example", "operator").await;
    assert_eq!(name(&web, &operator, ada.user).await, "Ada", "nobody else has changed it");
    assert_eq!(change(&web, &operator, ada.user, "Adah").await.status(), StatusCode::OK);
    assert_eq!(name(&web, &ada, ada.user).await, "Adah");
    problem(change(&web, &operator, nobody, "Adah").await, 404, "not-found").await;
    for none in ["no-id", "%00", "..%2Fusers"] {
        let answer = web.with_sid(Method::GET, &format!("/v1/users/{none}"), &operator.sid).send().await.unwrap();
        problem(answer, 404, "not-found").await;
    }
    web.stop().await;
}

#[tokio::test]
async fn what_cannot_be_a_profile_is_refused_and_changes_nothing() {
    let database = database().await;
    let web = Web::start(Behind { cache: cache(), ..Behind::database(&database) }).await;
    let ada = web.member("ada@shop.example").await;
    let before = etag(&show(&web, &ada, ada.user).await);
    let put = async |body: &Value| web.replace(&ada.sid, &path(ada.user), body, None).await;
    for (field, value) in [
        ("name", json!("Ada\r\nBcc: eve@evil.example")),
        ("name", json!("Ada\0")),
        ("name", json!("Ada\u{7f}")),
        ("name", json!("a".repeat(101))),
        ("name", json!(" ")),
        ("name", json!(null)),
        ("name", json!(["Ada"])),
        ("country", json!("de")),
        ("country", json!("DEU")),
        ("country", json!("D\n")),
        ("country", json!("ÄÖ")),
        ("email", json!("eve@evil.example")),
        ("role", json!("operator")),
        ("id", json!(ALICE_ID)),
        ("version", json!(7)),
        ("password_hash", json!("x")),
    ] {
        let mut body = json!({"name": "Eve", "country": "FR"});
        body[field] = value;
        let told = problem(put(&body).await, 422, "validation").await;
        assert_eq!(told["errors"][0]["field"], field, "{told}");
        assert!(!told.to_string().contains("aaaa"), "what was sent is not repeated: {told}");
    }
    for (body, field) in
        [(json!({"name": "Eve"}), "country"), (json!({"country": "FR"}), "name"), (json!(["Eve", "FR"]), "")]
    {
        assert_eq!(problem(put(&body).await, 422, "validation").await["errors"][0]["field"], field);
    }
    let large = json!({"name": "Eve", "country": "FR", "more": "a".repeat(20_000)});
    problem(put(&large).await, 413, "body-too-large").await;
    let raw = web.with_sid(Method::PUT, &path(ada.user), &ada.sid).header("content-type", "application/json");
    problem(raw.body(r#"{"name":"Eve","name":"Ada","country":"FR"}"#).send().await.unwrap(), 422, "validation").await;
    assert_eq!(etag(&show(&web, &ada, ada.user).await), before);
    assert_eq!(web.left_to_end().await, [""; 0]);
    web.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_after_a_change_is_never_shown_what_was_before_it_by_any_process() {
    let database = database().await;
    let (one, two, _) = two(&database).await;
    let ada = one.member("ada@shop.example").await;
    for round in 0..25 {
        let changed = AtomicBool::new(false);
        // They keep it cached, and load it while it is being changed.
        let reading = async |web: &Web| {
            while !changed.load(Ordering::SeqCst) {
                name(web, &ada, ada.user).await;
            }
        };
        let writing = async {
            let new = format!("Ada the {round}th");
            assert_eq!(change(&one, &ada, ada.user, &new).await.status(), StatusCode::OK);
            assert_eq!((name(&two, &ada, ada.user).await, name(&one, &ada, ada.user).await), (json!(new), json!(new)));
            changed.store(true, Ordering::SeqCst);
        };
        tokio::join!(reading(&one), reading(&two), writing);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_profile_that_was_looked_at_once_is_shown_again_without_the_database_by_every_process() {
    let database = database().await;
    let (one, two, _) = two(&database).await;
    let (ada, staff) = (one.member("ada@shop.example").await, one.staff_member("sam@shop.example").await);
    let (known, nobody) = (show(&one, &ada, ada.user).await, Uuid::now_v7());
    let tag = etag(&known);
    problem(show(&one, &staff, nobody).await, 404, "not-found").await;
    two.pool.close().await;
    let again = show(&two, &ada, ada.user).await;
    assert_eq!((etag(&again), again.text().await.unwrap()), (tag.clone(), known.text().await.unwrap()));
    let same = two.with_sid(Method::GET, &path(ada.user), &ada.sid).header("if-none-match", tag).send().await.unwrap();
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    problem(show(&two, &staff, nobody).await, 404, "not-found").await;
    problem(show(&two, &staff, ALICE_ID).await, 503, "store-unavailable").await;
    problem(change(&two, &ada, ada.user, "Grace").await, 503, "store-unavailable").await;
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn while_the_cache_is_away_a_change_is_made_and_shown_and_its_end_left_to_the_dispatcher() {
    let database = database().await;
    let (proxy, cache) = (Proxy::start(&redis_url("cache")).await, cache());
    let there = Behind { cache: cache.clone(), ..Behind::database(&database) };
    let by_proxy = RedisSettings { url: proxy.url.as_str().into(), ..cache.clone() };
    let away = Behind { redis: there.redis.clone(), cache: by_proxy, ..Behind::database(&database) };
    let (away, there) = (Web::start(away).await, Web::start(there).await);
    let ada = away.member("ada@shop.example").await;
    assert_eq!((name(&away, &ada, ada.user).await, name(&there, &ada, ada.user).await), (json!("Ada"), json!("Ada")));
    proxy.cut(true);
    assert_eq!(change(&away, &ada, ada.user, "Grace").await.status(), StatusCode::OK);
    assert_eq!(name(&away, &ada, ada.user).await, "Grace");
    let left = away.left_to_end().await;
    assert_eq!(left, [entry(ada.user)]);
    // Whoever reaches it reads on until the dispatcher has done it.
    assert_eq!(name(&there, &ada, ada.user).await, "Ada");
    end_entries(&cache, &left).await;
    assert_eq!(name(&there, &ada, ada.user).await, "Grace");
    away.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_change_that_nobody_heard_the_end_of_is_shown_all_the_same() {
    let database = database().await;
    let (proxy, cache) = (Proxy::start(&database.url()).await, cache());
    let there = Behind { cache: cache.clone(), ..Behind::database(&database) };
    let redis = there.redis.clone();
    let there = Web::start(there).await;
    let by_proxy = Behind { database_url: proxy.url.clone(), redis, cache, ..Behind::database(&database) };
    let web = Web::start(by_proxy).await;
    let ada = there.member("ada@shop.example").await;
    assert_eq!(name(&there, &ada, ada.user).await, "Ada");
    // The commit waits for a lock, and its answer never comes.
    for statement in [
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON cache_invalidations DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait()",
    ] {
        sqlx::raw_sql(statement).execute(&there.pool).await.unwrap();
    }
    let mut holding = there.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7)").execute(&mut *holding).await.unwrap();
    let meanwhile = async {
        let waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
        let waits = async || sqlx::query_scalar(waiting).fetch_one(&there.pool).await.unwrap();
        wait("the commit waits", waits).await;
        proxy.hold_answers(true);
        holding.rollback().await.unwrap();
        // It is committed, and what was cached of it may be loaded again or not.
        wait("it is committed", async || there.left_to_end().await.len() == 1).await;
    };
    let (changed, ()) = tokio::join!(change(&web, &ada, ada.user, "Grace"), meanwhile);
    problem(changed, 503, "store-unavailable").await;
    assert_eq!(name(&there, &ada, ada.user).await, "Grace");
    proxy.hold_answers(false);
    web.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn tokens_go_by_a_new_name_also_those_that_were_looked_up_while_it_was_being_changed() {
    let database = database().await;
    let (one, two, _) = two(&database).await;
    let ada = one.member("ada@shop.example").await;
    let token = "a-token-of-a-machine-of-adas";
    insert_token(&one.pool, ada.user, token).await;
    let known = async || {
        assert_eq!(two.status_of_token(token).await, 200);
        let kept = two.kept(&secret_key("token", token)).await.unwrap();
        serde_json::from_str::<Value>(&kept).unwrap()["person"]["name"].clone()
    };
    assert_eq!(known().await, "Ada");
    // The change gets as far as the row, and waits there.
    let mut holding = one.pool.begin().await.unwrap();
    let lock = AssertSqlSafe(format!("SELECT FROM users WHERE id = '{}' FOR UPDATE", ada.user));
    sqlx::query(lock).execute(&mut *holding).await.unwrap();
    let meanwhile = async {
        let generation = format!("account-generation:{}", ada.user);
        wait("what was known is ended for the first time", async || one.kept(&generation).await.is_some()).await;
        assert_eq!(known().await, "Ada");
        holding.rollback().await.unwrap();
    };
    let (changed, ()) = tokio::join!(change(&one, &ada, ada.user, "Grace"), meanwhile);
    assert_eq!(changed.status(), StatusCode::OK);
    assert_eq!(known().await, "Grace");
    assert_eq!((one.status_of(&ada.sid).await, two.status_of(&ada.sid).await), (200, 200), "its sessions go on");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn another_role_shows_in_the_profile_at_once() {
    let database = database().await;
    let (one, two, _) = two(&database).await;
    let ada = one.member("ada@shop.example").await;
    let operator = one.member_who_is("olga@shop.example", "operator").await;
    let shown = show(&two, &operator, ada.user).await;
    let tag = etag(&shown);
    assert_eq!(shown.json::<Value>().await.unwrap()["role"], "customer");
    let role = format!("/v1/users/{}/role", ada.user);
    let put = one.with_sid(Method::PUT, &role, &operator.sid).json(&json!({"role": "staff"})).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::NO_CONTENT);
    let shown = show(&two, &operator, ada.user).await;
    assert_ne!(etag(&shown), tag);
    assert_eq!(shown.json::<Value>().await.unwrap()["role"], "staff");
    assert_eq!(one.left_to_end().await, [entry(ada.user)]);
    one.stop().await;
    two.stop().await;
}
