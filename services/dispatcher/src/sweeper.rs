//! Deletes what is older than it is kept, one process at a time.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use pipeline::jobs::{Job, RenderReport, TranscodeVideo};
use store::files::{OlderFolders, UPLOADS, VIDEOS, is_video_source, report_key, video_folder};
use store::retention::{self, OldJob, Sweep};
use store::{DatabaseError, Files, FilesError, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::settings::KeptDays;

/// Half as long to half as long again, by chance: copies that started together do not sweep together.
const EVERY: Duration = Duration::from_secs(600);
/// Rows that are deleted at once: locks are short, and others get their turn.
const BATCH: u32 = 500;
/// Files that are deleted side by side.
const FILES_AT_ONCE: usize = 16;
/// Far longer than web waits for an upload.
const UPLOADS_KEPT: TimeDelta = TimeDelta::days(1);
/// The upload of a job that has ended. A run that began before that was known may read it still.
const SOURCES_KEPT: TimeDelta = TimeDelta::hours(1);
/// A video that belongs to no known job. Its job may be one that the broker took while the database was away, and that waits for a
/// worker: it is known once it begins.
const UNOWNED_KEPT: TimeDelta = TimeDelta::days(7);
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
        for what in ["jobs", "outbox", "firings", "idempotency_keys", "sent_mails", "uploads", "sources", "videos"] {
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
        while !drain.is_cancelled() && self.sweep_uploads(now - UPLOADS_KEPT).await {}
        self.sweep_sources(&mut sweep, now - SOURCES_KEPT, drain).await?;
        self.sweep_unowned_videos(&mut sweep, now - UNOWNED_KEPT, drain).await?;
        sweep.finish().await?;
        Ok(true)
    }

    /// Deletes a batch of jobs, their files first: a crash in between leaves a job that is found again. Whether there may be
    /// more.
    async fn sweep_jobs(&self, sweep: &mut Sweep, before: DateTime<Utc>) -> Result<bool, DatabaseError> {
        let old = sweep.old_jobs(before, BATCH).await?;
        let found = old.len();
        let deleting = old.into_iter().map(|job| async move { done(self.delete_files(&job).await).map(|()| job.id) });
        let bare = side_by_side(deleting).await;
        let more = more("jobs", sweep.delete_jobs(&bare, before).await?);
        // A job whose file stays is the first to be found again: leave it to the next sweep.
        Ok(more && bare.len() == found)
    }

    async fn delete_files(&self, job: &OldJob) -> Result<(), FilesError> {
        match job.kind.as_str() {
            RenderReport::KIND => self.files.delete(&report_key(job.id)).await,
            TranscodeVideo::KIND => self.files.delete_folder(&video_folder(job.id)).await,
            _ => Ok(()),
        }
    }

    /// Deletes a batch of uploads that nobody finished, or that belong to nothing. Whether there may be more.
    async fn sweep_uploads(&self, before: DateTime<Utc>) -> bool {
        let limit = BATCH as usize;
        let unfinished = done(self.files.delete_unfinished(UPLOADS, before, limit).await).unwrap_or_default();
        let old = done(self.files.older_than(UPLOADS, before, limit).await).unwrap_or_default();
        let deleting = old.into_iter().map(|key| async move { done(self.files.delete(&key).await) });
        let old = side_by_side(deleting).await;
        // Both are counted.
        more("uploads", unfinished) | more("uploads", old.len() as u64)
    }

    /// Deletes the uploads of videos whose jobs have ended. That of a dead job stays: a replay needs it.
    async fn sweep_sources(
        &self,
        sweep: &mut Sweep,
        before: DateTime<Utc>,
        drain: &CancellationToken,
    ) -> Result<(), DatabaseError> {
        let Some(mut older) = done(self.files.older_folders(VIDEOS, before).await) else {
            return Ok(());
        };
        while !drain.is_cancelled()
            && let Some(ids) = next_videos(&mut older).await
        {
            let settled = sweep.settled_jobs(&ids, before).await?;
            let deleting = settled.into_iter().map(|id| async move { done(self.delete_sources(id, before).await) });
            let deleted = side_by_side(deleting).await;
            more("sources", deleted.into_iter().sum());
        }
        Ok(())
    }

    /// Deletes what was uploaded of a video before that moment; how many files.
    async fn delete_sources(&self, video: Uuid, before: DateTime<Utc>) -> Result<u64, FilesError> {
        let mut deleted = 0;
        let old = self.files.older_than(&video_folder(video), before, BATCH as usize).await?;
        for key in old.iter().filter(|key| is_video_source(key)) {
            self.files.delete(key).await?;
            deleted += 1;
        }
        Ok(deleted)
    }

    /// Deletes the videos of which no job is known: an upload was stored, and then no job accepted.
    async fn sweep_unowned_videos(
        &self,
        sweep: &mut Sweep,
        before: DateTime<Utc>,
        drain: &CancellationToken,
    ) -> Result<(), DatabaseError> {
        let Some(mut older) = done(self.files.older_folders(VIDEOS, before).await) else {
            return Ok(());
        };
        while !drain.is_cancelled()
            && let Some(ids) = next_videos(&mut older).await
        {
            let unowned = sweep.unknown_jobs(&ids).await?;
            let deleting =
                unowned.into_iter().map(|id| async move { done(self.files.delete_folder(&video_folder(id)).await) });
            let deleted = side_by_side(deleting).await;
            more("videos", deleted.len() as u64);
        }
        Ok(())
    }
}

/// What came of each that was done.
async fn side_by_side<T>(deleting: impl Iterator<Item = impl Future<Output = Option<T>>>) -> Vec<T> {
    stream::iter(deleting).buffer_unordered(FILES_AT_ONCE).filter_map(std::future::ready).collect().await
}

/// The videos in the next of these folders; `None` after the last.
async fn next_videos(folders: &mut OlderFolders) -> Option<Vec<Uuid>> {
    let folders = done(folders.next(BATCH as usize).await).filter(|folders| !folders.is_empty())?;
    Some(folders.iter().filter_map(|folder| video_id(folder)).collect())
}

/// The video whose folder it is.
fn video_id(folder: &str) -> Option<Uuid> {
    let id = folder.rsplit('/').next()?.parse().ok()?;
    (video_folder(id) == folder).then_some(id)
}

/// What fails is left to the next sweep.
fn done<T>(outcome: Result<T, FilesError>) -> Option<T> {
    let failed = |error| tracing::warn!(error = format!("{:#}", anyhow::Error::new(error)), "sweep files");
    outcome.map_err(failed).ok()
}

/// Counts what was deleted, and says whether there may be more.
fn more(what: &'static str, deleted: u64) -> bool {
    if deleted > 0 {
        tracing::info!(what, rows = deleted, "swept");
        metrics::counter!("swept_total", "what" => what).increment(deleted);
    }
    deleted == u64::from(BATCH)
}
