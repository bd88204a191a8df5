use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Caller, alice, bob, database, sales, url};

/// What is wrong, content type, body, status, the field that is named.
type Row = (&'static str, &'static str, Vec<u8>, StatusCode, Option<&'static str>);

#[tokio::test]
async fn bad_input_gets_a_problem_that_says_what_is_wrong_and_nothing_is_enqueued() {
    let caller = alice();
    let mut database = database().await;
    let count = "SELECT count(*) FROM jobs WHERE kind = 'report.render'";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut database).await.unwrap();
    let good = sales("2025-03-01", "2025-03-31").to_string().into_bytes();
    let unknown = json!({"report": "sales", "period": {"from": "2025-03-01", "to": "2025-03-31"}, "colour": "red"});
    let impossible = sales("2025-03-31", "2025-03-01");
    let huge = sales("2025-03-01", &"x".repeat(100_000));
    let rows: [Row; 6] = [
        ("wrong content type", "text/plain", good, StatusCode::UNSUPPORTED_MEDIA_TYPE, None),
        ("malformed", "application/json", b"{\"report\":".to_vec(), StatusCode::BAD_REQUEST, None),
        ("empty", "application/json", Vec::new(), StatusCode::BAD_REQUEST, None),
        (
            "unknown field",
            "application/json",
            unknown.to_string().into_bytes(),
            StatusCode::UNPROCESSABLE_ENTITY,
            Some("colour"),
        ),
        (
            "impossible period",
            "application/json",
            impossible.to_string().into_bytes(),
            StatusCode::UNPROCESSABLE_ENTITY,
            Some("period"),
        ),
        ("oversized", "application/json", huge.to_string().into_bytes(), StatusCode::PAYLOAD_TOO_LARGE, None),
    ];
    for (what, content_type, body, status, named) in rows {
        let response = caller.post_raw("/v1/reports", content_type, body).await;
        assert_eq!(response.status(), status, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status.as_u16(), "{what}: {problem}");
        if let Some(field) = named {
            assert!(problem["errors"].to_string().contains(field), "{what}: {problem}");
        }
    }
    // A job that slipped through would be done before this one.
    let id = caller.accepted(&sales("2025-03-03", "2025-03-09")).await;
    caller.ended(&id).await;
    let after: i64 = sqlx::query_scalar(count).fetch_one(&mut database).await.unwrap();
    assert_eq!(before + 1, after);
}

#[tokio::test]
async fn a_caller_sees_its_own_jobs_and_reports_only() {
    let id = alice().accepted(&sales("2025-02-01", "2025-02-07")).await;
    alice().ended(&id).await;
    for path in [format!("/v1/jobs/{id}"), format!("/v1/jobs/{id}/events"), format!("/v1/reports/{id}/pdf")] {
        assert_eq!(bob().get(&path).await.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(Caller::new("nobody").get(&path).await.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(Client::new().get(url(&path)).send().await.unwrap().status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}
