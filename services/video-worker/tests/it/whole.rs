//! From the message to what it brings about.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pipeline::{Control, topology};
use serde_json::{Value, json};
use store::files::video_folder;

use crate::fixture::{Fixture, OWNER, Worker, mail};
use crate::sample::{Samples, decode};
use crate::studio::{PROGRAMS, processes_in, programs, runs_in};

#[tokio::test]
async fn an_upload_becomes_a_video_that_is_told_and_mailed_in_its_trace() {
    let (fixture, samples) = (Fixture::new().await, Samples::new());
    let worker = Worker::start(&fixture).await;
    let keys = ["job.progressed", "job.succeeded", "video.ready"];
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &keys).await;
    let web = fixture.web().await;
    let job = fixture.upload(&samples.plain("video.mp4", "660x500", "2")).await;
    web.publisher().publish_job(&job).await.unwrap();
    let (mut progress, mut ready) = (Vec::new(), Value::Null);
    let result = loop {
        let (key, mut event) = events.next_json().await;
        assert_eq!(event["job"], json!({"id": job.id, "kind": "video.transcode", "owner": OWNER}));
        match key.as_str() {
            "job.progressed" => progress.push(event["progress"].take()),
            "video.ready" => ready = event["video"].take(),
            _ => break event["result"].take(),
        }
    };
    let bytes = |name: &str| std::fs::metadata(fixture.made(job.id, name)).unwrap().len();
    let renditions = json!([
        {"name": "720p", "width": 660, "height": 500, "bytes": bytes("720p.mp4")},
        {"name": "480p", "width": 634, "height": 480, "bytes": bytes("480p.mp4")},
    ]);
    let millis = result["millis"].as_u64().unwrap();
    assert!((1950..2100).contains(&millis), "{millis}");
    let files = ["720p.mp4", "720p.m3u8", "720p.ts", "480p.mp4", "480p.m3u8", "480p.ts", "master.m3u8", "poster.jpg"];
    assert_eq!(result, json!({"title": "Holiday", "millis": millis, "renditions": renditions, "files": files}));
    for name in files {
        assert!(bytes(name) > 0, "{name}");
    }
    let folder = video_folder(job.id);
    let wanted =
        json!({"id": job.id, "title": "Holiday", "millis": millis, "folder": folder, "renditions": renditions});
    assert_eq!(ready, wanted);
    assert!(progress.iter().all(|it| it["total"] == 100 && it["done"].as_u64().unwrap() <= 100), "{progress:?}");
    assert!(progress.iter().any(|it| it["phase"] == "making 720p"), "{progress:?}");
    let said = json!({
        "to": {"name": "Ada", "address": "ada@shop.example"},
        "template": "video-ready",
        "data": {"video_id": job.id, "title": "Holiday", "seconds": millis.div_ceil(1000), "file": "720p.mp4"},
    });
    assert_eq!(mail(&fixture, &job).await, said);
    web.close().await;
    let (code, log, errors) = worker.terminate().await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(!log.contains("ada@shop.example"), "{log}");
    assert_eq!(std::fs::read_dir(fixture.scratch()).unwrap().count(), 1, "the lock alone");
    fixture.finish().await;
}

#[tokio::test]
async fn a_file_that_is_no_video_ends_refused_with_a_mail_and_not_among_the_dead_letters() {
    let (fixture, samples) = (Fixture::new().await, Samples::new());
    let worker = Worker::start(&fixture).await;
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &["job.refused", "job.retrying", "job.dead"]).await;
    let web = fixture.web().await;
    let job = fixture.upload(&samples.write("text.mp4", "just text")).await;
    web.publisher().publish_job(&job).await.unwrap();
    let reason = "The file is no video that can be read. MP4, MOV, MKV and WebM files can be.";
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.refused", &json!(job.id)));
    assert_eq!(event["refusal"], json!({"code": "unreadable", "reason": reason}));
    let mail = mail(&fixture, &job).await;
    assert_eq!(mail["template"], "video-refused");
    assert_eq!(mail["data"], json!({"video_id": job.id, "title": "Holiday", "reason": reason}));
    web.close().await;
    worker.terminate().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_video_that_is_cancelled_ends_cancelled_with_its_processes_and_without_a_mail() {
    let (fixture, samples) = (Fixture::new().await, Samples::new());
    let lasting = programs(&replacing_480p("echo frame=1; exec sleep 1000"));
    let worker = Worker::start_with(&fixture, &lasting.0).await;
    fixture.wait_listening().await;
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &["job.cancelled", "job.retrying"]).await;
    let web = fixture.web().await;
    let job = fixture.upload(&samples.plain("video.mp4", "660x500", "1")).await;
    web.publisher().publish_job(&job).await.unwrap();
    fixture.vhost.wait("the second rendition is being made", || async { is_asleep(&fixture) }).await;
    web.publisher().publish_control(&Control::Cancel { job: job.id }).await.unwrap();
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.cancelled", &json!(job.id)));
    assert_eq!((processes_in(&fixture.scratch()), runs_in(&fixture.scratch())), (Vec::new(), 0));
    web.close().await;
    worker.terminate().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_killed_worker_takes_its_processes_along_and_another_goes_on_where_it_was() {
    let (fixture, samples) = (Fixture::new().await, Samples::new());
    let lasting = programs(&replacing_480p("echo frame=1; exec sleep 1000"));
    let first = Worker::start_with(&fixture, &lasting.0).await;
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &["job.succeeded", "job.retrying"]).await;
    let web = fixture.web().await;
    let job = fixture.upload(&samples.plain("video.mp4", "660x500", "1")).await;
    web.publisher().publish_job(&job).await.unwrap();
    fixture.vhost.wait("the second rendition is being made", || async { is_asleep(&fixture) }).await;
    let inode = || std::fs::metadata(fixture.made(job.id, "720p.mp4")).unwrap().ino();
    let before = inode();
    first.kill().await;
    fixture.wait_idle().await;
    assert_eq!(runs_in(&fixture.scratch()), 1, "killed, it cannot clear up");

    let second = Worker::start(&fixture).await;
    let (key, event) = events.next_json().await;
    assert_eq!((key.as_str(), &event["job"]["id"]), ("job.succeeded", &json!(job.id)));
    assert_eq!((&event["run"]["attempt"], &event["run"]["redeliveries"]), (&json!(1), &json!(1)));
    assert_eq!(inode(), before, "what was stored is not made again");
    assert_eq!(decode(&fixture.made(job.id, "480p.mp4")).0, 30);
    mail(&fixture, &job).await;
    web.close().await;
    second.terminate().await;
    fixture.finish().await;
}

#[tokio::test]
async fn an_upload_that_is_there_late_becomes_a_video_at_the_next_attempt() {
    let (fixture, samples) = (Fixture::new().await, Samples::new());
    let worker = Worker::start(&fixture).await;
    let mut events = fixture.vhost.listen_to(topology::EVENTS, &["job.succeeded", "job.retrying"]).await;
    let web = fixture.web().await;
    let path = samples.plain("video.mp4", "320x180", "1");
    let job = fixture.upload(&path).await;
    fixture.files.delete(&job.payload.source.key).await.unwrap();
    web.publisher().publish_job(&job).await.unwrap();
    let (key, event) = events.next_json().await;
    assert_eq!(key, "job.retrying");
    assert!(event["failure"]["reason"].as_str().unwrap().contains("is not in the store of files"), "{event}");
    fixture.files.put_file(&job.payload.source.key, &path).await.unwrap();
    loop {
        let (key, _) = events.next_json().await;
        if key == "job.succeeded" {
            break;
        }
    }
    mail(&fixture, &job).await;
    web.close().await;
    worker.terminate().await;
    fixture.finish().await;
}

#[tokio::test]
async fn a_worker_without_ffmpeg_says_so_and_takes_no_video() {
    let fixture = Fixture::new().await;
    let (code, _, errors) = Worker::spawn(&fixture, Path::new("/nowhere")).ended().await;
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("find the programs that work on videos") && errors.contains("/nowhere/ffprobe"),
        "{errors}"
    );
    fixture.vhost.finish(&[]).await;
}

/// The script of an ffmpeg that does something else for the second rendition.
fn replacing_480p(instead: &str) -> String {
    format!("for last; do :; done; if [ \"$last\" = 480p.mp4 ]; then {instead}; fi; exec {PROGRAMS}/ffmpeg \"$@\"")
}

fn is_asleep(fixture: &Fixture) -> bool {
    fixture.scratch().exists() && processes_in(&fixture.scratch()).iter().any(|it| it.contains("sleep 1000"))
}
