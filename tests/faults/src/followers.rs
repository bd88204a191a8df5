//! Who asks for reports while a Redis is struck and follows each from its `202` to its end: at once, then by a long poll at either
//! copy of web, and by a stream of its events at the copy that was not asked for it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::load::{Accepted, Report, Ways, Web};

/// Between two reports.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest that web holds an answer back.
const HELD: &str = "wait=60";
/// Whoever waits for an answer that is held back, or listens to a stream, gives up after this.
const PATIENCE: Duration = Duration::from_secs(120);
/// So soon after a job has ended everybody who waits for it must hear of that. A Redis that falls silent counts as away after four
/// seconds; from then on web looks at what is waited for once a second.
pub(crate) const SOON: Duration = Duration::from_secs(6);

/// What became of a report that was followed.
#[derive(Clone, Debug)]
pub(crate) struct Followed {
    pub(crate) accepted: Accepted,
    /// When its end was heard of, at each place where somebody waited.
    pub(crate) heard: Vec<DateTime<Utc>>,
    /// What should not have been answered.
    pub(crate) wrong: Vec<String>,
}

/// People who follow reports, until this is dropped.
#[derive(Debug)]
pub(crate) struct Followers {
    /// One task.
    steady: JoinSet<JoinSet<anyhow::Result<Followed>>>,
    enough: CancellationToken,
}

impl Followers {
    pub(crate) fn start(ways: &Arc<Ways>) -> Self {
        let (enough, mut steady) = (CancellationToken::new(), JoinSet::new());
        steady.spawn(ask(Arc::clone(ways), enough.clone()));
        Self { steady, enough }
    }

    /// Asks for no more, and waits until everybody has heard of the end of each.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<Followed>> {
        self.enough.cancel();
        let followed = self.steady.join_next().await.context("nobody follows a report")??;
        followed.join_all().await.into_iter().collect()
    }
}

async fn ask(ways: Arc<Ways>, enough: CancellationToken) -> JoinSet<anyhow::Result<Followed>> {
    let (mut followed, mut next) = (JoinSet::new(), interval(PAUSE));
    next.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0.. {
        if enough.run_until_cancelled(next.tick()).await.is_none() {
            break;
        }
        followed.spawn(follow(Arc::clone(&ways), number));
    }
    followed
}

async fn follow(ways: Arc<Ways>, web: usize) -> anyhow::Result<Followed> {
    let accepted = ways.web.report(Report { web: Some(web), run_at: None }).await?;
    let (asked, other) = (&ways.web, web + 1);
    let polls = join_all([web, other].map(|web| poll(asked, web, accepted.id)));
    let (polled, streamed) = tokio::join!(polls, stream(asked, other, accepted.id));
    let mut followed = Followed { accepted, heard: Vec::new(), wrong: Vec::new() };
    for heard in polled.into_iter().chain([streamed]) {
        match heard {
            Ok(at) => followed.heard.push(at),
            Err(error) => followed.wrong.push(format!("{} was followed: {error:#}", accepted.id)),
        }
    }
    Ok(followed)
}

/// Looks at once, then waits for the end; when that was heard of.
async fn poll(web: &Web, copy: usize, job: Uuid) -> anyhow::Result<DateTime<Utc>> {
    let path = format!("/v1/jobs/{job}");
    let first = web.get(copy, &path).send().await.context("no answer to the first look")?;
    ensure!(first.status() == StatusCode::OK, "the first look was answered {}", first.status());
    loop {
        let held = web.get(copy, &path).header("prefer", HELD).timeout(PATIENCE);
        let answer = held.send().await.context("no answer to a long poll")?;
        ensure!(answer.status() == StatusCode::OK, "a long poll was answered {}", answer.status());
        let job: Value = answer.json().await.context("the answer to a long poll broke off")?;
        if !job["finished_at"].is_null() {
            return Ok(Utc::now());
        }
    }
}

/// Listens until the final event; when that came.
async fn stream(web: &Web, copy: usize, job: Uuid) -> anyhow::Result<DateTime<Utc>> {
    let request = web.get(copy, &format!("/v1/jobs/{job}/events")).timeout(PATIENCE);
    let mut events = request.send().await.context("no answer to a stream")?;
    ensure!(events.status() == StatusCode::OK, "a stream was answered {}", events.status());
    let mut text = Vec::new();
    while let Some(chunk) = events.chunk().await.context("a stream broke off")? {
        text.extend_from_slice(&chunk);
    }
    let ended = Utc::now();
    let text = String::from_utf8(text)?;
    let last = text.lines().filter_map(|line| line.strip_prefix("event: ")).next_back();
    ensure!(last == Some("job.succeeded"), "a stream ended after {last:?}");
    Ok(ended)
}
