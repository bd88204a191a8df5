//! The processes that make a video: what they may take, and that none outlives whoever waits for it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pipeline::topology::worker;
use tokio::time::{Instant, sleep, timeout};
use video_worker::transcoder::{Encoder, Limits, ProgramError, TranscodeError};

use crate::sample::Samples;
use crate::studio::{PROGRAMS, Studio, processes_in, programs};

const DEADLINE: Duration = Duration::from_secs(30);
/// A process, one that it has started, and a sign of life.
const LASTING: &str = "sleep 1000 & echo frame=1; wait";

async fn until(what: &str, mut question: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !question() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A studio in which somebody works for 1000 s.
async fn at_work(samples: &Samples) -> (Arc<Studio>, tokio::task::JoinHandle<Result<(), TranscodeError>>) {
    let lasting = programs(LASTING);
    let studio = Arc::new(Studio::with(&lasting.0, Limits::default()));
    let path = samples.plain("video.mp4", "320x180", "1");
    let (working, here) = (Arc::clone(&studio), Arc::clone(&studio));
    let work = tokio::spawn(async move {
        let _programs = lasting;
        working.transcode(&path).await.1.map(|_| ())
    });
    until("both processes run", || {
        processes_in(&here.scratch()).iter().filter(|it| it.contains("sleep 1000")).count() == 1
    })
    .await;
    assert_eq!(processes_in(&studio.scratch()).len(), 2, "the script and what it has started");
    (studio, work)
}

#[tokio::test]
async fn a_job_that_is_cancelled_takes_all_its_processes_with_it() {
    let samples = Samples::new();
    let (studio, work) = at_work(&samples).await;
    studio.stop.cancel();
    let ended = timeout(Duration::from_secs(5), work).await.expect("it stops at once").unwrap();
    assert!(matches!(ended, Err(TranscodeError::Stopped)), "{ended:?}");
    until("the processes are gone", || processes_in(&studio.scratch()).is_empty()).await;
    studio.assert_idle();
}

#[tokio::test]
async fn a_run_that_is_dropped_takes_all_its_processes_with_it() {
    let samples = Samples::new();
    let (studio, work) = at_work(&samples).await;
    work.abort();
    assert!(work.await.unwrap_err().is_cancelled());
    until("the processes are gone", || processes_in(&studio.scratch()).is_empty()).await;
    studio.assert_idle();
}

#[tokio::test]
async fn the_real_ffmpeg_ends_when_it_is_told_to() {
    let (samples, studio) = (Samples::new(), Arc::new(Studio::new()));
    samples.plain("second.mp4", "1280x720", "1");
    let path = samples.make("long.mp4", "-stream_loop 600 -i {second.mp4} -c copy");
    let working = Arc::clone(&studio);
    let work = tokio::spawn(async move { working.transcode(&path).await.1 });
    until("it is on its way", || {
        studio.told.lock().unwrap().iter().filter(|(phase, _)| phase == "making 720p").count() > 2
    })
    .await;
    studio.stop.cancel();
    let ended = timeout(Duration::from_secs(5), work).await.expect("it stops at once").unwrap();
    assert!(matches!(ended, Err(TranscodeError::Stopped)), "{ended:?}");
    studio.assert_idle();
}

/// What becomes of a small video where ffmpeg is this script.
async fn failed(script: &str, limits: Limits) -> (Studio, TranscodeError) {
    let (samples, programs) = (Samples::new(), programs(script));
    let studio = Studio::with(&programs.0, limits);
    let (_, made) = studio.transcode(&samples.plain("video.mp4", "320x180", "1")).await;
    until("the processes are gone", || processes_in(&studio.scratch()).is_empty()).await;
    studio.assert_idle();
    (studio, made.unwrap_err())
}

#[tokio::test]
async fn what_makes_no_progress_or_does_not_end_is_ended() {
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let (_, error) = failed(LASTING, limits).await;
    assert!(matches!(&error, TranscodeError::Unclear(reason) if reason.starts_with("no progress for")), "{error:?}");
    // A report that says the same again is none.
    let (_, error) = failed("while true; do echo frame=1; sleep 0.05; done", limits).await;
    assert!(matches!(&error, TranscodeError::Unclear(reason) if reason.starts_with("no progress for")), "{error:?}");
    let endless = "n=0; while true; do n=$((n+1)); echo frame=$n; sleep 0.05; done";
    let limits = Limits { start: Duration::from_millis(300), times_length: 0, ..Limits::default() };
    let (_, error) = failed(endless, limits).await;
    assert!(matches!(&error, TranscodeError::Unclear(reason) if reason.starts_with("still running")), "{error:?}");
    // However much time the one process has: the run has no more, and its kind has more than that.
    let (_, error) = failed(endless, Limits { run: Duration::from_secs(2), ..Limits::default() }).await;
    assert!(matches!(&error, TranscodeError::Unclear(reason) if reason.starts_with("not made within")), "{error:?}");
    assert!(Limits::default().run < worker("video").unwrap().timeout);
}

#[tokio::test]
async fn what_takes_too_much_is_ended_by_the_kernel() {
    // 16 MiB and what a second takes.
    let (_, error) = failed("exec head -c 100000000 /dev/zero > 480p.mp4", Limits::default()).await;
    assert!(matches!(&error, TranscodeError::Unclear(reason) if reason.contains("signal: 25")), "{error:?}");
    let (_, error) = failed("exec dd if=/dev/zero of=/dev/null bs=9G count=1", Limits::default()).await;
    assert!(matches!(&error, TranscodeError::Unclear(reason) if reason.contains("memory")), "{error:?}");
    let (_, error) = failed("ulimit -a >&2; exit 1", Limits::default()).await;
    let said = error.to_string();
    for [name, limit] in [["coredump(blocks)", "0"], ["nofiles", "64"], ["vmemory(kbytes)", "2621440"]] {
        assert!(said.split('|').any(|line| line.split_whitespace().eq([name, limit])), "{name} {limit}: {said}");
    }
    let limits = Limits { memory_bytes: 16 * 1024 * 1024, memory_bytes_a_thread: 0, ..Limits::default() };
    let (_, error) = failed("", limits).await;
    assert!(matches!(&error, TranscodeError::Unclear(_)), "{error:?}");
}

#[tokio::test]
async fn a_process_sees_nothing_of_the_worker_and_yields_to_it() {
    let own = Command::new("nice").output().unwrap().stdout;
    let own: i32 = String::from_utf8(own).unwrap().trim().parse().unwrap();
    let script = "env >&2; cat /proc/self/oom_score_adj >&2; nice >&2; grep NoNewPrivs /proc/self/status >&2; exit 1";
    let (_, error) = failed(script, Limits::default()).await;
    let said = error.to_string();
    assert!(
        said.contains("PATH=/usr/local/bin:/usr/bin:/bin") && !said.contains("CARGO") && !said.contains("HOME="),
        "{said}"
    );
    assert!(said.contains(&format!("| 1000 | {} | NoNewPrivs:\t1", (own + 10).min(19))), "{said}");
}

#[tokio::test]
async fn what_the_machine_does_is_no_fault_of_the_file() {
    for said in ["No space left on device", "Too many open files"] {
        let (_, error) = failed(&format!("echo 'av_write_frame(): {said}' >&2; exit 1"), Limits::default()).await;
        assert!(matches!(&error, TranscodeError::Machine(_)), "{error:?}");
    }
    let (_, error) = failed("kill -TERM $$", Limits::default()).await;
    assert!(matches!(&error, TranscodeError::Machine(_)), "{error:?}");
    let (_, error) = failed("kill -KILL $$", Limits::default()).await;
    assert!(matches!(&error, TranscodeError::Unclear(_)), "{error:?}");
    let (_, error) = failed("exit 0", Limits::default()).await;
    assert!(matches!(&error, TranscodeError::Machine(_) | TranscodeError::Unclear(_)), "{error:?}");
}

#[tokio::test]
async fn a_machine_without_the_programs_is_found_out_before_any_video_is() {
    Encoder::new(PROGRAMS.into(), 1, Limits::default()).check().await.unwrap();
    let missing = Encoder::new("/nowhere".into(), 1, Limits::default()).check().await.unwrap_err();
    assert!(
        matches!(&missing, ProgramError::Run { program, .. } if program == Path::new("/nowhere/ffprobe")),
        "{missing}"
    );
    let poor = programs("echo ' V..... h263 H.263'");
    let lacks = Encoder::new(poor.0.clone(), 1, Limits::default()).check().await.unwrap_err();
    assert!(matches!(lacks, ProgramError::Lacks { encoder: "libx264", .. }), "{lacks}");
}
