//! Deletes what is older than it is kept, one process at a time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use pipeline::jobs::{Job, RenderReport};
use store::files::report_key;
use store::retention::{self, OldJob, Sweep};
use store::{DatabaseError, Files, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::settings::KeptDays;

/// Half as long to half as long again, by chance: copies that started together do not sweep together.
const EVERY: Duration = Duration::from_secs(600);
/// Rows that are deleted at once: locks are short, and others get their turn.
const BATCH: u32 = 500;
/// Files that are deleted side by side.
const FILES_AT_ONCE: usize = 16;
/// The marks of sent mails must outlive every message that could be replayed, or a replay mails twice.
const MARKS_KEPT: TimeDelta = TimeDelta::days(90);

/// Sweeps.
#[derive(Clone, Debug)]
pub struct Sweeper {
    pool: PgPool,
    files: Files,
    kept: TimeDelta,
}

impl Sweeper {
    /// One that keeps jobs for so long.
    #[must_use]
    pub fn new(pool: PgPool, files: Files, kept: KeptDays) -> Self {
        for what in ["jobs", "outbox", "firings", "idempotency_keys", "sent_mails"] {
            metrics::counter!("swept_total", "what" => what).increment(0);
        }
        Self { pool, files, kept: kept.length() }
    }

    /// Sweeps every now and then until `drain`.
    ///
    /// # Errors
    /// None; it is a task like others.
    pub async fn run(self, drain: CancellationToken) -> anyhow::Result<()> {
        while drain.run_until_cancelled(tokio::time::sleep(EVERY.mul_f64(0.5 + rand::random::<f64>()))).await.is_some()
        {
            if let Err(error) = self.sweep(Utc::now(), &drain).await {
                tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "the sweep was interrupted");
            }
        }
        Ok(())
    }

    /// Deletes what is too old `now`; false when somebody else is at it. Stops early at `drain`.
    ///
    /// # Errors
    /// The database failed; the next sweep goes on from there.
    pub async fn sweep(&self, now: DateTime<Utc>, drain: &CancellationToken) -> Result<bool, DatabaseError> {
        let Some(mut sweep) = retention::begin(&self.pool).await? else {
            return Ok(false);
        };
        let before = now - self.kept;
        let marks_before = now - MARKS_KEPT.max(self.kept * 3);
        while !drain.is_cancelled() && self.sweep_jobs(&mut sweep, before).await? {}
        while !drain.is_cancelled() && more("outbox", sweep.outbox(before, BATCH).await?) {}
        while !drain.is_cancelled() && more("firings", sweep.firings(before, BATCH).await?) {}
        while !drain.is_cancelled() && more("idempotency_keys", sweep.idempotency_keys(before, BATCH).await?) {}
        while !drain.is_cancelled() && more("sent_mails", sweep.sent_mails(marks_before, BATCH).await?) {}
        sweep.finish().await?;
        Ok(true)
    }

    /// Deletes a batch of jobs, their files first: a crash in between leaves a job that is found again. Whether there may be
    /// more.
    async fn sweep_jobs(&self, sweep: &mut Sweep, before: DateTime<Utc>) -> Result<bool, DatabaseError> {
        let old = sweep.old_jobs(before, BATCH).await?;
        let found = old.len();
        let deleting = old.into_iter().map(|job| async move { self.delete_file(&job).await.then_some(job.id) });
        let bare: Vec<Uuid> =
            stream::iter(deleting).buffer_unordered(FILES_AT_ONCE).filter_map(std::future::ready).collect().await;
        let more = more("jobs", sweep.delete_jobs(&bare, before).await?);
        // A job whose file stays is the first to be found again: leave it to the next sweep.
        Ok(more && bare.len() == found)
    }

    /// Whether the job has no file, now.
    async fn delete_file(&self, job: &OldJob) -> bool {
        if job.kind != RenderReport::KIND {
            return true;
        }
        match self.files.delete(&report_key(job.id)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(job.id = %job.id, error = format!("{:#}", anyhow::Error::new(error)), "delete a file");
                false
            }
        }
    }
}

/// Counts what was deleted, and says whether there may be more.
fn more(what: &'static str, deleted: u64) -> bool {
    if deleted > 0 {
        tracing::info!(what, rows = deleted, "swept");
        metrics::counter!("swept_total", "what" => what).increment(deleted);
    }
    deleted == u64::from(BATCH)
}
