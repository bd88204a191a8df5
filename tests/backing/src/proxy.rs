//! A way to a backing service that can fall silent, be slow, hold back answers or break off.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Stands between clients and a backing service.
#[derive(Debug)]
pub struct Proxy {
    /// The address, by way of the proxy.
    pub url: String,
    way: Way,
}

/// What comes through.
#[derive(Clone, Debug)]
struct Way {
    asking: watch::Sender<bool>,
    slowness: watch::Sender<Duration>,
    answering: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

impl Proxy {
    /// `target` is a URL with a port.
    ///
    /// # Panics
    /// When the system gives no port.
    pub async fn start(target: &str) -> Self {
        Self::start_at("127.0.0.1:0", target).await
    }

    /// The same, on an address of one's own choice.
    ///
    /// # Panics
    /// When it is taken.
    pub async fn start_at(near: &str, target: &str) -> Self {
        let (_, place) = target.split_once("://").expect("a URL");
        let place = place.split('/').next().unwrap_or(place);
        let address = place.rsplit('@').next().unwrap_or(place).to_owned();
        let listener = TcpListener::bind(near).await.expect("a port");
        let url = target.replace(&address, &listener.local_addr().expect("a port").to_string());
        let [asking, answering] = [(); 2].map(|()| watch::Sender::new(true));
        let slowness = watch::Sender::new(Duration::ZERO);
        let way = Way { asking, slowness, answering, cut: watch::Sender::new(false) };
        let proxy = Self { url, way: way.clone() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if let Ok(far) = TcpStream::connect(&address).await {
                    tokio::spawn(carry(near, far, way.clone()));
                }
            }
        });
        proxy
    }

    /// From now on nothing comes through, and nobody is told.
    pub fn silence(&self, silent: bool) {
        self.way.asking.send_replace(!silent);
        self.way.answering.send_replace(!silent);
    }

    /// From now on what the client says comes through, and what is answered waits.
    pub fn hold_answers(&self, hold: bool) {
        self.way.answering.send_replace(!hold);
    }

    /// From now on what the client says comes through so much later.
    pub fn slow_down(&self, by: Duration) {
        self.way.slowness.send_replace(by);
    }

    /// From now on every connection breaks off at once.
    pub fn cut(&self, cut: bool) {
        self.way.cut.send_replace(cut);
    }
}

async fn carry(near: TcpStream, far: TcpStream, way: Way) {
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    let prompt = watch::Sender::new(Duration::ZERO);
    let both = async {
        tokio::try_join!(
            pump(near_reads, far_writes, way.asking.subscribe(), way.slowness.subscribe()),
            pump(far_reads, near_writes, way.answering.subscribe(), prompt.subscribe())
        )
    };
    let mut cut = way.cut.subscribe();
    tokio::select! {
        biased;
        _ = cut.wait_for(|cut| *cut) => {}
        // An error of one side ends both, as a lost process does.
        _ = both => {}
    }
}

/// Carries what one side says to the other, while the way is open, until it has said all.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut open: watch::Receiver<bool>,
    slowness: watch::Receiver<Duration>,
) -> io::Result<()> {
    let mut said = vec![0; 16 * 1024];
    loop {
        let bytes = from.read(&mut said).await?;
        let slowness = *slowness.borrow();
        if !slowness.is_zero() {
            tokio::time::sleep(slowness).await;
        }
        open.wait_for(|open| *open).await.map_err(io::Error::other)?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        to.write_all(&said[..bytes]).await?;
    }
}
