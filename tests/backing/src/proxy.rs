//! A way to a backing service that can fall silent or break off.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Stands between a client and a backing service.
#[derive(Debug)]
pub struct Proxy {
    /// The address, by way of the proxy.
    pub url: String,
    open: watch::Sender<bool>,
    cut: watch::Sender<bool>,
}

impl Proxy {
    /// `target` is a URL with a port.
    ///
    /// # Panics
    /// When the system gives no port.
    pub async fn start(target: &str) -> Self {
        let (_, place) = target.split_once("://").expect("a URL");
        let place = place.split('/').next().unwrap_or(place);
        let address = place.rsplit('@').next().unwrap_or(place).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = target.replace(&address, &listener.local_addr().expect("a port").to_string());
        let (open, cut) = (watch::channel(true).0, watch::channel(false).0);
        let proxy = Self { url, open: open.clone(), cut: cut.clone() };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if let Ok(far) = TcpStream::connect(&address).await {
                    tokio::spawn(carry(near, far, open.subscribe(), cut.subscribe()));
                }
            }
        });
        proxy
    }

    /// From now on nothing comes through, and nobody is told.
    pub fn silence(&self, silent: bool) {
        self.open.send_replace(!silent);
    }

    /// From now on every connection breaks off at once.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn carry(
    mut near: TcpStream,
    mut far: TcpStream,
    mut open: watch::Receiver<bool>,
    mut cut: watch::Receiver<bool>,
) {
    loop {
        tokio::select! {
            biased;
            _ = cut.wait_for(|cut| *cut) => return,
            _ = open.wait_for(|open| !open) => {}
            _ = copy_bidirectional(&mut near, &mut far) => return,
        }
        // Silent, but not gone: what either side sends now waits in its socket.
        if open.wait_for(|open| *open).await.is_err() {
            return;
        }
    }
}
