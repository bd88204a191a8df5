//! Videos on their way in, streamed, and on their way out, by range.

use std::ffi::OsString;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use pipeline::jobs::TranscodeVideo;
use reqwest::{Body, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::files::{video_folder, video_key};
use store::jobs::JobEventType as Type;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;
use web::Limits;

use crate::harness::{ALICE, BOB, Behind, DEADLINE, Told, Web, database, problem, vhost, wait};

/// Begins like a video, and is longer than what is read at once.
fn video() -> Vec<u8> {
    b"\0\0\0\x20ftypisom".iter().copied().chain((0..3_000_000_u32).map(|place| (place % 251) as u8)).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn upload(web: &Web, query: &str, body: impl Into<Body>) -> RequestBuilder {
    web.client
        .post(web.url(&format!("/v1/videos{query}")))
        .bearer_auth(ALICE)
        .header("content-type", "video/mp4")
        .body(body)
}

/// The id of a video that was taken.
async fn taken(response: Response) -> Uuid {
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    response.json::<Value>().await.unwrap()["id"].as_str().unwrap().parse().unwrap()
}

/// Whatever lies where uploads arrive, finished or not.
async fn uploads(web: &Web) -> Vec<OsString> {
    let folder = web.files.local_path("uploads").unwrap();
    let found = if folder.exists() { std::fs::read_dir(folder).unwrap().collect() } else { Vec::new() };
    found.into_iter().map(|entry| entry.unwrap().file_name()).collect()
}

#[tokio::test]
async fn a_video_is_stored_as_it_came_and_its_job_queued_before_the_answer_and_no_database_is_needed() {
    let vhost = vhost().await;
    let web = Web::start_connected(Behind::broker(&vhost)).await;
    let response = upload(&web, "?title=A%20week%20on%20F%C3%B6hr", video()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    let id: Uuid = body["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(location, format!("/v1/jobs/{id}"));
    assert_eq!((&body["state"], &body["kind"]), (&json!("queued"), &json!("video.transcode")));
    assert_eq!(body["links"]["video"], format!("/v1/videos/{id}"));

    let message = vhost.take("video.normal").await;
    let job: TranscodeVideo = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(job.title.as_str(), "A week on Föhr");
    assert_eq!((job.source.bytes, job.source.sha256.as_str()), (video().len() as u64, sha256(&video()).as_str()));
    assert!(job.source.key.starts_with(&video_folder(id)), "{}", job.source.key);
    let mut stored = Vec::new();
    let path = web.files.local_path(&job.source.key).unwrap();
    tokio::fs::File::open(path).await.unwrap().read_to_end(&mut stored).await.unwrap();
    assert!(stored == video());
    assert!(uploads(&web).await.is_empty());

    let shown: Value = web.get(&format!("/v1/videos/{id}")).await.json().await.unwrap();
    assert_eq!((&shown["state"], &shown["made"]), (&json!("queued"), &Value::Null));
    web.stop().await;
    vhost.finish(&[("tracker.lifecycle", 1)]).await;
}

#[tokio::test]
async fn a_video_that_is_uploaded_again_under_its_key_is_one_and_another_under_the_same_key_takes_no_place() {
    let (vhost, database) = tokio::join!(vhost(), database());
    let web = Web::start_connected(Behind::both(&vhost, &database)).await;
    let once = |query: &str, body: Vec<u8>| upload(&web, query, body).header("idempotency-key", "holiday").send();
    let id = taken(once("?title=Holiday", video()).await.unwrap()).await;
    assert_eq!(taken(once("?title=Holiday", video()).await.unwrap()).await, id);
    let mut other = video();
    other.push(0);
    problem(once("?title=Holiday", other.clone()).await.unwrap(), 422, "idempotency-key-reused").await;
    problem(once("?title=Other", video()).await.unwrap(), 422, "idempotency-key-reused").await;

    let message = vhost.take("video.normal").await;
    let job: TranscodeVideo = serde_json::from_slice(&message.data).unwrap();
    assert_eq!(web.files.size(&job.source.key).await.unwrap(), Some(video().len() as u64));
    let kept = web.files.older_than(&video_folder(id), Utc::now() + TimeDelta::days(1), 100).await.unwrap();
    assert_eq!(kept, [job.source.key]);
    assert!(uploads(&web).await.is_empty());
    web.stop().await;
    vhost.finish(&[]).await;
}

#[tokio::test]
async fn what_is_no_upload_is_told_why_and_nothing_of_it_is_kept() {
    let vhost = vhost().await;
    let limits = Limits { video_bytes: 4_000_000, uploads: 1, ..Behind::broker(&vhost).limits };
    let web = Web::start_connected(Behind { limits, ..Behind::broker(&vhost) }).await;
    let send = async |request: RequestBuilder| request.send().await.unwrap();
    let text = || upload(&web, "", "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n");
    problem(send(text()).await, 415, "unsupported-media-type").await;
    let typed =
        |kind: &'static str| web.client.post(web.url("/v1/videos")).bearer_auth(ALICE).header("content-type", kind);
    for kind in ["text/plain", "multipart/form-data; boundary=a", "application/json"] {
        problem(send(typed(kind).body(video())).await, 415, "unsupported-media-type").await;
    }
    problem(send(upload(&web, "", video()).header("content-encoding", "gzip")).await, 415, "unsupported-media-type")
        .await;
    problem(send(upload(&web, "", "a")).await, 415, "unsupported-media-type").await;
    problem(send(upload(&web, "", vec![0; 4_000_001])).await, 413, "body-too-large").await;
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(video())]);
    problem(send(upload(&web, "", Body::wrap_stream(pieces))).await, 411, "length-missing").await;
    for query in ["?title=", "?title=a%0Ab", &format!("?title={}", "a".repeat(201))] {
        let body = problem(send(upload(&web, query, video())).await, 422, "validation").await;
        assert_eq!(body["errors"][0]["field"], "title");
    }
    problem(send(upload(&web, "?name=x", video())).await, 400, "query-invalid").await;
    problem(send(upload(&web, "", video()).header("idempotency-key", "a b")).await, 400, "idempotency-key-invalid")
        .await;
    let nobody = web.client.post(web.url("/v1/videos")).header("content-type", "video/mp4").body(video());
    problem(send(nobody).await, 401, "unauthenticated").await;

    assert!(uploads(&web).await.is_empty());
    assert_eq!(vhost.ready("video.normal").await, Some(0));
    // None of these has kept its place.
    taken(send(upload(&web, "", video())).await).await;
    vhost.take("video.normal").await;
    web.stop().await;
    vhost.finish(&[("tracker.lifecycle", 1)]).await;
}

/// The head of an upload of so many bytes.
fn head(bytes: usize) -> String {
    format!(
        "POST /v1/videos HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nContent-Type: video/mp4\r\nContent-Length: {bytes}\r\n\r\n"
    )
}

#[tokio::test]
async fn an_upload_that_stops_drips_or_breaks_off_leaves_nothing_and_others_get_its_place() {
    let limits = Limits { body_read: Duration::from_millis(300), uploads: 1, ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::nothing() }).await;
    for drips in [false, true] {
        let (mut read, mut write) = TcpStream::connect(web.address).await.unwrap().into_split();
        write.write_all(head(2_000_000).as_bytes()).await.unwrap();
        write.write_all(&video()[..100_000]).await.unwrap();
        let dripping = async {
            let mut every = tokio::time::interval(Duration::from_millis(50));
            while drips && write.write_all(b"x").await.is_ok() {
                every.tick().await;
            }
            std::future::pending::<()>().await;
        };
        let mut said = String::new();
        tokio::select! {
            () = dripping => {}
            answered = tokio::time::timeout(DEADLINE, read.read_to_string(&mut said)) => drop(answered.expect("it is closed")),
        }
        assert!(said.starts_with("HTTP/1.1 408"), "drips: {drips}: {said}");
    }
    // Whoever has the place is told to nobody who comes meanwhile; and it goes to somebody else.
    let mut hung = TcpStream::connect(web.address).await.unwrap();
    hung.write_all(head(2_000_000).as_bytes()).await.unwrap();
    hung.write_all(&video()[..100_000]).await.unwrap();
    wait("the place is taken", async || {
        let second = upload(&web, "", video()).send().await.unwrap();
        second.status() == StatusCode::SERVICE_UNAVAILABLE
            && second.json::<Value>().await.unwrap()["type"] == "/problems/too-many-uploads"
    })
    .await;
    drop(hung);
    wait("it is free again", async || {
        let next = upload(&web, "", video()).send().await.unwrap().json::<Value>().await.unwrap();
        next["type"] != "/problems/too-many-uploads"
    })
    .await;
    wait("nothing is left", async || uploads(&web).await.is_empty()).await;
    web.stop().await;
}

#[tokio::test]
async fn a_volume_that_is_nearly_full_takes_no_videos() {
    let web =
        Web::start(Behind { limits: Limits { video_bytes: u64::MAX, ..Limits::default() }, ..Behind::nothing() }).await;
    let room = web.files.room().await.unwrap();
    let mut stream = TcpStream::connect(web.address).await.unwrap();
    // As much as there is: nothing would be left.
    stream.write_all(head(usize::try_from(room.free).unwrap()).as_bytes()).await.unwrap();
    let mut said = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("/problems/storage-full"), "{said}");
    assert!(said.to_ascii_lowercase().contains("retry-after: 60"), "{said}");
    assert!(uploads(&web).await.is_empty());
    web.stop().await;
}

const FILES: [&str; 4] = ["720p.mp4", "720p.m3u8", "master.m3u8", "poster.jpg"];

fn made() -> Value {
    let rendition = json!({"name": "720p", "width": 1280, "height": 720, "bytes": 1_000_000});
    json!({"title": "Holiday", "millis": 1500, "renditions": [rendition], "files": FILES})
}

fn mp4() -> Vec<u8> {
    (0..1_000_000_u32).map(|place| (place % 251) as u8).collect()
}

/// A video of Alice's whose files are all there, and whose job runs.
async fn at_work(web: &Web) -> Told {
    let mut job = Told::queued_as(web, "video.transcode").await;
    for name in FILES {
        let playlist: &[u8] = b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n720p.m3u8\n";
        let content = if name.ends_with("m3u8") { playlist.to_vec() } else { mp4() };
        web.files.put(&video_key(job.id, name), content.into()).await.unwrap();
    }
    web.files.put(&video_key(job.id, "source-ab"), mp4().into()).await.unwrap();
    job.tell(Type::Started, json!({})).await;
    // Nothing but a success has a result, whatever else a worker says.
    let progress = json!({"progress": {"phase": "720p", "done": 40, "total": 100}, "result": made()});
    job.tell(Type::Progressed, progress).await;
    job
}

#[tokio::test]
async fn no_file_of_a_video_is_shown_before_all_are_made_and_then_to_its_owner_alone() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = at_work(&web).await;
    let path = format!("/v1/videos/{}", job.id);
    let file = |name: &str| format!("{path}/files/{name}");
    let shown: Value = web.get(&path).await.json().await.unwrap();
    assert_eq!((&shown["state"], &shown["progress"]["done"]), (&json!("running"), &json!(40)));
    assert_eq!(shown["links"].get("mp4"), None);
    problem(web.get(&file("720p.mp4")).await, 404, "not-found").await;

    job.tell(Type::Succeeded, json!({"result": made()})).await;
    let shown: Value = web.get(&path).await.json().await.unwrap();
    assert_eq!(shown["made"], made());
    assert_eq!(shown["links"]["mp4"], file("720p.mp4"));
    assert_eq!(
        (&shown["links"]["hls"], &shown["links"]["poster"]),
        (&json!(file("master.m3u8")), &json!(file("poster.jpg")))
    );
    let whole = web.get(&file("720p.mp4")).await;
    assert_eq!((whole.status(), &whole.headers()["accept-ranges"]), (StatusCode::OK, &"bytes".parse().unwrap()));
    assert_eq!(whole.headers()["content-type"], "video/mp4");
    // A browser that opens the file itself makes a page with a video in it, to which this applies.
    assert!(whole.headers()["content-security-policy"].to_str().unwrap().contains("media-src 'self'"));
    assert!(whole.bytes().await.unwrap() == mp4());
    assert_eq!(web.get(&file("master.m3u8")).await.headers()["content-type"], "application/vnd.apple.mpegurl");

    // What it was made of, what it has not, what no video has.
    for name in ["source-ab", "480p.mp4", "x.mp4", "..%2F..%2Freports%2Fa.pdf", "%00", "%FF", "%FF.mp4"] {
        problem(web.get(&file(name)).await, 404, "not-found").await;
    }
    problem(web.get("/v1/videos/%FF/files/720p.mp4").await, 404, "not-found").await;
    for path in [path.clone(), file("720p.mp4")] {
        let bobs = web.client.get(web.url(&path)).bearer_auth(BOB).send().await.unwrap();
        problem(bobs, 404, "not-found").await;
        problem(web.client.get(web.url(&path)).send().await.unwrap(), 401, "unauthenticated").await;
    }
    let report = Told::queued(&web).await;
    problem(web.get(&format!("/v1/videos/{}", report.id)).await, 404, "not-found").await;
    web.stop().await;
}

#[tokio::test]
async fn a_video_is_handed_out_by_range_as_players_ask() {
    let database = database().await;
    let web = Web::start(Behind::database(&database)).await;
    let mut job = at_work(&web).await;
    job.tell(Type::Succeeded, json!({"result": made()})).await;
    let url = web.url(&format!("/v1/videos/{}/files/720p.mp4", job.id));
    let ask = |headers: &[(&str, &str)]| {
        let request = web.client.get(&url).bearer_auth(ALICE);
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send()
    };
    let etag = ask(&[]).await.unwrap().headers()["etag"].to_str().unwrap().to_owned();
    for (range, first, last) in
        [("bytes=0-", 0, 999_999), ("bytes=500000-500099", 500_000, 500_099), ("bytes=-5", 999_995, 999_999)]
    {
        let part = ask(&[("range", range), ("if-range", &etag)]).await.unwrap();
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(part.headers()["content-range"], format!("bytes {first}-{last}/1000000"));
        assert_eq!(part.headers()["content-length"], (last - first + 1).to_string());
        assert_eq!(part.headers()["vary"], "Authorization, Cookie");
        assert!(part.bytes().await.unwrap() == mp4()[first..=last], "{range}");
    }
    let outside = ask(&[("range", "bytes=1000000-")]).await.unwrap();
    assert_eq!(outside.headers()["content-range"], "bytes */1000000");
    problem(outside, 416, "range-outside").await;
    let other = ask(&[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await.unwrap();
    assert_eq!((other.status(), other.bytes().await.unwrap().len()), (StatusCode::OK, 1_000_000));
    let same = ask(&[("if-none-match", &etag)]).await.unwrap();
    assert_eq!(
        (same.status(), &same.headers()["vary"]),
        (StatusCode::NOT_MODIFIED, &"Authorization, Cookie".parse().unwrap())
    );
    let head = web.client.head(&url).bearer_auth(ALICE).header("range", "bytes=0-9").send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "10");
    web.stop().await;
}

async fn by_link(web: &Web, id: Uuid, name: &str, expires: DateTime<Utc>) -> (String, Response) {
    let url = web.links.url_for_video(id, name, expires);
    let path = format!("{}?{}", url.path(), url.query().unwrap());
    let response = web.client.get(web.url(&path)).send().await.unwrap();
    (path, response)
}

#[tokio::test]
async fn a_signed_link_opens_every_file_of_its_video_and_nothing_else() {
    let web = Web::start(Behind::nothing()).await;
    let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
    for video in [id, other] {
        for name in ["720p.mp4", "source-ab"] {
            web.files.put(&video_key(video, name), mp4().into()).await.unwrap();
        }
        let playlist: &[u8] = b"#EXTM3U\n720p.mp4\n";
        web.files.put(&video_key(video, "master.m3u8"), playlist.into()).await.unwrap();
    }
    let tomorrow = Utc::now() + TimeDelta::days(1);
    let (path, response) = by_link(&web, id, "720p.mp4", tomorrow).await;
    assert!(response.bytes().await.unwrap() == mp4());
    let ask = async |path: &str| web.client.get(web.url(path)).send().await.unwrap();
    // A playlist takes whoever reads it along.
    let playlist = ask(&path.replace("720p.mp4", "master.m3u8")).await;
    assert_eq!(playlist.headers()["vary"], "Authorization, Cookie");
    let playlist = playlist.text().await.unwrap();
    let named = playlist.lines().last().unwrap();
    assert!(ask(&format!("/v1/videos/{id}/files/{named}")).await.bytes().await.unwrap() == mp4());

    problem(by_link(&web, id, "720p.mp4", Utc::now()).await.1, 403, "link-expired").await;
    for changed in [
        path.replace(&id.to_string(), &other.to_string()),
        path.replace("expires=", "expires=9"),
        format!("{path}0"),
        web.links
            .url_for_report(id, tomorrow)
            .query()
            .map(|query| format!("/v1/videos/{id}/files/720p.mp4?{query}"))
            .unwrap(),
    ] {
        problem(ask(&changed).await, 403, "link-invalid").await;
    }
    problem(ask(&path.replace("720p.mp4", "source-ab")).await, 404, "not-found").await;
    problem(ask(&path.replace("720p.mp4", "480p.mp4")).await, 404, "not-found").await;
    web.stop().await;
}
