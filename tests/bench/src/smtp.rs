//! A mail relay that takes everything and keeps nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// Takes mails until it is dropped.
pub(crate) struct Relay {
    pub(crate) address: String,
    taken: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, taken) = (listener.local_addr()?.to_string(), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let taken = Arc::clone(&counter);
                // A client that breaks off has its own log.
                tokio::spawn(async move { take(stream, &taken).await.ok() });
            }
        });
        Ok(Self { address, taken, _task: AbortOnDropHandle::new(task) })
    }

    /// Mails so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

async fn take(stream: TcpStream, taken: &AtomicU64) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 bench\r\n").await?;
    let (mut line, mut in_mail) = (Vec::new(), false);
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let answer: &[u8] = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_slice() {
            _ if in_mail && line == b".\r\n" => {
                in_mail = false;
                taken.fetch_add(1, Ordering::Relaxed);
                b"250 taken\r\n"
            }
            _ if in_mail => continue,
            b"DATA" => {
                in_mail = true;
                b"354 go on\r\n"
            }
            b"QUIT" => return stream.write_all(b"221 bye\r\n").await,
            _ => b"250 bench\r\n",
        };
        stream.write_all(answer).await?;
    }
}
