//! The jobs that run while a fault strikes: reports, orders and videos by HTTP, mails and no-ops by the broker. A job counts as accepted from the
//! `202` or the confirm; what gets neither is asked for again under the same id, as a good client does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use backing::{composed, samples};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::try_join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use pipeline::jobs::{Noop, SendEmail};
use pipeline::{Job, OutgoingJob, Publisher};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Whoever asks gives up after this.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);
/// Of a hundred jobs so many are reports, each with its mail, and so many are mails of their own; the rest are no-ops.
const REPORTS: u32 = 1;
const MAILS: u32 = 4;
/// And so many orders, each with its mail.
const ORDERS: u32 = 2;
/// And one job of so many is a video, with its mail.
const VIDEO_OF: u32 = 2000;
/// Which of them: neither the first nor a report.
const VIDEO: u32 = 500;
/// Pages that are looked at at once.
const LOOKS: usize = 32;
/// One no-op of ten lasts so long, so that some run whenever something breaks.
const WHILE: Duration = Duration::from_millis(300);

/// How jobs are handed in.
#[derive(Debug)]
pub(crate) struct Ways {
    pub(crate) web: Web,
    pub(crate) noops: Publisher,
    pub(crate) mails: Publisher,
    /// Of the mails, which are all about one report.
    pub(crate) mail: SendEmail,
}

/// Every copy of web, for one caller.
#[derive(Debug)]
pub(crate) struct Web {
    client: Client,
    /// Where the copies are.
    copies: [String; 2],
    token: &'static str,
    /// Of which there is plenty.
    product: Uuid,
    asked: AtomicU32,
}

/// What is known of a job that was accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accepted {
    pub(crate) id: Uuid,
    pub(crate) kind: Kind,
    pub(crate) at: DateTime<Utc>,
    /// How often it was asked for without an answer that told whether it was accepted, or with one that said no.
    pub(crate) in_vain: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With a mail that follows from it.
    Report,
    Mail,
    /// With a mail that follows from it.
    Order,
    /// With a mail that follows from it.
    Video,
    Noop,
    /// What can never be done.
    Poison,
}

impl Accepted {
    pub(crate) fn now(id: Uuid, kind: Kind, in_vain: u32) -> Self {
        Self { id, kind, at: Utc::now(), in_vain }
    }

    /// The id of the mail that a report, an order or a video asks for, or its own.
    pub(crate) fn mail(&self) -> Option<Uuid> {
        match self.kind {
            Kind::Report | Kind::Order | Kind::Video => Some(Uuid::new_v5(&self.id, SendEmail::KIND.as_bytes())),
            Kind::Mail => Some(self.id),
            Kind::Noop | Kind::Poison => None,
        }
    }
}

type Asked = JoinSet<anyhow::Result<Accepted>>;

/// Jobs that are being handed in, until this is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    ways: Arc<Ways>,
    /// One task.
    steady: JoinSet<Asked>,
    enough: CancellationToken,
    /// Beside the steady ones.
    more: Asked,
}

impl Load {
    /// Hands in jobs evenly, so many in so long, and goes on like that until it is finished.
    pub(crate) fn start(ways: &Arc<Ways>, jobs: u32, length: Duration) -> Self {
        let (enough, mut steady) = (CancellationToken::new(), JoinSet::new());
        steady.spawn(hand_in(Arc::clone(ways), jobs, length, enough.clone()));
        Self { ways: Arc::clone(ways), steady, enough, more: JoinSet::new() }
    }

    /// Hands in one more.
    pub(crate) fn add<F>(&mut self, job: impl FnOnce(Arc<Ways>) -> F)
    where
        F: Future<Output = anyhow::Result<Accepted>> + Send + 'static,
    {
        self.more.spawn(job(Arc::clone(&self.ways)));
    }

    /// Hands in no more than were promised, and waits until each was accepted.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<Accepted>> {
        self.enough.cancel();
        let mut accepted = Vec::new();
        let steady = self.steady.join_next().await.context("nobody hands jobs in")??;
        for mut asked in [steady, self.more] {
            while let Some(job) = asked.join_next().await {
                accepted.push(job??);
            }
        }
        // What was handed in twice is one job.
        accepted.sort_by_key(|job| (job.id, job.at));
        accepted.dedup_by_key(|job| job.id);
        Ok(accepted)
    }
}

async fn hand_in(ways: Arc<Ways>, jobs: u32, length: Duration, enough: CancellationToken) -> Asked {
    let (mut asked, begin) = (JoinSet::new(), Instant::now());
    for number in 0.. {
        if number >= jobs && enough.is_cancelled() {
            break;
        }
        sleep_until(begin + length * number / jobs).await;
        let ways = Arc::clone(&ways);
        asked.spawn(async move {
            if number % VIDEO_OF == VIDEO {
                return ways.web.video(samples::TWO_SECONDS).await;
            }
            match number % 100 {
                place if place < REPORTS => ways.web.report(Report::default()).await,
                place if place < REPORTS + MAILS => ways.mail(Uuid::now_v7()).await,
                place if place < REPORTS + MAILS + ORDERS => ways.web.order().await,
                place if place % 10 == 9 => ways.noop(Uuid::now_v7(), WHILE).await,
                _ => ways.noop(Uuid::now_v7(), Duration::ZERO).await,
            }
        });
    }
    asked
}

/// How a report is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    /// The copy of web that is asked first; else each in turn.
    pub(crate) web: Option<usize>,
    /// When it is due.
    pub(crate) run_at: Option<DateTime<Utc>>,
}

impl Ways {
    /// One that ends at once, or lasts for a while.
    pub(crate) async fn noop(&self, id: Uuid, lasts: Duration) -> anyhow::Result<Accepted> {
        let note = format!("sleep {}", lasts.as_millis());
        let job = OutgoingJob::new(id, Noop { note });
        let in_vain = publish(&self.noops, &job).await?;
        Ok(Accepted::now(id, Kind::Noop, in_vain))
    }

    pub(crate) async fn mail(&self, id: Uuid) -> anyhow::Result<Accepted> {
        let in_vain = publish(&self.mails, &OutgoingJob::new(id, self.mail.clone())).await?;
        Ok(Accepted::now(id, Kind::Mail, in_vain))
    }
}

impl Web {
    /// Everybody orders this product.
    pub(crate) fn new(product: Uuid) -> anyhow::Result<Self> {
        let token = composed("POSTROOM_TOKEN_ALICE");
        Ok(Self { client: client()?, copies: webs(), token, product, asked: AtomicU32::new(0) })
    }

    pub(crate) async fn report(&self, report: Report) -> anyhow::Result<Accepted> {
        let turn = self.turn();
        let day = (Utc::now() - TimeDelta::days(30 + i64::from(turn as u32 % 300))).date_naive();
        let mut body = json!({"report": "sales", "period": {"from": day, "to": day}});
        if let Some(run_at) = report.run_at {
            body["run_at"] = json!(run_at);
        }
        self.insist(report.web.unwrap_or(turn), "/v1/reports", Kind::Report, Body::Json(&body)).await
    }

    /// One piece of the product.
    pub(crate) async fn order(&self) -> anyhow::Result<Accepted> {
        let body = json!({"items": [{"product_id": self.product, "quantity": 1}]});
        self.insist(self.turn(), "/v1/orders", Kind::Order, Body::Json(&body)).await
    }

    pub(crate) async fn video(&self, file: &'static [u8]) -> anyhow::Result<Accepted> {
        self.insist(self.turn(), "/v1/videos?title=Clock", Kind::Video, Body::Video(file)).await
    }

    /// So many orders at once.
    pub(crate) async fn orders(&self, count: usize) -> anyhow::Result<Vec<Accepted>> {
        try_join_all((0..count).map(|_| self.order())).await
    }

    /// Waits until each copy answers, whatever it lacks.
    pub(crate) async fn answers(&self) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        for copy in 0..self.copies.len() {
            while self.get(copy, "/openapi.json").send().await.is_err() {
                ensure!(Instant::now() < end, "web does not come back");
                sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// Looks at each order and its job at each copy: they must be there, and wait.
    pub(crate) async fn show(&self, orders: &[Accepted]) -> anyhow::Result<()> {
        let paths = orders.iter().flat_map(|order| ["orders", "jobs"].map(|kind| format!("/v1/{kind}/{}", order.id)));
        let looks = paths.flat_map(|path| (0..self.copies.len()).map(move |copy| (copy, path.clone())));
        let looks = looks.map(|(copy, path)| async move {
            let shown = self.get(copy, &path).send().await.with_context(|| format!("no answer to {path}"))?;
            ensure!(shown.status() == StatusCode::OK, "{path} was answered {}", shown.status());
            let shown: Value = shown.json().await?;
            ensure!(shown["state"] == "queued", "{path} is not queued: {shown}");
            Ok(())
        });
        stream::iter(looks).buffer_unordered(LOOKS).try_collect().await
    }

    /// Another copy's each time.
    fn turn(&self) -> usize {
        self.asked.fetch_add(1, Ordering::Relaxed) as usize
    }

    /// Asks until it is accepted, under one key, one copy after another.
    async fn insist(&self, first: usize, path: &str, kind: Kind, body: Body<'_>) -> anyhow::Result<Accepted> {
        let (key, end) = (Uuid::new_v4(), Instant::now() + PATIENCE);
        for in_vain in 0.. {
            match self.post(first + in_vain as usize, path, key, body).await {
                Ok((StatusCode::ACCEPTED, job)) => {
                    let id = job["id"].as_str().context("a 202 without an id")?.parse()?;
                    return Ok(Accepted::now(id, kind, in_vain));
                }
                // What the problem type says to repeat, a gateway's word, or no word at all.
                Ok((status, _)) if status.is_server_error() => {}
                Ok((status, problem)) => bail!("{path} was answered {status}: {problem}"),
                Err(_) => {}
            }
            ensure!(Instant::now() < end, "no web takes what is sent to {path}");
            sleep(PAUSE).await;
        }
        bail!("there is no web")
    }

    /// Asks one copy for something of the caller's own.
    pub(crate) fn get(&self, web: usize, path: &str) -> RequestBuilder {
        let web = &self.copies[web % self.copies.len()];
        self.client.get(format!("{web}{path}")).bearer_auth(self.token)
    }

    /// Whether a report's file is there, and whole.
    pub(crate) async fn has_file(&self, report: Uuid) -> anyhow::Result<bool> {
        let response = self.get(0, &format!("/v1/reports/{report}/pdf")).send().await?;
        let found = response.status() == StatusCode::OK;
        let file = response.bytes().await?;
        Ok(found && file.starts_with(b"%PDF-") && file.trim_ascii_end().ends_with(b"%%EOF"))
    }

    /// Waits until the run of a video has told how far it is.
    pub(crate) async fn is_at_work(&self, video: &Accepted) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let job: Value = self.get(0, &format!("/v1/jobs/{}", video.id)).send().await?.json().await?;
            if job["state"] == "running" && job["progress"]["done"].as_u64() > Some(0) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the video is not being made");
            sleep(PAUSE).await;
        }
    }

    /// Whether every file of a video is there, and the largest of the size that was told.
    pub(crate) async fn has_video(&self, video: Uuid) -> anyhow::Result<bool> {
        let shown: Value = self.get(0, &format!("/v1/videos/{video}")).send().await?.json().await?;
        let made = &shown["made"];
        let names = made["files"].as_array().map_or(&[][..], Vec::as_slice).iter().filter_map(Value::as_str);
        let mut sizes = BTreeMap::new();
        for name in names {
            let file = self.get(1, &format!("/v1/videos/{video}/files/{name}")).send().await?;
            ensure!(file.status() == StatusCode::OK, "{name} of {video} was answered {}", file.status());
            sizes.insert(name, file.bytes().await?.len() as u64);
        }
        let renditions = made["renditions"].as_array().map_or(&[][..], Vec::as_slice);
        let whole = |rendition: &Value| {
            let file = format!("{}.mp4", rendition["name"].as_str().unwrap_or_default());
            sizes.get(file.as_str()).copied() == rendition["bytes"].as_u64()
        };
        Ok(!renditions.is_empty() && renditions.iter().all(whole) && sizes.contains_key("master.m3u8"))
    }

    async fn post(&self, web: usize, path: &str, key: Uuid, body: Body<'_>) -> reqwest::Result<(StatusCode, Value)> {
        let web = &self.copies[web % self.copies.len()];
        let request = self.client.post(format!("{web}{path}")).bearer_auth(self.token);
        let request = match body {
            Body::Json(body) => request.json(body),
            Body::Video(file) => request.header("content-type", "video/mp4").body(file),
        };
        let response = request.header("idempotency-key", key.to_string()).send().await?;
        Ok((response.status(), response.json().await?))
    }
}

/// What is sent.
#[derive(Clone, Copy)]
enum Body<'a> {
    Json(&'a Value),
    Video(&'static [u8]),
}

/// Where the copies of web are.
pub(crate) fn webs() -> [String; 2] {
    ["POSTROOM_WEB_PORT", "POSTROOM_WEB_2_PORT"].map(|port| format!("http://127.0.0.1:{}", composed(port)))
}

/// Whoever asks them.
pub(crate) fn client() -> reqwest::Result<Client> {
    // Web closes a connection that rests for 5 s; one that is used in that very moment would break off.
    Client::builder().timeout(Duration::from_secs(10)).pool_idle_timeout(Duration::from_secs(2)).build()
}

async fn publish<J: Job>(publisher: &Publisher, job: &OutgoingJob<J>) -> anyhow::Result<u32> {
    let (end, mut in_vain) = (Instant::now() + PATIENCE, 0);
    while let Err(error) = publisher.publish_job(job).await {
        ensure!(Instant::now() < end, "the broker takes no job: {error}");
        in_vain += 1;
        sleep(PAUSE).await;
    }
    Ok(in_vain)
}
