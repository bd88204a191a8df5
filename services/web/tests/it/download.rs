use chrono::{TimeDelta, Utc};
use reqwest::{Response, StatusCode};
use serde_json::json;
use store::files::report_key;
use store::jobs::JobEventType as Type;
use uuid::Uuid;

use crate::harness::{ALICE, Behind, Told, Web, database, problem};

/// Larger than one piece of a stream.
fn pdf() -> Vec<u8> {
    b"%PDF-1.7 ".iter().copied().cycle().take(3_000_000).collect()
}

async fn by_link(web: &Web, id: Uuid, expires: chrono::DateTime<Utc>) -> (String, Response) {
    let url = web.links.url_for_report(id, expires);
    let path = format!("{}?{}", url.path(), url.query().unwrap());
    let response = web.client.get(web.url(&path)).send().await.unwrap();
    (path, response)
}

#[tokio::test]
async fn the_owner_downloads_a_report_under_a_name_of_its_own() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = Told::queued(&web).await;
    let path = format!("/v1/reports/{}/pdf", job.id);
    problem(web.get(&path).await, 404, "not-found").await;

    web.files.put(&report_key(job.id), pdf().into()).await.unwrap();
    job.tell(Type::Succeeded, json!({"result": {"name": "sales-2025-11-01--2025-11-30.pdf"}})).await;
    let response = web.get(&path).await;
    let headers = response.headers().clone();
    assert_eq!(headers["content-type"], "application/pdf");
    assert_eq!(headers["content-length"], "3000000");
    assert_eq!(headers["content-disposition"], "attachment; filename=\"sales-2025-11-01--2025-11-30.pdf\"");
    assert_eq!(headers["cache-control"], "private, no-cache");
    assert!(response.bytes().await.unwrap() == pdf());

    let again = web
        .client
        .get(web.url(&path))
        .bearer_auth(ALICE)
        .header("if-none-match", &headers["etag"])
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
    let head = web.client.head(web.url(&path)).bearer_auth(ALICE).send().await.unwrap();
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &headers["content-length"]));
    web.stop().await;
}

#[tokio::test]
async fn a_signed_link_opens_its_report_without_a_token_or_a_database() {
    let web = Web::start(Behind::nothing()).await;
    let id = Uuid::now_v7();
    let tomorrow = Utc::now() + TimeDelta::days(1);
    problem(by_link(&web, id, tomorrow).await.1, 404, "not-found").await;
    web.files.put(&report_key(id), pdf().into()).await.unwrap();
    let (_, response) = by_link(&web, id, tomorrow).await;
    assert_eq!(response.headers()["content-disposition"], format!("attachment; filename=\"report-{id}.pdf\""));
    assert!(response.bytes().await.unwrap() == pdf());
    web.stop().await;
}

#[tokio::test]
async fn a_link_that_was_changed_or_has_expired_opens_nothing() {
    let web = Web::start(Behind::nothing()).await;
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    for id in [id, other] {
        web.files.put(&report_key(id), pdf().into()).await.unwrap();
    }
    problem(by_link(&web, id, Utc::now()).await.1, 403, "link-expired").await;
    let (path, _) = by_link(&web, id, Utc::now() + TimeDelta::days(1)).await;
    let changed = [
        path.replace(&id.to_string(), &other.to_string()),
        path.replace("expires=", "expires=9"),
        path.replace("expires=", "expires=x"),
        format!("{path}0"),
        path.replace("expires", "until"),
    ];
    for path in changed {
        problem(web.client.get(web.url(&path)).send().await.unwrap(), 403, "link-invalid").await;
    }
    let (bare, _) = path.split_once('?').unwrap();
    problem(web.client.get(web.url(bare)).send().await.unwrap(), 401, "unauthenticated").await;
    web.stop().await;
}
