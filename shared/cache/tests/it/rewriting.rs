//! A way to Redis on which something else is said than was meant: the client is the real one, and knows nothing of it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Stands between clients and a Redis.
pub(crate) struct Rewriting {
    /// The address, by way of this.
    pub(crate) url: String,
}

impl Rewriting {
    /// Whatever is `wanted`, by the client or in an answer, becomes `instead`, which is as long.
    pub(crate) async fn start(target: &str, wanted: &str, instead: &str) -> Self {
        assert_eq!(wanted.len(), instead.len());
        let address = target.rsplit('@').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = target.replace(&address, &listener.local_addr().unwrap().to_string());
        let texts = (wanted.as_bytes().to_vec(), instead.as_bytes().to_vec());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.unwrap();
                let texts = texts.clone();
                tokio::spawn(async move { carry(near, far, (&texts.0, &texts.1)).await });
            }
        });
        Self { url }
    }
}

async fn carry(near: TcpStream, far: TcpStream, texts: (&[u8], &[u8])) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    tokio::try_join!(rewrite(near_reads, far_writes, texts), rewrite(far_reads, near_writes, texts))?;
    Ok(())
}

async fn rewrite(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    (wanted, instead): (&[u8], &[u8]),
) -> io::Result<()> {
    let mut said = Vec::new();
    while from.read_buf(&mut said).await? > 0 {
        while let Some(found) = said.windows(wanted.len()).position(|part| part == wanted) {
            said[found..found + wanted.len()].copy_from_slice(instead);
        }
        // Its beginning may stand at the end: the rest is to come.
        let open = (1..wanted.len()).rev().find(|length| said.ends_with(&wanted[..*length])).unwrap_or(0);
        to.write_all(&said[..said.len() - open]).await?;
        said.drain(..said.len() - open);
    }
    to.shutdown().await
}
