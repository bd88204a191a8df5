//! Every service starts while a backing service is away, serves what it can, and is ready by itself once that is back.

use reqwest::StatusCode;
use serde_json::Value;

use crate::harness::{Member, alice, mail_arrived, sales, url};
use backing::containers::{Containers, copies_of, ours};

/// Every service of ours, started anew while `backing` was away: alive, and lacking just `parts`.
async fn started_without(backing: &Containers, parts: &[&str]) -> Containers {
    let ours = ours();
    ours.stop();
    backing.kill();
    ours.start();
    ours.alive().await;
    ours.lack(parts).await;
    ours
}

/// `backing` is back: everything is ready, and nothing was started again for it.
async fn recovered(backing: &Containers, ours: &Containers) {
    let starts = ours.starts();
    backing.start();
    ours.ready().await;
    assert_eq!(ours.starts(), starts);
    backing.healthy().await;
}

#[tokio::test]
async fn services_that_start_without_the_broker_take_work_and_do_it_once_it_is_back() {
    let caller = alice();
    let earlier = caller.accepted(&sales("2025-08-04", "2025-08-10")).await;
    caller.ended(&earlier).await;
    let broker = copies_of("rabbitmq");
    let parts = [
        "dispatcher publishing",
        "dispatcher topology",
        "email-worker consuming",
        "email-worker publishing",
        "email-worker topology",
        "order-worker consuming",
        "order-worker publishing",
        "order-worker topology",
        "pdf-report consuming",
        "pdf-report publishing",
        "pdf-report topology",
        "video-worker consuming",
        "video-worker publishing",
        "video-worker topology",
        "web publishing",
        "web topology",
        "web tracking",
        "web-2 publishing",
        "web-2 topology",
        "web-2 tracking",
    ];
    let ours = started_without(&broker, &parts).await;
    let mut ids = Vec::new();
    for web in [0, 1] {
        let caller = alice().at(web);
        ids.push(caller.accepted(&sales("2025-08-11", "2025-08-17")).await);
        assert_eq!(caller.job(&earlier).await["state"], "succeeded");
        assert!(caller.pdf(&earlier).await.starts_with(b"%PDF-"));
    }
    recovered(&broker, &ours).await;
    for id in &ids {
        assert_eq!(caller.ended(id).await["state"], "succeeded");
        mail_arrived(id).await;
    }
}

#[tokio::test]
async fn services_that_start_without_the_database_take_work_and_do_it_once_it_is_back() {
    let caller = alice();
    // Once asked while the database was there, web knows the token without it.
    assert_eq!(caller.get("/v1/schedules").await.status(), StatusCode::OK);
    let database = copies_of("postgres");
    let parts = [
        "dispatcher database",
        "email-worker consuming",
        "order-worker consuming",
        "pdf-report consuming",
        "video-worker consuming",
        "web database",
        "web-2 database",
    ];
    let ours = started_without(&database, &parts).await;
    let mut ids = Vec::new();
    for web in [0, 1] {
        let caller = alice().at(web);
        let response = caller.post("/v1/reports", &sales("2025-08-18", "2025-08-24")).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        let location = response.headers()["location"].to_str().unwrap();
        for web in [0, 1] {
            let shown: Value = alice().at(web).get(location).await.json().await.unwrap();
            assert_eq!(shown["state"], "queued", "by its copy");
        }
        ids.push(location.rsplit('/').next().unwrap().to_owned());
        assert_eq!(reqwest::get(url("/openapi.json")).await.unwrap().status(), StatusCode::OK);
    }
    recovered(&database, &ours).await;
    for id in &ids {
        assert_eq!(caller.ended(id).await["state"], "succeeded");
        mail_arrived(id).await;
    }
}

#[tokio::test]
async fn services_that_start_without_the_mail_server_make_reports_and_mail_them_once_it_is_back() {
    let caller = alice();
    let mail = copies_of("mail");
    let ours = started_without(&mail, &["email-worker consuming"]).await;
    let id = caller.accepted(&sales("2025-08-25", "2025-08-31")).await;
    assert_eq!(caller.ended(&id).await["state"], "succeeded");
    assert!(caller.pdf(&id).await.starts_with(b"%PDF-"));
    recovered(&mail, &ours).await;
    mail_arrived(&id).await;
}

#[tokio::test]
async fn services_that_start_without_redis_do_what_tokens_ask_for_show_products_and_sign_nobody_out() {
    let member = Member::sign_in().await;
    assert_eq!(member.status_at(0).await, StatusCode::OK);
    let redis = copies_of("redis-cache").and(copies_of("redis-durable"));
    let parts =
        ["dispatcher redis-cache", "web redis-cache", "web redis-durable", "web-2 redis-cache", "web-2 redis-durable"];
    let ours = started_without(&redis, &parts).await;
    for web in [0, 1] {
        let caller = alice().at(web);
        let id = caller.accepted(&sales("2025-09-01", "2025-09-07")).await;
        assert_eq!(caller.ended(&id).await["state"], "succeeded");
        assert!(caller.pdf(&id).await.starts_with(b"%PDF-"));
        mail_arrived(&id).await;
        let page: Value = caller.get("/v1/products?limit=1").await.json().await.unwrap();
        let product = page["products"][0]["links"]["self"].as_str().expect("a product");
        for path in [product, "/v1/products/top"] {
            assert_eq!(caller.get(path).await.status(), StatusCode::OK, "{path}");
        }
        assert_eq!(member.status_at(web).await, StatusCode::SERVICE_UNAVAILABLE, "neither believed nor signed out");
    }
    recovered(&redis, &ours).await;
    for web in [0, 1] {
        assert_eq!(member.status_at(web).await, StatusCode::OK, "signed in as before");
    }
}
