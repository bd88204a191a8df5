//! `video.transcode`: make the renditions, tell that the video is ready, have it mailed; or say why there is none, and have that mailed.

use pipeline::events::{EventBody, ReadyVideo};
use pipeline::jobs::{Job, Message, SendEmail, TranscodeVideo, VideoReady, VideoRefused};
use pipeline::{Done, Event, Failure, Handler, JobContext, OrFail, OutgoingJob, PublishError, Publisher};
use serde_json::json;
use store::files::video_folder;

use crate::transcoder::{Refusal, TranscodeError, Transcoded, Transcoder, Waiting};

/// Makes videos. The names of the files are always the same: a video that is made twice is one.
#[derive(Debug)]
pub struct TranscodeVideoHandler {
    /// What makes the files.
    pub transcoder: Transcoder,
    /// Where the mail is asked for.
    pub publisher: Publisher,
}

impl Handler for TranscodeVideoHandler {
    type Job = TranscodeVideo;

    async fn run(&self, job: TranscodeVideo, context: &JobContext) -> Result<Done, Failure> {
        let tell = |phase: &str, percent| context.progress(phase, percent, 100);
        let waiting = Waiting { stop: context.cancelled(), tell: &tell };
        match self.transcoder.transcode(context.id(), &job.source, waiting).await {
            Ok(made) => self.ready(job, made, context).await,
            Err(error) => match answer(&error, context.attempt()) {
                Answer::Refuse(refusal) => self.refuse(job, refusal, context).await,
                Answer::Fail(failure) => Err(failure),
            },
        }
    }
}

impl TranscodeVideoHandler {
    async fn ready(&self, job: TranscodeVideo, made: Transcoded, context: &JobContext) -> Result<Done, Failure> {
        if context.cancelled().is_cancelled() {
            return Err(Failure::retry("told to stop"));
        }
        let Transcoded { millis, renditions, files } = made;
        let result = json!({"title": job.title, "millis": millis, "renditions": renditions, "files": files});
        let largest = renditions.first().map(|rendition| format!("{}.mp4", rendition.name));
        let ready = VideoReady {
            video_id: context.id(),
            title: job.title.clone(),
            seconds: millis.div_ceil(1000),
            file: largest.unwrap_or_default(),
        };
        // The mail is asked for before the video is told to be ready: whoever hears of the one may count on the other.
        self.ask_for_mail(&job, Message::VideoReady(ready), context).await.or_retry("ask for the mail")?;
        let video =
            ReadyVideo { id: context.id(), title: job.title, millis, folder: video_folder(context.id()), renditions };
        let ready = Event::of_job(context, EventBody::VideoReady { video });
        self.publisher.publish_event(&ready).await.or_retry("tell that the video is ready")?;
        Ok(Done::with_result(result))
    }

    async fn refuse(&self, job: TranscodeVideo, refusal: Refusal, context: &JobContext) -> Result<Done, Failure> {
        let reason = refusal.reason().to_owned();
        let refused = VideoRefused { video_id: context.id(), title: job.title.clone(), reason: reason.clone() };
        self.ask_for_mail(&job, Message::VideoRefused(refused), context).await.or_retry("ask for the mail")?;
        Err(Failure::refused(refusal.code(), reason))
    }

    /// Its id derives from the video's job: however often that runs, it is one mail.
    async fn ask_for_mail(
        &self,
        job: &TranscodeVideo,
        message: Message,
        context: &JobContext,
    ) -> Result<(), PublishError> {
        let mail = OutgoingJob {
            owner: context.owner().map(ToOwned::to_owned),
            correlation_id: Some(context.id()),
            accepted_at: context.accepted_at(),
            trace: Some(context.trace().clone()),
            ..OutgoingJob::new(context.child_id(SendEmail::KIND), SendEmail { to: job.recipient.clone(), message })
        };
        self.publisher.publish_job(&mail).await
    }
}

#[derive(Debug, PartialEq)]
enum Answer {
    Refuse(Refusal),
    Fail(Failure),
}

/// What the file did is final, what the machine did may pass. Where nobody can tell, the file gets a second chance.
fn answer(error: &TranscodeError, attempt: u32) -> Answer {
    let reason = format!("make the video: {error}");
    match error {
        TranscodeError::Refused(refusal) => Answer::Refuse(*refusal),
        TranscodeError::Unclear(_) if attempt > 1 => {
            tracing::warn!(%error, "a video is given up");
            Answer::Refuse(Refusal::TooComplex)
        }
        TranscodeError::Unclear(_) | TranscodeError::Machine(_) | TranscodeError::Stopped => {
            Answer::Fail(Failure::retry(reason))
        }
        TranscodeError::Defect(_) => Answer::Fail(Failure::reject(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_errors_and_answers() {
        let retry = |what: &str| Answer::Fail(Failure::retry(format!("make the video: {what}")));
        let (machine, unclear) =
            (|| TranscodeError::Machine("disk full".into()), || TranscodeError::Unclear("killed".into()));
        let table = [
            (TranscodeError::Refused(Refusal::NoPicture), 1, Answer::Refuse(Refusal::NoPicture)),
            (TranscodeError::Refused(Refusal::NoPicture), 5, Answer::Refuse(Refusal::NoPicture)),
            (machine(), 1, retry("disk full")),
            (machine(), 5, retry("disk full")),
            (unclear(), 1, retry("killed")),
            (unclear(), 2, Answer::Refuse(Refusal::TooComplex)),
            (TranscodeError::Defect("torn".into()), 1, Answer::Fail(Failure::reject("make the video: torn"))),
            (TranscodeError::Stopped, 1, retry("told to stop")),
        ];
        for (error, attempt, wanted) in table {
            assert_eq!(answer(&error, attempt), wanted, "{error:?} {attempt}");
        }
    }
}
