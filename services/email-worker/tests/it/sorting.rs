//! What each way to fail means for the mail.

use std::sync::Arc;
use std::time::Duration;

use email_worker::compose::{Mail, StoredReport};
use email_worker::mailer::{Accepted, Mailer, SendError};
use email_worker::settings::SmtpUrl;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::fixture::{self, at};
use backing::relay::{Act, Fault, PATIENCE, Relay, Stage};

/// Short where the relay is meant to be late.
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

fn mail() -> Mail {
    let report = StoredReport { bytes: 4, content: Some(b"%PDF".to_vec()) };
    fixture::composer().compose(Uuid::new_v4(), &fixture::job(), Some(report), chrono::Utc::now()).unwrap()
}

async fn send(fault: Fault, deadline: Duration) -> Result<Accepted, SendError> {
    let relay = Relay::start([Some(fault)]).await;
    patiently(Mailer::new(at(&relay), deadline).send(&mail())).await
}

async fn patiently<T>(sending: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, sending).await.expect("the mailer hangs")
}

#[tokio::test]
async fn a_mail_that_is_taken_is_sent_as_it_was_made() {
    let relay = Relay::start([]).await;
    let mail = mail();
    assert_eq!(Mailer::new(at(&relay), LONG).send(&mail).await, Ok(Accepted));
    let arrived = relay.mails().remove(0);
    assert_eq!(String::from_utf8(arrived).unwrap().trim_end(), String::from_utf8(mail.content).unwrap().trim_end());
}

#[tokio::test]
async fn a_4xx_at_any_point_is_for_now() {
    for stage in [Stage::Sender, Stage::Recipient, Stage::Data, Stage::Content] {
        let error = send((stage, Act::Answer("450 4.2.1 mailbox busy")), LONG).await.unwrap_err();
        assert!(matches!(&error, SendError::Deferred(text) if text.as_str().contains("450")), "{stage:?}: {error}");
    }
}

#[tokio::test]
async fn a_5xx_to_the_mail_is_for_good() {
    for stage in [Stage::Sender, Stage::Recipient, Stage::Data, Stage::Content] {
        let error = send((stage, Act::Answer("550 5.1.1 no such user")), LONG).await.unwrap_err();
        assert!(matches!(&error, SendError::Refused(text) if text.as_str().contains("550")), "{stage:?}: {error}");
    }
}

#[tokio::test]
async fn a_relay_that_serves_nobody_buries_no_mail() {
    for answer in ["554 5.3.2 no service here", "421 4.3.2 shutting down", "not SMTP at all"] {
        for stage in [Stage::Greeting, Stage::Hello] {
            let error = send((stage, Act::Answer(answer)), LONG).await.unwrap_err();
            assert!(matches!(error, SendError::Unavailable(_)), "{stage:?} {answer}: {error}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_ends_before_the_mail_is_there_sent_nothing() {
    for stage in [Stage::Greeting, Stage::Hello, Stage::Sender, Stage::Recipient, Stage::Data] {
        let error = send((stage, Act::Drop), LONG).await.unwrap_err();
        assert!(matches!(error, SendError::Unavailable(_)), "{stage:?}: {error}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_after_the_mail_leaves_its_fate_unknown() {
    for act in [Act::Drop, Act::DropHalfway, Act::Answer("not SMTP at all"), Act::Answer("354 more")] {
        let error = send((Stage::Content, act.clone()), LONG).await.unwrap_err();
        assert!(matches!(error, SendError::Unknown(_)), "{act:?}: {error}");
    }
}

#[tokio::test]
async fn a_relay_that_says_nothing_is_given_up_at_the_deadline() {
    for stage in [Stage::Greeting, Stage::Hello, Stage::Sender, Stage::Recipient, Stage::Data, Stage::Content] {
        let begun = Instant::now();
        let error = send((stage, Act::Hang), SHORT).await.unwrap_err();
        let unknown = matches!(error, SendError::Unknown(_));
        assert_eq!(unknown, stage == Stage::Content, "{stage:?}: {error}");
        assert!(begun.elapsed() < LONG, "{stage:?}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_relay_that_is_not_there_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = SmtpUrl::try_from(format!("smtp://{}", listener.local_addr().unwrap())).unwrap();
    drop(listener);
    for url in [free, SmtpUrl::try_from("smtp://no-such-host.invalid:25".to_owned()).unwrap()] {
        let error = Mailer::new(url, LONG).send(&mail()).await.unwrap_err();
        assert!(matches!(error, SendError::Unavailable(_)), "{error}");
    }
}

#[tokio::test]
async fn mails_one_after_the_other_share_a_connection() {
    let relay = Relay::start([]).await;
    let mailer = Mailer::new(at(&relay), LONG);
    for _ in 0..5 {
        assert_eq!(mailer.send(&mail()).await, Ok(Accepted));
    }
    assert_eq!((relay.mails().len(), relay.connections()), (5, 1));
}

#[tokio::test]
async fn a_connection_that_died_at_rest_costs_no_mail() {
    for act in [Act::Drop, Act::Hang, Act::Answer("421 4.4.2 idle for too long")] {
        let relay = Relay::start([None, Some((Stage::Rest, act.clone()))]).await;
        let mailer = Mailer::new(at(&relay), LONG);
        for _ in 0..2 {
            assert_eq!(patiently(mailer.send(&mail())).await, Ok(Accepted), "{act:?}");
        }
        assert_eq!((relay.mails().len(), relay.connections()), (2, 2), "{act:?}");
    }
}

#[tokio::test]
async fn the_late_answer_to_one_mail_is_never_taken_for_the_next_ones() {
    let late = Arc::new(Notify::new());
    let refusal = || Some((Stage::Content, Act::Answer("550 not that one")));
    let relay = Relay::start([Some((Stage::Content, Act::Hold(Arc::clone(&late)))), refusal(), refusal()]).await;
    let mailer = Mailer::new(at(&relay), SHORT);
    let first = patiently(mailer.send(&mail())).await.unwrap_err();
    assert!(matches!(first, SendError::Unknown(_)), "{first}");
    late.notify_one();
    let second = patiently(mailer.send(&mail())).await.unwrap_err();
    assert!(matches!(second, SendError::Refused(_)), "{second}");
}

#[tokio::test]
async fn the_readers_address_does_not_come_back_in_an_error() {
    let job = fixture::job();
    let address: &'static str = Box::leak(job.to.address.as_str().to_owned().into_boxed_str());
    let answer: &'static str = Box::leak(format!("550 5.1.1 <{address}>: user unknown").into_boxed_str());
    let relay = Relay::start([Some((Stage::Recipient, Act::Answer(answer)))]).await;
    let report = StoredReport { bytes: 4, content: None };
    let mail = fixture::composer().compose(Uuid::new_v4(), &job, Some(report), chrono::Utc::now()).unwrap();
    let error = Mailer::new(at(&relay), LONG).send(&mail).await.unwrap_err().to_string();
    assert!(error.contains("user unknown") && !error.contains(address), "{error}");
}
