//! What a worker's process holds in memory, at rest and under load.

use std::time::Duration;

use anyhow::{Context, ensure};
use chrono::NaiveDate;
use pipeline::OutgoingJob;
use pipeline::jobs::{FileReference, Message, Noop, Period, Recipient, ReportReady, SendEmail};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::Plan;
use crate::house::House;
use crate::postroom;
use crate::publishing::Outstanding;
use crate::results::Results;
use crate::smtp::Relay;

const JOBS: u32 = 30_000;
const MAILS: u32 = 3_000;
/// Of the file in each mail: a small report.
const FILE_BYTES: usize = 40_000;
/// From the first delivery that it could take to the look at what it holds.
const REST: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const NOOP: &str = "no-op worker";
pub(crate) const EMAIL: &str = "email-worker";

/// One round of both.
pub(crate) async fn measure(house: &House, plan: &Plan, results: &mut Results) -> anyhow::Result<()> {
    house.clear(&["noop.normal", "email.normal", "tracker.lifecycle"], &[]).await?;
    house.forget_jobs().await?;
    noop(house, plan.sized(JOBS), results).await?;
    email(house, plan.sized(MAILS), results).await?;
    house.clear(&["tracker.lifecycle"], &[]).await?;
    house.forget_jobs().await
}

async fn noop(house: &House, count: u32, results: &mut Results) -> anyhow::Result<()> {
    let worker = postroom::noop_worker(house).await?;
    sleep(REST).await;
    results.add("memory", NOOP, "at rest", "MiB", worker.memory("VmRSS").await?);
    let broker = postroom::broker(&house.broker_url("noop-worker"), "noop-worker").await?;
    let publisher = broker.publisher();
    let publish = async |_| {
        let job = OutgoingJob::new(Uuid::now_v7(), Noop { note: "x".repeat(189) });
        anyhow::Ok(publisher.publish_job(&job).await?)
    };
    Outstanding(256).of(count as usize, publish).await?;
    broker.close().await;
    house.wait_empty("noop.normal", PATIENCE).await?;
    results.add("memory", NOOP, "most under load", "MiB", worker.memory("VmHWM").await?);
    worker.stop().await
}

async fn email(house: &House, count: u32, results: &mut Results) -> anyhow::Result<()> {
    let relay = Relay::start().await?;
    let worker = postroom::email_worker(house, &relay.address).await?;
    sleep(REST).await;
    results.add("memory", EMAIL, "at rest", "MiB", worker.memory("VmRSS").await?);
    let key = "bench.pdf";
    std::fs::write(house.folder.join("files").join(key), vec![b'x'; FILE_BYTES]).context("write a report")?;
    let broker = postroom::broker(&house.broker_url("pdf-report"), "pdf-report").await?;
    let publisher = broker.publisher();
    let mail = mail(key)?;
    let publish = async |_| anyhow::Ok(publisher.publish_job(&OutgoingJob::new(Uuid::now_v7(), mail.clone())).await?);
    Outstanding(256).of(count as usize, publish).await?;
    broker.close().await;
    let begin = Instant::now();
    while relay.taken() < u64::from(count) {
        ensure!(begin.elapsed() < PATIENCE, "only {} of {count} mails were sent", relay.taken());
        sleep(Duration::from_millis(20)).await;
    }
    results.add("memory", EMAIL, "most under load", "MiB", worker.memory("VmHWM").await?);
    worker.stop().await
}

fn mail(key: &str) -> anyhow::Result<SendEmail> {
    let day = |day| NaiveDate::from_ymd_opt(2025, 11, day).context("a day");
    let file = FileReference {
        key: key.to_owned(),
        name: "report.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        bytes: FILE_BYTES as u64,
    };
    Ok(SendEmail {
        to: Recipient { name: "Alice".to_owned().try_into()?, address: "alice@shop.example".to_owned().try_into()? },
        message: Message::ReportReady(ReportReady {
            report_id: Uuid::now_v7(),
            title: "Sales".to_owned(),
            period: Period::new(day(1)?, day(30)?)?,
            pages: 2,
            file,
        }),
    })
}
