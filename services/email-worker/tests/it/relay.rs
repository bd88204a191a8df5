//! An SMTP server that misbehaves where it is told to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use email_worker::settings::SmtpUrl;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where in a mail's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Greeting,
    Hello,
    Sender,
    Recipient,
    Data,
    /// The whole mail is here.
    Content,
    /// The client asks whether the relay still lives.
    Rest,
}

/// What the relay does there.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Answer(&'static str),
    Drop,
    /// Says nothing until the client goes.
    Hang,
    /// Says "250" once it is let.
    Hold(Arc<Notify>),
    /// Drops the connection in the middle of the mail.
    DropHalfway,
}

/// The misbehaviour at one mail; everything else goes well.
pub(crate) type Fault = (Stage, Act);

/// What the relay saw.
#[derive(Default)]
struct Seen {
    faults: Mutex<VecDeque<Option<Fault>>>,
    mails: Mutex<Vec<Vec<u8>>>,
    connections: Mutex<usize>,
    arrived: Notify,
}

/// The server. Each mail takes the next fault; with none left all goes well.
pub(crate) struct Relay {
    url: SmtpUrl,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn start(faults: impl IntoIterator<Item = Option<Fault>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = SmtpUrl::try_from(format!("smtp://{}", listener.local_addr().unwrap())).unwrap();
        let seen = Arc::new(Seen { faults: Mutex::new(faults.into_iter().collect()), ..Seen::default() });
        let serving = tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    *seen.connections.lock().unwrap() += 1;
                    tokio::spawn(converse(stream, Arc::clone(&seen)));
                }
            }
        });
        Self { url, seen, serving }
    }

    pub(crate) fn url(&self) -> SmtpUrl {
        self.url.clone()
    }

    /// The mails that arrived whole, whatever was answered.
    pub(crate) fn mails(&self) -> Vec<Vec<u8>> {
        self.seen.mails.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.seen.connections.lock().unwrap()
    }

    /// Waits until so many mails have arrived whole.
    pub(crate) async fn arrived(&self, count: usize) {
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

struct Conversation {
    lines: BufReader<OwnedReadHalf>,
    answers: OwnedWriteHalf,
    fault: Option<Fault>,
}

impl Conversation {
    /// `None` ends it.
    async fn at(&mut self, stage: Stage, good: &str) -> Option<()> {
        let act = match &self.fault {
            Some((faulty, act)) if *faulty == stage => act.clone(),
            _ => return self.say(good).await,
        };
        match act {
            Act::Answer(answer) => self.say(answer).await,
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
    let next = || seen.faults.lock().unwrap().pop_front().flatten();
    let mut talk = Conversation { lines: BufReader::new(read), answers, fault: next() };
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
                seen.mails.lock().unwrap().push(content);
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
