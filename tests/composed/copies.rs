//! Two copies of every service: a job is no copy's own.

use crate::harness::{
    alice, all_work_done, mail_arrived, mails_about, noted_as_sent, refuse_events, runs, sales, who_began,
};
use backing::containers::{container_of, copies_of};

#[tokio::test]
async fn a_job_that_one_web_accepted_is_seen_waited_for_and_streamed_by_the_other() {
    let (one, other) = (alice().at(0), alice().at(1));
    let id = one.accepted(&sales("2025-01-01", "2025-12-31")).await;
    assert_eq!(other.job(&id).await["id"], id.as_str());
    let mut heard = 0;
    other
        .each_event(&id, None, |event| {
            heard = event.id;
            event.event != "job.started"
        })
        .await;
    assert_eq!(one.job(&id).await["state"], "running", "the other told of it as it happened");
    // Cut off from the one, a client goes on at the other; somebody else waits there.
    let (rest, waited) = tokio::join!(one.events(&id, Some(heard)), other.waited(&id, 60));
    assert!(rest.iter().all(|event| event.id > heard));
    assert_eq!(rest.last().map(|event| event.event.as_str()), Some("job.succeeded"));
    assert_eq!(waited["state"], "succeeded", "{waited:#}");
    assert!(one.pdf(&id).await == other.pdf(&id).await);
}

#[tokio::test]
async fn a_report_whose_worker_is_killed_in_the_middle_is_made_by_the_other_and_mailed_once() {
    let caller = alice();
    let id = caller.accepted(&sales("2025-01-01", "2025-12-31")).await;
    caller.each_event(&id, None, |event| event.event != "job.started").await;
    let killed = container_of(&who_began(&id).await);
    killed.kill();
    let job = caller.ended(&id).await;
    assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{job:#}");
    let runs = runs(&job);
    assert_eq!(runs.len(), 2, "the killed run and the other's: {job:#}");
    assert!(!runs[0].contains(&"job.succeeded"), "killed in the middle: {job:#}");
    assert!(caller.pdf(&id).await.starts_with(b"%PDF-"));
    mail_arrived(&id).await;
    all_work_done().await;
    assert_eq!(mails_about(&id).await.len(), 1);
    killed.start();
    killed.healthy().await;
}

#[tokio::test]
async fn workers_that_are_killed_between_their_work_and_its_ack_leave_one_pdf_and_one_mail() {
    let caller = alice();
    let (webs, reports, mailers) =
        (copies_of("web").and(copies_of("web-2")), copies_of("pdf-report"), copies_of("email-worker"));
    reports.stop();
    let id = caller.accepted(&sales("2025-07-01", "2025-07-07")).await;
    // Nobody writes down what is told, or the runs below would find the jobs done and have nothing to do.
    webs.stop();
    // Both workers come as far as telling that they are done, which is never confirmed.
    let refusing = refuse_events("job.succeeded").await;
    reports.start();
    let mails = mail_arrived(&id).await;
    noted_as_sent(&mails[0]).await;
    reports.kill();
    mailers.kill();
    refusing.close(200, "enough".into()).await.unwrap();
    reports.start();
    mailers.start();
    // The report again, its mail again, and the mail that it asks for again.
    reports.have_done("report.render", 1).await;
    mailers.have_done("email.send", 2).await;
    webs.start();
    webs.ready().await;
    let job = caller.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(runs(&job).len(), 2, "{job:#}");
    assert_eq!(mails_about(&id).await.len(), 1);
    assert!(caller.pdf(&id).await.starts_with(b"%PDF-"));
}
