//! Hands mails to the relay and says what became of each: the one place that speaks SMTP.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Noop, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use tokio::time::{Instant, timeout, timeout_at};

use crate::compose::Mail;
use crate::line::Line;
use crate::settings::SmtpUrl;

/// A connection that rested longer may have been closed by the relay; a new one costs less than a doubt.
const REUSED_WITHIN: Duration = Duration::from_secs(30);
/// How long a rested connection may take to say that it still lives.
const NOOP_DEADLINE: Duration = Duration::from_secs(2);
/// How long the relay may take to show that it is there.
const PROBE_DEADLINE: Duration = Duration::from_secs(4);
/// The mail is written in pieces, so that its copy with doubled dots need not stand in memory whole.
const PIECE_BYTES: usize = 64 * 1024;

/// The relay's word that it has the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted;

/// Why a mail is not known to be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The relay cannot be reached, or does not serve anybody now. The mail did not go out.
    #[error("the relay is not available: {0}")]
    Unavailable(Line),
    /// The relay does not take this mail now (4xx). The mail did not go out.
    #[error("the relay does not take the mail now: {0}")]
    Deferred(Line),
    /// The relay will never take this mail (5xx). The mail did not go out.
    #[error("the relay refuses the mail: {0}")]
    Refused(Line),
    /// The relay had the whole mail or a part of it, and its answer did not come.
    #[error("the relay did not say whether it took the mail: {0}")]
    Unknown(Line),
}

/// A relay, and the connections to it that rest.
///
/// lettre's own pool is not used: it takes a connection back also from a send that was given up, and the relay's late
/// answer to that mail then counts as the answer to the next one. Nor does lettre's timeout bound more than connecting.
/// Here a connection rests only after the answer to a whole mail, and one deadline bounds all that is done for a mail.
pub struct Mailer {
    relay: SmtpUrl,
    deadline: Duration,
    hello: ClientId,
    rested: Mutex<Vec<Rested>>,
}

struct Rested {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl SendError {
    /// The name in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Deferred(_) => "deferred",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl Mailer {
    /// Mails go to `relay`, each within `deadline`. Connects when there is a mail to send.
    #[must_use]
    pub fn new(relay: SmtpUrl, deadline: Duration) -> Self {
        Self { relay, deadline, hello: ClientId::default(), rested: Mutex::default() }
    }

    /// Sends a mail.
    ///
    /// # Errors
    /// See [`SendError`]. Only after [`SendError::Unknown`] may the mail have gone out.
    pub async fn send(&self, mail: &Mail) -> Result<Accepted, SendError> {
        self.send_before(Instant::now() + self.deadline, mail).await
    }

    /// The same, and nothing of the mail's content leaves after `last`: from then on somebody else may send it. A process may stand
    /// still at any point, so that is looked at after all that takes time.
    ///
    /// # Errors
    /// See [`Mailer::send`].
    pub async fn send_before(&self, last: Instant, mail: &Mail) -> Result<Accepted, SendError> {
        let end = last.min(Instant::now() + self.deadline);
        let late = || Line::new(&format!("no answer within {} s", self.deadline.as_secs_f64()));
        // Up to the answer to DATA nothing of the mail is there.
        let ready = timeout_at(end, self.ready_for(mail)).await.unwrap_or_else(|_| Err(SendError::Unavailable(late())));
        let mut connection = ready?;
        if Instant::now() >= end {
            return Err(SendError::Deferred(Line::new("there was no time left to send it")));
        }
        match timeout_at(end, connection.message_iter(mail.content.chunks(PIECE_BYTES))).await {
            Ok(Ok(answer)) if answer.has_code(250) => {
                self.rest(connection);
                Ok(Accepted)
            }
            Ok(Ok(answer)) => Err(SendError::Unknown(unexpected(&answer))),
            Ok(Err(error)) => Err(sort(&error, mail, SendError::Unknown)),
            Err(_) => Err(SendError::Unknown(late())),
        }
    }

    /// Asks the relay for a sign of life: whether it greets a client, or answers NOOP on a connection that rests.
    ///
    /// # Errors
    /// [`SendError::Unavailable`] when it does not, or not within 4 s.
    pub async fn probe(&self) -> Result<(), SendError> {
        let late = |_| SendError::Unavailable(Line::new("no answer in time"));
        let connection = timeout(PROBE_DEADLINE, self.connection()).await.map_err(late)??;
        self.rest(connection);
        Ok(())
    }

    /// A connection on which the relay waits for the content of `mail`.
    async fn ready_for(&self, mail: &Mail) -> Result<AsyncSmtpConnection, SendError> {
        let mut connection = self.connection().await?;
        let envelope = &mail.envelope;
        let mut commands = vec![MailFrom::new(envelope.from().cloned(), vec![]).to_string()];
        commands.extend(envelope.to().iter().map(|to| Rcpt::new(to.clone(), vec![]).to_string()));
        commands.push(Data.to_string());
        for command in commands {
            let answer = connection.command(&command).await;
            let answer = answer.map_err(|error| sort(&error, mail, SendError::Unavailable))?;
            let goes_on =
                if command == Data.to_string() { answer.has_code(354) } else { u16::from(answer.code()) / 100 == 2 };
            if !goes_on {
                return Err(SendError::Unavailable(unexpected(&answer)));
            }
        }
        Ok(connection)
    }

    async fn connection(&self) -> Result<AsyncSmtpConnection, SendError> {
        while let Some(Rested { mut connection, since }) = self.take() {
            if since.elapsed() < REUSED_WITHIN
                && matches!(timeout(NOOP_DEADLINE, connection.command(Noop)).await, Ok(Ok(_)))
            {
                return Ok(connection);
            }
        }
        let address = (self.relay.host.as_str(), self.relay.port);
        let connected = AsyncSmtpConnection::connect_tokio1(address, None, &self.hello, None, None).await;
        // A 5xx here is about this client or the relay's own state, not about any mail: it must not bury them all.
        connected.map_err(|error| SendError::Unavailable(Line::new(&error.to_string())))
    }

    fn take(&self) -> Option<Rested> {
        self.rested.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn rest(&self, connection: AsyncSmtpConnection) {
        let rested = Rested { connection, since: Instant::now() };
        self.rested.lock().unwrap_or_else(PoisonError::into_inner).push(rested);
    }
}

/// What an answer of the relay says of the mail, or `otherwise` when it is no answer.
fn sort(error: &lettre::transport::smtp::Error, mail: &Mail, otherwise: fn(Line) -> SendError) -> SendError {
    // Relays like to repeat the recipient's address, which is nobody's business in a log.
    let mut text = error.to_string();
    for to in mail.envelope.to() {
        text = text.replace(AsRef::<str>::as_ref(to), "(recipient)");
    }
    let text = Line::new(&text);
    if error.is_transient() {
        SendError::Deferred(text)
    } else if error.is_permanent() {
        SendError::Refused(text)
    } else {
        otherwise(text)
    }
}

fn unexpected(answer: &Response) -> Line {
    Line::new(&format!("unexpected answer {}", answer.code()))
}
