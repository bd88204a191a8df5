//! A way to Redis on which one script is called in the place of another: the client is the real one, and knows nothing of it.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// Stands between clients and a Redis.
pub(crate) struct Rewriting {
    /// The address, by way of this.
    pub(crate) url: String,
}

impl Rewriting {
    /// `wanted` and `instead` are hashes of scripts.
    pub(crate) async fn start(target: &str, wanted: &str, instead: &str) -> Self {
        assert_eq!(wanted.len(), instead.len());
        let address = target.rsplit('@').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = target.replace(&address, &listener.local_addr().unwrap().to_string());
        let hashes = (wanted.as_bytes().to_vec(), instead.as_bytes().to_vec());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.unwrap();
                tokio::spawn(carry(near, far, hashes.clone()));
            }
        });
        Self { url }
    }
}

async fn carry(near: TcpStream, far: TcpStream, (wanted, instead): (Vec<u8>, Vec<u8>)) -> io::Result<()> {
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (mut near_reads, mut near_writes) = near.into_split();
    let (mut far_reads, mut far_writes) = far.into_split();
    let asking = async {
        let mut said = Vec::new();
        while near_reads.read_buf(&mut said).await? > 0 {
            while let Some(found) = said.windows(wanted.len()).position(|part| part == wanted) {
                said[found..found + wanted.len()].copy_from_slice(&instead);
            }
            // The beginning of the hash may stand at the end: the rest is to come.
            let open = (1..wanted.len()).rev().find(|length| said.ends_with(&wanted[..*length])).unwrap_or(0);
            far_writes.write_all(&said[..said.len() - open]).await?;
            said.drain(..said.len() - open);
        }
        far_writes.shutdown().await
    };
    tokio::try_join!(asking, copy(&mut far_reads, &mut near_writes))?;
    Ok(())
}
