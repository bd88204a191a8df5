//! The pool of children: what each way for a child to end becomes, and that no child stays behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pdf_report::protocol::OutputLimits;
use pdf_report::renderer::{Excess, Limits, Progress, RenderError, Renderer};
use rustix::process::{Signal, kill_process};

use super::{ENDLESS, ENGINE, children, own_limits, request, until};

#[tokio::test]
async fn a_document_arrives_after_its_progress() {
    let mut progress = Vec::new();
    let renderer = Renderer::new(ENGINE, 0, own_limits());
    let three_pages = request("one #pagebreak() two #pagebreak() three");
    let rendered = renderer.render(&three_pages, |step| progress.push(step)).await.unwrap();
    assert_eq!(progress, [Progress::Started, Progress::LaidOut { pages: 3 }]);
    assert_eq!(rendered.pages, 3);
    assert_eq!(lopdf::Document::load_mem(&rendered.pdf).unwrap().get_pages().len(), 3);
}

#[tokio::test]
async fn an_engine_that_is_not_there_or_is_none_is_found_out_before_the_first_report() {
    Renderer::new(ENGINE, 0, own_limits()).check().await.unwrap();
    for other in ["/nowhere", "/bin/false"] {
        assert!(Renderer::new(other, 0, own_limits()).check().await.is_err(), "{other} makes documents");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_booted_ahead_and_each_makes_one_document() {
    let limits = own_limits();
    let renderer = Renderer::new(ENGINE, 2, limits);
    until("two children wait", || renderer.idle() == 2).await;
    let before = children(&limits);
    renderer.render(&request("a"), |_| {}).await.unwrap();
    renderer.render(&request("b"), |_| {}).await.unwrap();
    until("two children wait again", || renderer.idle() == 2).await;
    assert!(children(&limits).iter().all(|child| !before.contains(child)), "a child made two documents");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_made_at_once_do_not_mix() {
    let renderer = Renderer::new(ENGINE, 1, own_limits());
    let pages = |count: usize| request(&vec!["page"; count].join(" #pagebreak() "));
    let [one, two, three] = [pages(1), pages(2), pages(3)];
    let (one, two, three) =
        tokio::join!(renderer.render(&one, |_| {}), renderer.render(&two, |_| {}), renderer.render(&three, |_| {}));
    assert_eq!([one, two, three].map(|rendered| rendered.unwrap().pages), [1, 2, 3]);
}

#[tokio::test]
async fn a_template_without_end_is_killed_when_its_time_is_over() {
    let limits = Limits { wall: Duration::from_millis(300), ..own_limits() };
    let error = Renderer::new(ENGINE, 0, limits).render(&request(ENDLESS), |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::TimedOut { clock: "wall", .. }), "{error}");
    assert!(children(&limits).is_empty(), "the child was left running");
}

#[tokio::test]
async fn a_template_that_burns_its_processor_time_is_ended_by_the_kernel() {
    let limits = Limits { cpu: Duration::from_secs(1), ..own_limits() };
    let error = Renderer::new(ENGINE, 0, limits).render(&request(ENDLESS), |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::TimedOut { clock: "cpu", .. }), "{error}");
}

#[tokio::test]
async fn a_template_that_wants_all_memory_is_out_of_memory() {
    let error =
        Renderer::new(ENGINE, 0, own_limits()).render(&request("#range(100000000).len()"), |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::OutOfMemory { .. }), "{error}");
}

#[tokio::test]
async fn more_pages_than_allowed_are_too_large() {
    let limits = OutputLimits { pages: 2, ..OutputLimits::default() };
    let request = pdf_report::protocol::Request { limits, ..request("a #pagebreak() b #pagebreak() c") };
    let error = Renderer::new(ENGINE, 0, own_limits()).render(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::TooLarge(Excess::Pages { pages: 3, limit: 2 })), "{error}");
}

#[tokio::test]
async fn more_bytes_than_allowed_are_too_large() {
    let limits = OutputLimits { bytes: 1_000, ..OutputLimits::default() };
    let request = pdf_report::protocol::Request { limits, ..request("a") };
    let error = Renderer::new(ENGINE, 0, own_limits()).render(&request, |_| {}).await.unwrap_err();
    assert!(matches!(error, RenderError::TooLarge(Excess::Bytes { limit: 1_000, .. })), "{error}");
}

#[tokio::test]
async fn a_dropped_render_kills_its_child() {
    let limits = own_limits();
    let renderer = Renderer::new(ENGINE, 0, limits);
    let request = request(ENDLESS);
    let started = AtomicBool::new(false);
    {
        // Before it has the request, a child would end by itself.
        let has_request = until("the child has its request", || started.load(Ordering::Relaxed));
        let render = renderer.render(&request, |_| started.store(true, Ordering::Relaxed));
        tokio::select! {
            outcome = render => panic!("an endless template ended: {outcome:?}"),
            () = has_request => {}
        }
    }
    until("the child is gone", || children(&limits).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_renderer_leaves_no_waiting_children() {
    let limits = own_limits();
    let renderer = Renderer::new(ENGINE, 2, limits);
    until("two children wait", || renderer.idle() == 2).await;
    drop(renderer);
    until("both are gone", || children(&limits).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_died_while_it_waited_is_replaced() {
    let limits = own_limits();
    let renderer = Renderer::new(ENGINE, 1, limits);
    until("a child waits", || renderer.idle() == 1).await;
    let child = children(&limits)[0];
    kill_process(child, Signal::KILL).unwrap();
    let stat = format!("/proc/{}/stat", child.as_raw_nonzero());
    until("its end can be seen", || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") Z "))).await;
    assert_eq!(renderer.render(&request("a"), |_| {}).await.unwrap().pages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_killed_at_work_has_crashed() {
    let limits = own_limits();
    let renderer = Renderer::new(ENGINE, 0, limits);
    let request = request(ENDLESS);
    let (started, started_seen) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let on_progress = move |_| {
        if let Some(started) = started.take() {
            started.send(()).unwrap();
        }
    };
    let (outcome, ()) = tokio::join!(renderer.render(&request, on_progress), async {
        started_seen.await.unwrap();
        kill_process(children(&limits)[0], Signal::KILL).unwrap();
    });
    let error = outcome.unwrap_err();
    assert!(matches!(&error, RenderError::Crashed { status, .. } if status.contains("signal: 9")), "{error}");
}

/// The message of an error with its cause.
async fn unavailable(engine: &str) -> String {
    let error = Renderer::new(engine, 0, own_limits()).render(&request("a"), |_| {}).await.unwrap_err();
    match error {
        RenderError::Unavailable(cause) => cause.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_missing_engine_is_unavailable_and_named() {
    let error = unavailable("/nowhere/pdf-engine").await;
    assert!(error.contains("/nowhere/pdf-engine"), "{error}");
}

#[tokio::test]
async fn an_engine_that_dies_before_it_is_ready_says_why() {
    let error = unavailable("/bin/ls").await;
    assert!(error.contains("exit status: 2") && error.contains("--memory-bytes"), "{error}");
}

#[tokio::test]
async fn an_engine_that_talks_nonsense_is_unavailable() {
    let error = unavailable("/bin/echo").await;
    assert!(error.contains("before it was ready"), "{error}");
}
