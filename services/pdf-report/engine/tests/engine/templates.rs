//! What a template may not do, and what it is told.

use std::collections::BTreeMap;

use pdf_report::protocol::{Diagnostic, FileContent, Request};
use pdf_report::renderer::{Excess, Limits, RenderError, Renderer};

use super::{ENGINE, own_limits, render, request, standard_request};

/// What is wrong with a request.
async fn diagnostics(request: &Request) -> Vec<Diagnostic> {
    match render(request).await {
        Err(RenderError::Template { diagnostics }) => diagnostics,
        other => panic!("expected a template error, not {other:?}"),
    }
}

async fn message(template: &str) -> String {
    diagnostics(&request(template)).await[0].to_string()
}

#[tokio::test]
async fn an_error_names_file_line_column_and_hint() {
    let files = BTreeMap::from([
        ("/main.typ".to_owned(), FileContent::Text("#import \"/part.typ\": *\n= Title".to_owned())),
        ("/part.typ".to_owned(), FileContent::Text("// ä\n#let a = 1\n  #let b = a-c".to_owned())),
    ]);
    let found = diagnostics(&Request { files, ..request("") }).await;
    assert_eq!(found.len(), 1);
    let Diagnostic { message, file, line, column, hints } = &found[0];
    assert_eq!(message, "unknown variable: a-c");
    assert_eq!((file.as_deref(), *line, *column), (Some("/part.typ"), Some(3), Some(12)));
    assert!(hints[0].contains("subtraction"), "{hints:?}");
}

#[tokio::test]
async fn an_error_in_the_data_names_the_data() {
    let text = diagnostics(&request("#json(\"/main.typ\")")).await[0].to_string();
    assert!(text.starts_with("/main.typ:1:") && text.contains("failed to parse JSON"), "{text}");
}

#[tokio::test]
async fn a_thousand_errors_are_reported_as_a_few() {
    let template = "#let = 1\n".repeat(1_000);
    assert_eq!(diagnostics(&request(&template)).await.len(), 20);
}

#[tokio::test]
async fn a_template_reads_no_file_but_its_own() {
    for path in ["/etc/passwd", "/proc/self/environ", "/other.typ", "secret"] {
        let message = message(&format!("#read(\"{path}\")")).await;
        assert!(message.contains("file not found"), "{path}: {message}");
    }
    let message = message("#read(\"../../etc/passwd\")").await;
    assert!(message.contains("escape"), "{message}");
}

#[tokio::test]
async fn a_template_reaches_no_network() {
    let message = message("#image(\"https://shop.example/logo.png\")").await;
    assert!(message.contains("file not found") || message.contains("network"), "{message}");
}

#[tokio::test]
async fn an_image_inside_a_drawing_is_not_followed() {
    let svg = r#"<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="/etc/hostname"/></svg>"#;
    let files = BTreeMap::from([
        ("/main.typ".to_owned(), FileContent::Text("#image(\"/a.svg\")".to_owned())),
        ("/a.svg".to_owned(), FileContent::Text(svg.to_owned())),
    ]);
    let found = diagnostics(&Request { files, ..request("") }).await;
    assert!(found[0].message.contains("failed to load linked image"), "{found:?}");
}

#[tokio::test]
async fn a_template_gets_no_packages() {
    let message = message("#import \"@preview/cetz:0.3.0\"").await;
    assert!(message.contains("there are no packages"), "{message}");
}

#[tokio::test]
async fn a_template_has_no_plugins() {
    for name in ["plugin", "std.plugin"] {
        let message = message(&format!("#{name}(bytes(()))")).await;
        assert!(
            message.contains("unknown variable: plugin") || message.contains("does not contain"),
            "{name}: {message}"
        );
    }
    let message = message("#eval(\"plugin\")").await;
    assert!(message.contains("unknown variable: plugin"), "{message}");
}

#[tokio::test]
async fn endless_templates_end_with_an_error() {
    for (template, expected) in [
        ("#while true {}", "condition is always true"),
        ("#let n = 0\n#while n < 1 { n = n * 2 }", "infinite"),
        ("#let f() = f()\n#f()", "maximum function call depth exceeded"),
        ("#show heading: _ => [= again]\n= once", "maximum show rule depth exceeded"),
    ] {
        let message = message(template).await;
        assert!(message.contains(expected), "{template}: {message}");
    }
}

#[tokio::test]
async fn deeply_nested_text_does_not_overflow_the_stack() {
    let nested = format!("#{}{}", "(".repeat(5_000), ")".repeat(5_000));
    assert!(message(&nested).await.contains("depth"));
    let nested = format!("{}x{}", "#box[".repeat(3_000), "]".repeat(3_000));
    assert!(message(&nested).await.contains("depth"));
}

#[tokio::test]
async fn pages_without_end_meet_a_limit() {
    // 10,000 pages fit into the memory, a million do not.
    let limits = Limits { memory_bytes: own_limits().memory_bytes / 4, ..Limits::default() };
    let renderer = Renderer::new(ENGINE, 0, limits);
    let error = renderer.render(&request("#for i in range(10000) { pagebreak() }"), |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::TooLarge(Excess::Pages { pages: 10_001, .. })), "{error}");
    let error = renderer.render(&request("#for i in range(1000000) { pagebreak() }"), |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::OutOfMemory { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_request_is_a_template_error() {
    let text = |path: &str| (path.to_owned(), FileContent::Text("a".to_owned()));
    for (request, expected) in [
        (Request { main: "/other.typ".to_owned(), ..request("a") }, "main file /other.typ is not among"),
        (Request { files: BTreeMap::from([text("main.typ")]), ..request("a") }, "does not begin with /"),
        (Request { files: BTreeMap::from([text("/main.typ"), text("/data.json")]), ..request("a") }, "given twice"),
        (
            Request {
                files: BTreeMap::from([("/main.typ".to_owned(), FileContent::Base64("!".to_owned()))]),
                ..request("a")
            },
            "not base64",
        ),
    ] {
        let found = diagnostics(&request).await;
        assert!(found[0].message.contains(expected), "{found:?}");
    }
}

#[tokio::test]
async fn a_document_that_would_break_its_standard_is_refused() {
    let found = diagnostics(&standard_request("#figure(rect())")).await;
    assert!(found[0].message.contains("alt"), "{found:?}");
    let found = diagnostics(&standard_request("🎉")).await;
    assert!(found[0].message.contains("could not be displayed"), "{found:?}");
}
