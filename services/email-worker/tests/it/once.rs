//! One mail a job: claims in the real PostgreSQL, a relay that fails at will.

use std::sync::Arc;
use std::time::Duration;

use email_worker::compose::TOO_LARGE_TO_ATTACH;
use email_worker::send_email::{Deadlines, SendEmailHandler};
use mail_parser::{MessageParser, MimeHeaders};
use pipeline::jobs::{Message, SendEmail};
use pipeline::{Done, Failure};
use store::sent_mails::{self, Claim};
use tokio::sync::Notify;
use tokio::time::timeout;
use uuid::Uuid;

use crate::fixture::{self, DEADLINES, Fixture, Metrics, at};
use backing::relay::{Act, PATIENCE, Relay, Stage};

const PDF: &[u8] = b"%PDF-1.7 not much of one";

async fn deliver(handler: &SendEmailHandler, id: Uuid, job: &SendEmail) -> Result<Done, Failure> {
    timeout(PATIENCE, handler.deliver(id, job)).await.expect("the handler hangs")
}

fn message_id(content: &[u8]) -> String {
    let mail = MessageParser::default().parse(content).unwrap();
    mail.message_id().unwrap().to_owned()
}

#[track_caller]
fn retried(outcome: Result<Done, Failure>) -> String {
    match outcome {
        Err(Failure::Retry { reason }) => reason,
        other => panic!("not retried: {other:?}"),
    }
}

#[track_caller]
fn rejected(outcome: Result<Done, Failure>) -> String {
    match outcome {
        Err(Failure::Reject { reason }) => reason,
        other => panic!("not rejected: {other:?}"),
    }
}

#[tokio::test]
async fn a_job_that_comes_twice_sends_one_mail() {
    let (metrics, fixture, relay) = (Metrics::record(), Fixture::new().await, Relay::start([]).await);
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let first = deliver(&handler, id, &job).await.unwrap();
    // The second time even without the file: it may have been swept by then.
    std::fs::remove_dir_all(fixture.directory.0.join("reports")).unwrap();
    let second = deliver(&handler, id, &job).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(first, Done::with_result(serde_json::json!({ "message_id": format!("<{id}@shop.example>") })));
    assert_eq!(relay.mails().len(), 1);
    assert_eq!(metrics.count("mails_total{outcome=\"sent\"}"), 1);
    assert_eq!(metrics.count("mails_total{outcome=\"already_sent\"}"), 1);
    assert_eq!(metrics.count("mail_maybe_sent_total"), 0);
    assert_eq!(metrics.count("mail_send_seconds_count"), 1);
}

/// Stopped by a debugger, a hypervisor, a `docker pause`.
#[tokio::test]
async fn a_worker_that_stood_still_for_longer_than_its_claim_sends_nothing() {
    let relay = Relay::start([]).await;
    let fixture = Fixture::new().await;
    let deadlines = Deadlines { lease: Duration::from_millis(300), ..DEADLINES };
    let handler = fixture.handler_with(at(&relay), deadlines);
    let (job, id) = (fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let asleep = async {
        // Its claim has been asked for.
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(600));
    };
    let (delivered, ()) = tokio::join!(deliver(&handler, id, &job), asleep);
    delivered.unwrap_err();
    assert!(relay.mails().is_empty());
}

#[tokio::test]
async fn two_workers_with_the_same_job_send_one_mail() {
    let answer = Arc::new(Notify::new());
    let relay = Relay::start([Some((Stage::Content, Act::Hold(Arc::clone(&answer))))]).await;
    let fixture = Fixture::new().await;
    let (one, other) = (fixture.handler(at(&relay)), fixture.handler(at(&relay)));
    let (job, id) = (fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let begun = tokio::spawn({
        let job = job.clone();
        async move { deliver(&one, id, &job).await }
    });
    relay.arrived(1).await;
    match deliver(&other, id, &job).await {
        Err(Failure::RetryAfter { after, .. }) => {
            assert!(after > DEADLINES.lease / 2 && after <= DEADLINES.lease, "{after:?}");
        }
        outcome => panic!("{outcome:?}"),
    }
    answer.notify_one();
    begun.await.unwrap().unwrap();
    assert!(deliver(&other, id, &job).await.is_ok());
    assert_eq!(relay.mails().len(), 1);
}

#[tokio::test]
async fn a_4xx_is_retried_without_waiting_for_the_lease_and_without_doubt() {
    let metrics = Metrics::record();
    let relay = Relay::start([Some((Stage::Content, Act::Answer("450 4.2.1 mailbox busy")))]).await;
    let fixture = Fixture::new().await;
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let reason = retried(deliver(&handler, id, &job).await);
    assert!(reason.contains("mailbox busy"), "{reason}");
    deliver(&handler, id, &job).await.unwrap();
    assert_eq!(metrics.count("mails_total{outcome=\"deferred\"}"), 1);
    assert_eq!(metrics.count("mail_maybe_sent_total"), 0);
}

#[tokio::test]
async fn a_5xx_is_rejected_and_a_replay_may_try_again() {
    let relay = Relay::start([Some((Stage::Recipient, Act::Answer("550 5.1.1 no such user")))]).await;
    let fixture = Fixture::new().await;
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let reason = rejected(deliver(&handler, id, &job).await);
    assert!(reason.contains("no such user"), "{reason}");
    deliver(&handler, id, &job).await.unwrap();
    assert_eq!(relay.mails().len(), 1);
}

#[tokio::test]
async fn a_mail_of_unknown_fate_is_sent_again_under_the_same_message_id_and_counted() {
    let metrics = Metrics::record();
    let relay = Relay::start([Some((Stage::Content, Act::Drop))]).await;
    let fixture = Fixture::new().await;
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    retried(deliver(&handler, id, &job).await);
    assert_eq!(metrics.count("mails_total{outcome=\"unknown\"}"), 1);
    assert_eq!(metrics.count("mail_maybe_sent_total"), 0);
    deliver(&handler, id, &job).await.unwrap();
    assert_eq!(metrics.count("mail_maybe_sent_total"), 1);
    let ids: Vec<_> = relay.mails().iter().map(|content| message_id(content)).collect();
    assert_eq!(ids, [format!("{id}@shop.example"), format!("{id}@shop.example")]);
}

#[tokio::test]
async fn the_mail_of_a_worker_that_died_is_sent_again_and_counted() {
    let metrics = Metrics::record();
    let (fixture, relay) =
        (Fixture::new().await, Relay::start([Some((Stage::Recipient, Act::Answer("450 later")))]).await);
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let died = sent_mails::claim(&fixture.pool, id, Duration::ZERO).await.unwrap();
    assert!(matches!(died, Claim::Send(_)));
    // A repeat that certainly sent nothing is no second mail.
    retried(deliver(&handler, id, &job).await);
    assert_eq!(metrics.count("mail_maybe_sent_total"), 0);
    deliver(&handler, id, &job).await.unwrap();
    assert_eq!(metrics.count("mail_maybe_sent_total"), 1);
}

#[tokio::test]
async fn a_run_that_is_dropped_while_it_sends_still_notes_the_mail() {
    let answer = Arc::new(Notify::new());
    let relay = Relay::start([Some((Stage::Content, Act::Hold(Arc::clone(&answer))))]).await;
    let fixture = Fixture::new().await;
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    tokio::select! {
        outcome = deliver(&handler, id, &job) => panic!("ended early: {outcome:?}"),
        () = relay.arrived(1) => {}
    }
    answer.notify_one();
    let noted = async {
        while !matches!(sent_mails::claim(&fixture.pool, id, DEADLINES.lease).await.unwrap(), Claim::AlreadySent { .. })
        {
        }
    };
    timeout(PATIENCE, noted).await.expect("the mail is not noted");
    assert!(deliver(&handler, id, &job).await.is_ok());
    assert_eq!(relay.mails().len(), 1);
}

/// Breaks every update of the table of marks, and counts the attempts in a sequence, which no rollback takes back.
const BREAK: &str = "
    CREATE SEQUENCE attempts;
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN
            PERFORM nextval('attempts');
            RAISE EXCEPTION 'broken on purpose' USING ERRCODE = 'cannot_connect_now';
        END $$;
    CREATE TRIGGER broken BEFORE UPDATE ON sent_mails EXECUTE FUNCTION fail();";
const MEND: &str = "DROP TRIGGER broken ON sent_mails";
const ATTEMPTED: &str = "SELECT is_called FROM attempts";

/// Lets a handler send a mail, with the table of marks broken from before the relay's answer; `mended` after the first
/// attempt to mark.
async fn sent_without_marks(
    fixture: &Fixture,
    deadlines: Deadlines,
    mended: bool,
) -> (Result<Done, Failure>, Uuid, SendEmail) {
    let answer = Arc::new(Notify::new());
    let relay = Relay::start([Some((Stage::Content, Act::Hold(Arc::clone(&answer))))]).await;
    let (handler, job, id) =
        (fixture.handler_with(at(&relay), deadlines), fixture.job(PDF.to_vec()).await, Uuid::new_v4());
    let meanwhile = async {
        relay.arrived(1).await;
        sqlx::raw_sql(BREAK).execute(&fixture.pool).await.unwrap();
        answer.notify_one();
        let attempted =
            async { while !sqlx::query_scalar::<_, bool>(ATTEMPTED).fetch_one(&fixture.pool).await.unwrap() {} };
        if mended {
            timeout(PATIENCE, attempted).await.expect("nobody tries to mark the mail");
            sqlx::query(MEND).execute(&fixture.pool).await.unwrap();
        }
    };
    let (outcome, ()) = tokio::join!(deliver(&handler, id, &job), meanwhile);
    (outcome, id, job)
}

#[tokio::test]
async fn a_database_that_is_away_for_a_moment_loses_no_mark() {
    let (metrics, fixture) = (Metrics::record(), Fixture::new().await);
    let (outcome, id, _) = sent_without_marks(&fixture, DEADLINES, true).await;
    outcome.unwrap();
    assert!(matches!(sent_mails::claim(&fixture.pool, id, DEADLINES.lease).await.unwrap(), Claim::AlreadySent { .. }));
    assert_eq!(metrics.count("mail_unmarked_total"), 0);
}

#[tokio::test]
async fn a_sent_mail_that_cannot_be_noted_is_done_all_the_same() {
    let (metrics, fixture) = (Metrics::record(), Fixture::new().await);
    let deadlines = Deadlines { mark: Duration::from_millis(500), lease: Duration::from_secs(1), ..DEADLINES };
    let (outcome, id, job) = sent_without_marks(&fixture, deadlines, false).await;
    // Done: retried, it would certainly be sent a second time.
    outcome.unwrap();
    assert_eq!(metrics.count("mail_unmarked_total"), 1);
    sqlx::query(MEND).execute(&fixture.pool).await.unwrap();
    // Only if the job's end was lost too does it come again; then it is sent again once the lease is over, and counted.
    let relay = Relay::start([]).await;
    let handler = fixture.handler(at(&relay));
    let repeated = async { while let Err(Failure::RetryAfter { .. }) = deliver(&handler, id, &job).await {} };
    timeout(PATIENCE, repeated).await.expect("the lease does not end");
    assert_eq!((relay.mails().len(), metrics.count("mail_maybe_sent_total")), (1, 1));
}

#[tokio::test]
async fn nothing_is_sent_without_the_database() {
    let (fixture, relay) = (Fixture::new().await, Relay::start([]).await);
    let job = fixture.job(PDF.to_vec()).await;
    let away = fixture::pool("postgres://postroom:x@127.0.0.1:1/postroom");
    let handler = SendEmailHandler::new(away, fixture.files.clone(), fixture::composer(), at(&relay), DEADLINES);
    let outcome = deliver(&handler, Uuid::new_v4(), &job).await;
    assert!(matches!(outcome, Err(Failure::Unavailable { dependency: "postgres", .. })), "{outcome:?}");
    assert_eq!((relay.mails().len(), relay.connections()), (0, 0));
}

#[tokio::test]
async fn a_report_that_is_gone_is_a_defect_and_one_that_cannot_be_read_is_not() {
    let (fixture, relay) = (Fixture::new().await, Relay::start([]).await);
    let (handler, job, id) = (fixture.handler(at(&relay)), fixture::job(), Uuid::new_v4());
    let reason = rejected(deliver(&handler, id, &job).await);
    assert!(reason.contains("is gone"), "{reason}");

    let Message::ReportReady(ready) = &job.message else { unreachable!("the mail is about a report") };
    let path = fixture.directory.0.join(&ready.file.key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    retried(deliver(&handler, id, &job).await);
    assert_eq!(relay.connections(), 0);

    // Neither left a claim behind.
    std::fs::remove_file(&path).unwrap();
    fixture.store(&job, PDF.to_vec()).await;
    deliver(&handler, id, &job).await.unwrap();
    assert_eq!(relay.mails().len(), 1);
}

#[tokio::test]
async fn a_key_that_leads_out_of_the_store_is_rejected() {
    let (fixture, relay) = (Fixture::new().await, Relay::start([]).await);
    let mut job = fixture::job();
    let Message::ReportReady(ready) = &mut job.message else { unreachable!("the mail is about a report") };
    ready.file.key = "../../etc/passwd".to_owned();
    rejected(deliver(&fixture.handler(at(&relay)), Uuid::new_v4(), &job).await);
    assert_eq!(relay.connections(), 0);
}

#[tokio::test]
async fn a_report_is_attached_below_5_mb_and_a_link_alone_from_there() {
    let (fixture, relay) = (Fixture::new().await, Relay::start([]).await);
    let handler = fixture.handler(at(&relay));
    let limit = usize::try_from(TOO_LARGE_TO_ATTACH).unwrap();
    assert_eq!(limit, 5_000_000);
    for (size, attachments) in [(limit - 1, 1), (limit, 0)] {
        let content: Vec<u8> = (0..size).map(|place| (place * 31 % 251) as u8).collect();
        let job = fixture.job(content.clone()).await;
        deliver(&handler, Uuid::new_v4(), &job).await.unwrap();
        let arrived = relay.mails().pop().unwrap();
        let mail = MessageParser::default().parse(&arrived).unwrap();
        assert_eq!(mail.attachment_count(), attachments, "{size}");
        assert!(mail.attachment(0).is_none_or(|file| file.contents() == content && file.attachment_name().is_some()));
        assert!(mail.body_text(0).unwrap().contains("https://shop.example/v1/reports/"));
        assert!(mail.body_html(0).unwrap().contains("Download the report"));
    }
}
