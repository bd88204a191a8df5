//! `email.send`: claims the mail, makes it, hands it to the relay, notes that it went out.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use pipeline::jobs::{FileReference, Message, SendEmail};
use pipeline::{Done, Failure, Handler, JobContext, OrFail};
use serde_json::json;
use store::sent_mails::{self, Claim, GivenBack, SendLease};
use store::{Files, FilesError, PgPool};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::Instrument;
use uuid::Uuid;
use worker::POSTGRES;

use crate::compose::{Composer, Mail, StoredReport, TOO_LARGE_TO_ATTACH};
use crate::mailer::{Accepted, Mailer, SendError};
use crate::settings::SmtpUrl;

/// The name of the relay in [`Failure::Unavailable`].
pub const RELAY: &str = "smtp";

/// The first pause between two attempts to note that a mail went out; each further one is twice as long.
const MARK_PAUSE: Duration = Duration::from_millis(100);

/// How long each step may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Reading the report's file.
    pub read: Duration,
    /// All that is said to the relay about one mail.
    pub send: Duration,
    /// Noting that the mail went out.
    pub mark: Duration,
    /// The right to send, from the claim on: longer than the claim and the three together, or a second worker would
    /// send the same mail while the first still does.
    pub lease: Duration,
}

impl Deadlines {
    /// The deadlines at a time scale, which multiplies the 60 s of a run as well: those must hold all of this.
    #[must_use]
    pub fn at(time_scale: f64) -> Self {
        let seconds = |seconds: u64| Duration::from_secs(seconds).mul_f64(time_scale);
        Self { read: seconds(10), send: seconds(20), mark: seconds(10), lease: seconds(60) }
    }
}

/// Sends mails, each once as far as that can be known.
pub struct SendEmailHandler {
    files: Files,
    composer: Composer,
    desk: Arc<Desk>,
}

/// What the last step needs, which outlives the run that began it.
struct Desk {
    pool: PgPool,
    mailer: Mailer,
    deadlines: Deadlines,
}

impl Handler for SendEmailHandler {
    type Job = SendEmail;

    async fn run(&self, job: SendEmail, context: &JobContext) -> Result<Done, Failure> {
        self.deliver(context.id(), &job).await
    }
}

impl SendEmailHandler {
    /// Claims are kept in `pool`, reports read from `files`, mails made by `composer` and handed to `relay`.
    #[must_use]
    pub fn new(pool: PgPool, files: Files, composer: Composer, relay: SmtpUrl, deadlines: Deadlines) -> Self {
        // Shown as 0 from the start, so that its first rise is seen as one.
        metrics::counter!("mail_maybe_sent_total").increment(0);
        metrics::counter!("mail_unmarked_total").increment(0);
        let mailer = Mailer::new(relay, deadlines.send);
        Self { files, composer, desk: Arc::new(Desk { pool, mailer, deadlines }) }
    }

    /// How the relay is asked for a sign of life.
    pub fn relay_probe(&self) -> impl Fn() -> BoxFuture<'static, Result<(), SendError>> + Send + Sync + 'static {
        let desk = Arc::clone(&self.desk);
        move || {
            let desk = Arc::clone(&desk);
            Box::pin(async move { desk.mailer.probe().await })
        }
    }

    /// Sends the mail of the job `id`, unless that was done before.
    ///
    /// # Errors
    /// What the runtime is to do about a mail that is not known to be sent. The mail itself is at fault only in
    /// [`Failure::Reject`].
    pub async fn deliver(&self, id: Uuid, job: &SendEmail) -> Result<Done, Failure> {
        let last = Instant::now() + self.desk.deadlines.lease;
        let claim = sent_mails::claim(&self.desk.pool, id, self.desk.deadlines.lease).await;
        let (lease, doubt) = match claim.or_unavailable(POSTGRES, "ask whether the mail was sent")? {
            Claim::Send(lease) => (lease, false),
            Claim::SendAgain(lease) => (lease, true),
            Claim::AlreadySent { message_id, .. } => {
                count("already_sent");
                return Ok(sent(&message_id));
            }
            Claim::HeldUntil(until) => {
                count("held");
                let after = (until - Utc::now()).to_std().unwrap_or_default().max(Duration::from_secs(1));
                return Err(Failure::RetryAfter { after, reason: "another worker is sending the mail".to_owned() });
            }
        };
        let mail = match self.make(id, job).await {
            Ok(mail) => mail,
            Err(failure) => {
                count("not_made");
                self.desk.give_back(&lease, GivenBack::NotSent).await;
                return Err(failure);
            }
        };
        // A run is dropped when its time is over or the broker is gone. What has begun here goes on all the same,
        // bounded by its deadlines: dropped between the relay's answer and the mark, the mail would be sent twice.
        let desk = Arc::clone(&self.desk);
        let sending = tokio::spawn(async move { desk.send(last, mail, lease, doubt).await }.in_current_span());
        sending.await.or_retry("send the mail")?
    }

    async fn make(&self, id: Uuid, job: &SendEmail) -> Result<Mail, Failure> {
        let report = match &job.message {
            Message::ReportReady(ready) => {
                let reading = timeout(self.desk.deadlines.read, self.read(&ready.file)).await;
                Some(reading.or_retry("read the report's file")??)
            }
            Message::Welcome
            | Message::AddressTaken
            | Message::OrderPlaced(_)
            | Message::OrderRefused(_)
            | Message::VideoReady(_)
            | Message::VideoRefused(_) => None,
        };
        let made = self.composer.compose(id, job, report, Utc::now());
        made.map_err(|error| Failure::reject(format!("{error:#}")))
    }

    async fn read(&self, file: &FileReference) -> Result<StoredReport, Failure> {
        let failed = |error: FilesError| {
            let passes = error.is_transient();
            let reason = told(error);
            if passes { Failure::retry(reason) } else { Failure::reject(reason) }
        };
        // The report was stored before its mail was asked for: a file that is not there was taken away, and no attempt
        // brings it back. A link to nothing would be worse than no mail.
        let gone = || Failure::reject(format!("the report's file \"{}\" is gone", file.key));
        let found = self.files.get(&file.key).await.map_err(failed)?.ok_or_else(gone)?;
        if found.bytes >= TOO_LARGE_TO_ATTACH {
            return Ok(StoredReport { bytes: found.bytes, content: None });
        }
        let content: Vec<u8> = found.content.map_ok(Vec::from).try_concat().await.map_err(failed)?;
        Ok(StoredReport { bytes: found.bytes, content: Some(content) })
    }
}

impl Desk {
    /// Sends the mail and notes what became of it. `doubt`: it may be out already.
    async fn send(&self, last: Instant, mail: Mail, lease: SendLease, doubt: bool) -> Result<Done, Failure> {
        let begun = Instant::now();
        let outcome = self.mailer.send_before(last, &mail).await;
        metrics::histogram!("mail_send_seconds").record(begun.elapsed());
        count(outcome.as_ref().map_or_else(SendError::label, |Accepted| "sent"));
        if doubt && matches!(outcome, Ok(Accepted) | Err(SendError::Unknown(_))) {
            metrics::counter!("mail_maybe_sent_total").increment(1);
        }
        match outcome {
            Ok(Accepted) => {
                self.mark(&lease, &mail.message_id).await;
                tracing::info!(
                    mail.bytes = mail.content.len(),
                    duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "mail sent"
                );
                Ok(sent(&mail.message_id))
            }
            Err(error) => {
                let maybe = matches!(error, SendError::Unknown(_));
                self.give_back(&lease, if maybe { GivenBack::MaybeSent } else { GivenBack::NotSent }).await;
                let reason = error.to_string();
                match error {
                    SendError::Refused(_) => Err(Failure::reject(reason)),
                    SendError::Unavailable(_) => Err(Failure::Unavailable { dependency: RELAY, reason }),
                    SendError::Deferred(_) | SendError::Unknown(_) => Err(Failure::retry(reason)),
                }
            }
        }
    }

    /// Notes that the mail is out. If the database stays away the job is done all the same: run again, it would do
    /// nothing but send the mail a second time. Only if the job's end is lost as well does the mail repeat, once the
    /// lease is over, and is counted as maybe sent.
    async fn mark(&self, lease: &SendLease, message_id: &str) {
        let end = Instant::now() + self.deadlines.mark;
        let mut pause = MARK_PAUSE;
        loop {
            let failure = match timeout_at(end, sent_mails::mark_sent(&self.pool, lease, message_id)).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => told(error),
                Err(late) => told(late),
            };
            if Instant::now() + pause >= end {
                metrics::counter!("mail_unmarked_total").increment(1);
                tracing::warn!(error = failure, "a mail was sent, and this could not be noted");
                return;
            }
            sleep(pause).await;
            pause *= 2;
        }
    }

    async fn give_back(&self, lease: &SendLease, how: GivenBack) {
        if let Err(error) = sent_mails::release(&self.pool, lease, how).await {
            tracing::warn!(error = told(error), "give back the right to send a mail: it waits until the lease ends");
        }
    }
}

fn sent(message_id: &str) -> Done {
    Done::with_result(json!({ "message_id": message_id }))
}

/// An error with its causes.
fn told(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

fn count(outcome: &'static str) {
    metrics::counter!("mails_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pipeline::jobs::{Job, SendEmail};
    use pipeline::topology;

    use super::Deadlines;

    /// What store gives a call: 5 s for a connection, 10 s from then on.
    const CLAIM: Duration = Duration::from_secs(15);

    #[test]
    fn a_send_ends_before_its_lease_and_its_run() {
        let Deadlines { read, send, mark, lease } = Deadlines::at(1.0);
        let longest = CLAIM + read + send + mark;
        assert!(longest < lease);
        assert!(longest < topology::worker_of(SendEmail::KIND).unwrap().timeout);
    }
}
