//! Videos from outside: uploaded, made playable, watched by range, stopped, refused, and finished by another worker.

use std::time::Duration;

use backing::containers::{container_of, copies_of};
use backing::samples;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Caller, DEADLINE, all_work_done, bob, mails_of, runs, sent_mail, url, who_began};

/// Uploads a file; the video's id.
async fn uploaded(caller: &Caller, title: &str, file: &[u8]) -> String {
    let response = caller.post_raw(&format!("/v1/videos?title={title}"), "video/mp4", file.to_vec()).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let job: Value = response.json().await.unwrap();
    job["id"].as_str().unwrap().to_owned()
}

async fn shown(caller: &Caller, id: &str) -> Value {
    let response = caller.get(&format!("/v1/videos/{id}")).await;
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

/// Every file of a video, by its name, each from another copy of web.
async fn files(caller: &Caller, id: &str, video: &Value) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for name in video["made"]["files"].as_array().expect("files").iter().filter_map(Value::as_str) {
        let response = caller.get(&format!("/v1/videos/{id}/files/{name}")).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        files.push((name.to_owned(), response.bytes().await.unwrap().to_vec()));
    }
    files
}

/// What ffprobe, in a worker's container, says of a file of a video.
fn probed(id: &str, name: &str) -> Value {
    let path = format!("files/videos/{id}/{name}");
    let show = ["-show_entries", "stream=codec_name,profile,width,height,pix_fmt:format=duration"];
    let probe = [&["ffprobe", "-v", "error", "-of", "json"], &show[..], &[&path]].concat();
    serde_json::from_str(&copies_of("video-worker").one(0).run(&probe)).unwrap()
}

#[tokio::test]
async fn a_video_is_taken_at_once_made_playable_watched_by_range_and_told_of_by_one_mail_with_a_link() {
    let caller = bob();
    let id = uploaded(&caller, "Clock", samples::TWO_SECONDS).await;
    assert_eq!(caller.job(&id).await["links"]["video"], format!("/v1/videos/{id}"));
    let job = caller.ended(&id).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");

    let video = shown(&caller, &id).await;
    assert_eq!(video["made"]["title"], "Clock");
    // 320 x 180 is never made larger.
    let rendition = &video["made"]["renditions"][0];
    assert_eq!(
        (&rendition["name"], &rendition["width"], &rendition["height"]),
        (&json!("480p"), &json!(320), &json!(180))
    );
    let all = files(&caller, &id, &video).await;
    let of = |name: &str| &all.iter().find(|(file, _)| file == name).unwrap_or_else(|| panic!("no {name}")).1;
    let mp4 = of("480p.mp4");
    assert_eq!(&mp4[4..8], b"ftyp");
    let place = |name: &[u8]| mp4.windows(4).position(|bytes| bytes == name).unwrap();
    assert!(place(b"moov") < place(b"mdat"), "it can be watched before all of it has come");
    let streams = probed(&id, "480p.mp4");
    let codecs: Vec<_> = streams["streams"].as_array().unwrap().iter().map(|stream| &stream["codec_name"]).collect();
    assert_eq!(codecs, ["h264", "aac"]);
    let seconds: f64 = streams["format"]["duration"].as_str().unwrap().parse().unwrap();
    assert!((1.9..2.2).contains(&seconds), "{seconds}");
    assert_eq!(&of("poster.jpg")[..3], b"\xff\xd8\xff");
    let master = String::from_utf8(of("master.m3u8").clone()).unwrap();
    assert!(
        master.starts_with("#EXTM3U") && master.contains("RESOLUTION=320x180") && master.contains("480p.m3u8"),
        "{master}"
    );

    let mails = sent_mail(&id).await;
    assert_eq!(mails[0]["to"][0]["address"], "bob@shop.example");
    let text = mails[0]["text"].as_str().unwrap();
    let link = text.split_whitespace().find(|word| word.starts_with("http")).expect("a link");
    let part = Client::new().get(link).header("range", "bytes=4-7").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap().as_ref(), b"ftyp");
    all_work_done().await;
    assert_eq!(mails_of(&id).await.len(), 1);
}

#[tokio::test]
async fn what_is_no_video_is_refused_with_a_reason_and_a_mail_and_is_no_dead_letter() {
    let caller = bob();
    let garbage: Vec<u8> =
        b"\0\0\0\x20ftypisom".iter().copied().chain((0..50_000_u32).map(|place| (place % 253) as u8)).collect();
    let id = uploaded(&caller, "Nothing", &garbage).await;
    let job = caller.ended(&id).await;
    assert_eq!(job["state"], "refused", "{job:#}");
    let reason = job["error"]["reason"].as_str().expect("a reason");
    let video = shown(&caller, &id).await;
    assert_eq!((&video["refusal"]["reason"], &video["made"]), (&json!(reason), &Value::Null));
    let mails = sent_mail(&id).await;
    assert!(mails[0]["text"].as_str().unwrap().contains(reason), "{}", mails[0]["text"]);
    let file = reqwest::get(url(&format!("/v1/videos/{id}/files/480p.mp4"))).await.unwrap();
    assert_eq!(file.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(caller.get(&format!("/v1/videos/{id}/files/480p.mp4")).await.status(), StatusCode::NOT_FOUND);
}

/// Whether an ffmpeg runs in any worker's container.
fn is_ffmpeg_there() -> bool {
    let count = ["bash", "-c", "grep -lsx ffmpeg /proc/[0-9]*/comm | wc -l"];
    (0..2).any(|copy| copies_of("video-worker").one(copy).run(&count).trim() != "0")
}

async fn until(what: &str, question: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !question() {
        assert!(Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_video_that_is_cancelled_in_the_middle_stops_its_ffmpeg_and_shows_nothing() {
    let caller = bob();
    let id = uploaded(&caller, "Long", samples::FORTY_SECONDS).await;
    let mut seen = Vec::new();
    caller
        .each_event(&id, None, |event| {
            seen.push(event.event.clone());
            event.event != "job.progressed"
        })
        .await;
    assert_eq!(seen.last().map(String::as_str), Some("job.progressed"), "{seen:?}");
    assert!(is_ffmpeg_there());
    assert_eq!(caller.delete(&format!("/v1/jobs/{id}")).await.status(), StatusCode::ACCEPTED);
    assert_eq!(caller.ended(&id).await["state"], "cancelled");
    until("no ffmpeg is left", || !is_ffmpeg_there()).await;
    assert_eq!(shown(&caller, &id).await["made"], Value::Null);
    all_work_done().await;
    assert!(mails_of(&id).await.is_empty());
}

#[tokio::test]
async fn a_video_whose_worker_is_killed_in_the_middle_is_made_by_another_and_none_of_it_is_seen_before() {
    let caller = bob();
    let id = uploaded(&caller, "Long", samples::FORTY_SECONDS).await;
    caller.each_event(&id, None, |event| event.event != "job.progressed").await;
    let worker = container_of(&who_began(&id).await);
    worker.kill();
    let video = shown(&caller, &id).await;
    assert_eq!(video["made"], Value::Null);
    for name in ["720p.mp4", "480p.mp4", "master.m3u8"] {
        assert_eq!(
            caller.get(&format!("/v1/videos/{id}/files/{name}")).await.status(),
            StatusCode::NOT_FOUND,
            "{name}"
        );
    }
    let job = caller.ended(&id).await;
    worker.start();
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert!(runs(&job).len() > 1, "{job:#}");
    let video = shown(&caller, &id).await;
    let names: Vec<_> = video["made"]["renditions"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["720p", "480p"]);
    let all = files(&caller, &id, &video).await;
    for rendition in video["made"]["renditions"].as_array().unwrap() {
        let name = format!("{}.mp4", rendition["name"].as_str().unwrap());
        let (_, file) = all.iter().find(|(file, _)| *file == name).unwrap();
        assert_eq!(file.len() as u64, rendition["bytes"].as_u64().unwrap(), "{name}");
        let seconds: f64 = probed(&id, &name)["format"]["duration"].as_str().unwrap().parse().unwrap();
        assert!((39.5..40.5).contains(&seconds), "{name}: {seconds}");
    }
    all_work_done().await;
    assert_eq!(mails_of(&id).await.len(), 1);
}
