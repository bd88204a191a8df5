//! Two copies of every service: a job is no copy's own.

use sqlx::PgConnection;

use crate::containers::container_of;
use crate::harness::{
    alice, all_work_done, bob, database, known, mail_arrived, mails_about, refuse_events, runs, sales, who_told,
};

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
    let killed = container_of(&who_told(&id, "job.started").await);
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

/// How many runs of bob's mails have ended. Nothing but the test below is his.
async fn mail_runs(database: &mut PgConnection) -> i64 {
    let query = "SELECT count(DISTINCT run_id) FROM jobs JOIN job_events ON job_id = jobs.id
                 WHERE owner = 'bob' AND kind = 'email.send' AND event_type = 'job.succeeded'";
    sqlx::query_scalar(query).fetch_one(database).await.unwrap()
}

#[tokio::test]
async fn workers_that_are_killed_between_their_work_and_its_ack_leave_one_pdf_and_one_mail() {
    let caller = bob();
    let before = mail_runs(&mut database().await).await;
    // Done and told, but never confirmed: both workers hold on to their messages.
    let refusing = refuse_events("job.succeeded").await;
    let id = caller.accepted(&sales("2025-07-01", "2025-07-07")).await;
    let mails = mail_arrived(&id).await;
    let message_id = mails[0]["headers"]["message-id"].as_str().unwrap();
    let mail_job = message_id.trim_start_matches('<').split('@').next().unwrap();
    let (report, mail) = (who_told(&id, "job.succeeded").await, who_told(mail_job, "job.succeeded").await);
    let (report, mail) = (container_of(&report), container_of(&mail));
    report.kill();
    mail.kill();
    refusing.close(200, "enough".into()).await.unwrap();
    // The other copies: the report again, its mail again, and the mail that it asks for again.
    known("the mail's runs", async |database| (mail_runs(database).await == before + 3).then_some(())).await;
    assert_eq!(runs(&caller.job(&id).await).len(), 2);
    all_work_done().await;
    assert_eq!(mails_about(&id).await.len(), 1);
    assert!(caller.pdf(&id).await.starts_with(b"%PDF-"));
    for killed in [report, mail] {
        killed.start();
        killed.healthy().await;
    }
}
