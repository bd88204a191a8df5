//! A client of HTTP/1.1 that does next to nothing: on a small machine the client must not eat what is measured.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::postroom::TOKEN;

/// More than a long poll takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection, kept alive.
pub(crate) struct Client {
    address: String,
    /// The line of the header that says who calls.
    credentials: String,
    stream: BufReader<TcpStream>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) tag: Option<String>,
    /// Name and value of the cookie that it sets.
    pub(crate) cookie: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).context("read an answer")
    }
}

impl Client {
    /// Calls with Alice's token.
    pub(crate) async fn connect(address: &str) -> anyhow::Result<Self> {
        Self::connect_as(address, &format!("Authorization: Bearer {TOKEN}\r\n")).await
    }

    /// Calls with other credentials: a whole line of a header, or nothing.
    pub(crate) async fn connect_as(address: &str, credentials: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { address: address.to_owned(), credentials: credentials.to_owned(), stream: BufReader::new(stream) })
    }

    pub(crate) async fn get(&mut self, path: &str, headers: &str) -> anyhow::Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{}{headers}\r\n", self.address, self.credentials);
        self.ask(&request).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<Answer> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            self.credentials,
            body.len()
        );
        self.ask(&request).await
    }

    async fn ask(&mut self, request: &str) -> anyhow::Result<Answer> {
        timeout(PATIENCE, self.ask_now(request)).await.context("no answer")?
    }

    async fn ask_now(&mut self, request: &str) -> anyhow::Result<Answer> {
        self.stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).context("read a status line")?;
        let (mut length, mut tag, mut cookie) = (if status == 304 { Some(0) } else { None }, None, None);
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line).await? > 0, "an answer broke off");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse().context("read a length")?);
            } else if name.eq_ignore_ascii_case("etag") {
                tag = Some(value.trim().to_owned());
            } else if name.eq_ignore_ascii_case("set-cookie") {
                cookie = value.trim().split(';').next().map(str::to_owned);
            }
        }
        let mut body = vec![0; length.context("an answer without a length")?];
        self.stream.read_exact(&mut body).await?;
        Ok(Answer { status, tag, cookie, body })
    }
}
