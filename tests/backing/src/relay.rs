//! An SMTP server that misbehaves where it is told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// A test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where in a mail's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A connection was made.
    Greeting,
    /// The client has said who it is.
    Hello,
    /// It has named the sender.
    Sender,
    /// It has named a recipient.
    Recipient,
    /// It wants to send the mail.
    Data,
    /// The whole mail is here.
    Content,
    /// The client asks whether the relay still lives.
    Rest,
}

/// What the relay does there.
#[derive(Clone, Debug)]
pub enum Act {
    /// Says this.
    Answer(&'static str),
    /// Says what it should, after so long.
    Slow(Duration),
    /// Drops the connection.
    Drop,
    /// Says nothing until the client goes.
    Hang,
    /// Says "250" once it is let.
    Hold(Arc<Notify>),
    /// Drops the connection in the middle of the mail.
    DropHalfway,
}

/// The misbehaviour at one mail; everything else goes well.
pub type Fault = (Stage, Act);

/// What the relay saw, and is to do.
#[derive(Debug, Default)]
struct Seen {
    faults: Mutex<VecDeque<Option<Fault>>>,
    /// At every mail, while it stands.
    standing: watch::Sender<Option<Fault>>,
    /// How often the standing one was met.
    met: Mutex<usize>,
    mails: Mutex<Vec<Vec<u8>>>,
    connections: Mutex<usize>,
    arrived: Notify,
}

/// The server. Each mail takes the next fault; with none left the standing one, and without that all goes well.
#[derive(Debug)]
pub struct Relay {
    url: String,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

impl Relay {
    /// Serves on a port that the system gives.
    ///
    /// # Panics
    /// When it gives none.
    pub async fn start(faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        Self::start_at("127.0.0.1:0", faults).await
    }

    /// Serves on an address.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn start_at(address: &str, faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let url = format!("smtp://{}", listener.local_addr().expect("a port"));
        let seen = Arc::new(Seen { faults: Mutex::new(faults.into_iter().collect()), ..Seen::default() });
        let serving = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    *held(&seen.connections) += 1;
                    tokio::spawn(converse(stream, Arc::clone(&seen)));
                }
            }
        });
        Self { url, seen, serving }
    }

    /// Where it is: `smtp://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// From now on every mail for which none was given at the start meets this one.
    pub fn stand(&self, fault: Option<Fault>) {
        self.seen.standing.send_replace(fault);
    }

    /// How often a mail has met a standing fault.
    #[must_use]
    pub fn met(&self) -> usize {
        *held(&self.seen.met)
    }

    /// The mails that arrived whole, whatever was answered.
    #[must_use]
    pub fn mails(&self) -> Vec<Vec<u8>> {
        held(&self.seen.mails).clone()
    }

    /// The same, and forgets them.
    #[must_use]
    pub fn take_mails(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *held(&self.seen.mails))
    }

    /// How many connections were made.
    #[must_use]
    pub fn connections(&self) -> usize {
        *held(&self.seen.connections)
    }

    /// Waits until so many mails have arrived whole.
    ///
    /// # Panics
    /// When they do not within [`PATIENCE`].
    pub async fn arrived(&self, count: usize) {
        let waiting = async {
            loop {
                let next = self.seen.arrived.notified();
                if self.mails().len() >= count {
                    return;
                }
                next.await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the mail does not arrive");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Conversation {
    lines: BufReader<OwnedReadHalf>,
    answers: OwnedWriteHalf,
    fault: Option<Fault>,
    seen: Arc<Seen>,
}

impl Conversation {
    /// `None` ends it.
    async fn at(&mut self, stage: Stage, good: &str) -> Option<()> {
        let standing = self.fault.is_none();
        let fault = self.fault.clone().or_else(|| self.seen.standing.borrow().clone());
        let act = match fault {
            Some((faulty, act)) if faulty == stage => act,
            _ => return self.say(good).await,
        };
        if standing {
            *held(&self.seen.met) += 1;
        }
        match act {
            Act::Answer(answer) => self.say(answer).await,
            Act::Slow(pause) => {
                tokio::time::sleep(pause).await;
                self.say(good).await
            }
            Act::Drop | Act::DropHalfway => None,
            Act::Hang => {
                while self.line().await.is_some() {}
                None
            }
            Act::Hold(let_go) => {
                let_go.notified().await;
                self.say("250 at last").await
            }
        }
    }

    async fn say(&mut self, answer: &str) -> Option<()> {
        self.answers.write_all(format!("{answer}\r\n").as_bytes()).await.ok()
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let bytes = self.lines.read_until(b'\n', &mut line).await.ok()?;
        (bytes > 0).then_some(line)
    }

    async fn content(&mut self) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let line = self.line().await?;
            match line.as_slice() {
                b".\r\n" => return Some(content),
                [b'.', rest @ ..] => content.extend_from_slice(rest),
                line => content.extend_from_slice(line),
            }
            if matches!(self.fault, Some((Stage::Content, Act::DropHalfway))) {
                return None;
            }
        }
    }
}

async fn converse(stream: TcpStream, seen: Arc<Seen>) -> Option<()> {
    let (read, answers) = stream.into_split();
    let next = || held(&seen.faults).pop_front().flatten();
    let mut talk = Conversation { lines: BufReader::new(read), answers, fault: next(), seen: Arc::clone(&seen) };
    talk.at(Stage::Greeting, "220 relay.example").await?;
    loop {
        let line = talk.line().await?;
        match line.get(..4)? {
            b"EHLO" => talk.at(Stage::Hello, "250-relay.example\r\n250 SIZE 10000000").await?,
            b"MAIL" => talk.at(Stage::Sender, "250 sender ok").await?,
            b"RCPT" => talk.at(Stage::Recipient, "250 recipient ok").await?,
            b"DATA" => {
                talk.at(Stage::Data, "354 go on").await?;
                let content = talk.content().await?;
                held(&seen.mails).push(content);
                seen.arrived.notify_waiters();
                talk.at(Stage::Content, "250 taken").await?;
                talk.fault = next();
            }
            b"NOOP" => talk.at(Stage::Rest, "250 here").await?,
            b"QUIT" => return None,
            _ => talk.say("500 what?").await?,
        }
    }
}
