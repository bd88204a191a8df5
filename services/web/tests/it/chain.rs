//! What a job caused, on its page, and what caused it.

use backing::Proxy;
use chrono::Utc;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use store::jobs::{JobEventType as Type, NewJob};
use store::outbox::{NewOutboxRow, Outcome};
use uuid::Uuid;

use crate::harness::{ALICE, ALICE_ID, BOB, BOB_ID, Behind, Told, Web, database, no_redis, problem, wait};

async fn show(web: &Web, path: &str) -> Value {
    let response = web.get(path).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

/// The page, for whoever holds an earlier one.
async fn show_if_new(web: &Web, path: &str, etag: &str) -> Response {
    web.client.get(web.url(path)).bearer_auth(ALICE).header("if-none-match", etag).send().await.unwrap()
}

async fn etag(web: &Web, path: &str) -> String {
    web.get(path).await.headers()["etag"].to_str().unwrap().to_owned()
}

/// As the page of the job that caused it shows it.
fn mail(id: Uuid, state: &str) -> Value {
    json!([{"id": id, "kind": "email.send", "state": state, "link": format!("/v1/jobs/{id}")}])
}

#[tokio::test]
async fn a_jobs_page_shows_what_it_caused_as_it_stands_and_that_ones_page_what_caused_it_at_every_process() {
    let database = database().await;
    let behind = || Behind::database(&database);
    let (web, other) = tokio::join!(Web::start(behind()), Web::start(behind()));
    let deciding = Web::start(Behind { cache: no_redis(), ..behind() }).await;
    let webs = [&web, &other, &deciding];
    let mut report = Told::queued(&web).await;
    for web in webs {
        let shown = show(web, &report.path()).await;
        assert_eq!((&shown["caused_by"], &shown["caused"]), (&json!(null), &json!([])));
    }
    // The mail is asked for before the report is done, and its row comes when somebody first tells of it.
    report.tell(Type::Succeeded, json!({"result": null})).await;
    let mut known = etag(&web, &report.path()).await;
    for web in webs {
        assert_eq!(show_if_new(web, &report.path(), &known).await.status(), StatusCode::NOT_MODIFIED);
    }
    let mut sending = Told::caused_by(&web, report.id, ALICE_ID);
    for (event, state) in [(Type::Started, "running"), (Type::Succeeded, "succeeded")] {
        sending.tell(event, json!({"result": null})).await;
        for web in webs {
            let shown = show_if_new(web, &report.path(), &known).await;
            assert_eq!(shown.status(), StatusCode::OK, "{state}");
            assert_eq!(shown.json::<Value>().await.unwrap()["caused"], mail(sending.id, state));
        }
        known = etag(&other, &report.path()).await;
        for web in webs {
            assert_eq!(show_if_new(web, &report.path(), &known).await.status(), StatusCode::NOT_MODIFIED);
        }
    }
    for web in webs {
        let shown = show(web, &sending.path()).await;
        assert_eq!((&shown["caused_by"], &shown["links"]["caused_by"]), (&json!(report.id), &json!(report.path())));
        assert_eq!(shown["caused"], json!([]));
    }
    for web in [web, other, deciding] {
        web.stop().await;
    }
}

#[tokio::test]
async fn nobody_is_shown_what_others_caused_or_have_caused() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut report = Told::queued(&web).await;
    report.tell(Type::Succeeded, json!({"result": null})).await;
    let mut bobs = Told::caused_by(&web, report.id, BOB_ID);
    bobs.tell(Type::Succeeded, json!({"result": null})).await;
    let shown = show(&web, &report.path()).await;
    assert_eq!(shown["caused"], json!([]));
    problem(web.get(&bobs.path()).await, 404, "not-found").await;
    let theirs = web.client.get(web.url(&bobs.path())).bearer_auth(BOB).send().await.unwrap();
    assert_eq!(theirs.status(), StatusCode::OK);
    let theirs = theirs.text().await.unwrap();
    assert!(!theirs.contains(&report.id.to_string()), "{theirs}");
    web.stop().await;
}

#[tokio::test]
async fn without_the_database_a_page_shows_what_is_known_and_comes_also_where_what_was_caused_is_not() {
    let database = database().await;
    let proxy = Proxy::start(&database.url()).await;
    let behind = || Behind { database_url: proxy.url.clone(), ..Behind::database(&database) };
    let (web, other) = tokio::join!(Web::start(behind()), Web::start(behind()));
    let (mut seen, mut unseen) = (Told::queued(&web).await, Told::queued(&web).await);
    let mut mails = Vec::new();
    for report in [&mut seen, &mut unseen] {
        show(&web, &report.path()).await;
        report.tell(Type::Succeeded, json!({"result": null})).await;
        let mut sending = Told::caused_by(&web, report.id, ALICE_ID);
        sending.tell(Type::Succeeded, json!({"result": null})).await;
        mails.push(sending.id);
    }
    let copied = show(&web, &seen.path()).await;
    assert_eq!(copied["caused"], mail(mails[0], "succeeded"));
    let known = etag(&web, &seen.path()).await;
    proxy.cut(true);
    wait("the loss is noticed", async || !web.listening() && !other.listening()).await;
    let mut unknown = String::new();
    for web in [&web, &other] {
        assert_eq!(show(web, &seen.path()).await, copied, "it costs no database");
        assert_eq!(show_if_new(web, &seen.path(), &known).await.status(), StatusCode::NOT_MODIFIED);
        let shown = show(web, &unseen.path()).await;
        assert_eq!((&shown["state"], &shown["caused"]), (&json!("succeeded"), &json!(null)));
        unknown = etag(web, &unseen.path()).await;
    }
    proxy.cut(false);
    wait("the database is heard again", async || web.listening() && other.listening()).await;
    for web in [web, other] {
        let shown = show_if_new(&web, &unseen.path(), &unknown).await;
        assert_eq!(shown.status(), StatusCode::OK);
        assert_eq!(shown.json::<Value>().await.unwrap()["caused"], mail(mails[1], "succeeded"));
        web.stop().await;
    }
}

#[tokio::test]
async fn what_was_caused_in_one_transaction_with_a_jobs_end_and_what_becomes_of_it_in_the_outbox_is_seen() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut order = Told::queued_as(&web, "order.place").await;
    assert_eq!(show(&web, &order.path()).await["caused"], json!([]));
    let id = Uuid::now_v7();
    let (kind, owner) = ("email.send".to_owned(), ALICE_ID.to_string());
    let job = NewJob { id, kind, owner, caused_by: Some(order.id), at: Utc::now() };
    let row = NewOutboxRow { message: Value::Null, due_at: None };
    store::outbox::put(&web.pool, &job, &row).await.unwrap();
    order.tell(Type::Succeeded, json!({"result": null})).await;
    assert_eq!(show(&web, &order.path()).await["caused"], mail(id, "queued"));
    let known = etag(&web, &order.path()).await;
    // The dispatcher tells the database alone.
    let batch = store::outbox::take_due(&web.pool, 1).await.unwrap().unwrap();
    batch.finish(&[(id, Outcome::SetAside { reason: "no job".to_owned() })]).await.unwrap();
    let shown = show_if_new(&web, &order.path(), &known).await;
    assert_eq!(shown.status(), StatusCode::OK);
    assert_eq!(shown.json::<Value>().await.unwrap()["caused"], mail(id, "dead"));
    web.stop().await;
}
