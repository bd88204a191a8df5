use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::harness::{Behind, Web};

/// The methods of a path's description, with the one that a GET brings along.
fn described(item: &Value) -> BTreeSet<String> {
    let methods: BTreeSet<String> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
    let head = methods.contains("GET").then(|| "HEAD".to_owned());
    methods.into_iter().chain(head).collect()
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let web = Web::start(Behind::nothing()).await;
    let description: Value = web.get("/openapi.json").await.json().await.unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    let items = description["paths"].as_object().unwrap();
    assert_eq!(items.keys().map(String::as_str).collect::<BTreeSet<_>>(), web::paths().into_iter().collect());
    for (path, item) in items {
        let url = web.url(&path.replace("{id}", "0"));
        // No route has this method: the answer says which it has.
        let answer = web.client.request(Method::TRACE, url).send().await.unwrap();
        let served: BTreeSet<String> =
            answer.headers()["allow"].to_str().unwrap().split(',').map(str::to_owned).collect();
        assert_eq!(served, described(item), "{path}");
    }
    web.stop().await;
}

#[tokio::test]
async fn what_can_go_wrong_is_described_too() {
    let web = Web::start(Behind::nothing()).await;
    let description: Value = web.get("/openapi.json").await.json().await.unwrap();
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation.get("security").is_none();
            let answers = operation["responses"].as_object().unwrap();
            assert_eq!(answers.contains_key("401"), !open, "{method} {path}");
            assert!(answers.contains_key("429"), "{method} {path}");
            assert_eq!(answers.contains_key("404"), path.contains("{id}"), "{method} {path}");
            let problems = answers.iter().filter(|(status, _)| status.starts_with(['4', '5']));
            for (status, answer) in problems {
                let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{method} {path} {status}");
            }
        }
    }
    web.stop().await;
}

#[tokio::test]
async fn the_description_changes_only_on_purpose() {
    let web = Web::start(Behind::nothing()).await;
    let description: Value = web.get("/openapi.json").await.json().await.unwrap();
    insta::assert_json_snapshot!("openapi", description);
    web.stop().await;
}
