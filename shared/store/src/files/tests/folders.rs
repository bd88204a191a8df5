use std::fs::File;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{Directory, Files, FilesError, video_folder, video_key};

const VIDEO: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

fn now() -> DateTime<Utc> {
    "2026-01-15T12:00:00Z".parse().unwrap()
}

impl Directory {
    /// Makes a file or folder look as if it was last written so many hours before now.
    fn age(&self, path: &str, hours: i64) {
        let moment = now() - TimeDelta::hours(hours);
        File::open(self.0.join("files/below").join(path)).unwrap().set_modified(moment.into()).unwrap();
    }
}

async fn put(files: &Files, key: &str) {
    files.put(key, Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn a_folder_is_deleted_with_everything_in_it_and_may_be_deleted_again() {
    let directory = Directory::create();
    let files = directory.open();
    put(&files, &video_key(OTHER, "source")).await;
    for name in ["source", "720p.mp4", "hls/1.ts"] {
        put(&files, &video_key(VIDEO, name)).await;
    }
    let unfinished = files.begin(&video_key(VIDEO, "360p.mp4")).await.unwrap();
    std::mem::forget(unfinished);
    for _ in 0..2 {
        files.delete_folder(&video_folder(VIDEO)).await.unwrap();
        assert_eq!(directory.listing(), [format!("files/below/videos/{OTHER}/source")]);
        assert!(!directory.0.join(format!("files/below/videos/{VIDEO}")).exists());
    }
}

#[tokio::test]
async fn the_folder_of_all_videos_is_never_deleted() {
    let directory = Directory::create();
    let files = directory.open();
    std::fs::write(directory.0.join("outside"), "x").unwrap();
    put(&files, &video_key(VIDEO, "source")).await;
    let all = directory.listing();
    for folder in
        ["videos", "videos/", "videos/.", "videos/..", "videos/../..", "../..", "/", "", ".", "videos/*", "a/../.."]
    {
        let error = files.delete_folder(folder).await.unwrap_err();
        assert!(matches!(error, FilesError::Key(_)), "{folder}: {error:?}");
    }
    assert_eq!(directory.listing(), all);
}

#[tokio::test]
async fn a_link_out_of_the_store_is_deleted_and_what_it_leads_to_is_not() {
    let directory = Directory::create();
    let files = directory.open();
    std::fs::create_dir(directory.0.join("outside")).unwrap();
    std::fs::write(directory.0.join("outside/file"), "x").unwrap();
    put(&files, &video_key(VIDEO, "source")).await;
    let link = directory.0.join("files/below").join(video_folder(VIDEO)).join("link");
    std::os::unix::fs::symlink(directory.0.join("outside"), link).unwrap();
    files.delete_folder(&video_folder(VIDEO)).await.unwrap();
    assert_eq!(directory.listing(), ["outside/file"]);
}

#[tokio::test]
async fn files_that_were_not_written_lately_are_found() {
    let directory = Directory::create();
    let files = directory.open();
    assert!(files.older_than("uploads", now(), 10).await.unwrap().is_empty());
    for (key, hours) in [("uploads/a", 25), ("uploads/b", 23), ("uploads/below/c", 26), ("videos/d", 99)] {
        put(&files, key).await;
        directory.age(key, hours);
    }
    for strange in ["Not Ours.txt", "a#1"] {
        std::fs::write(directory.0.join("files/below/uploads").join(strange), "x").unwrap();
        directory.age(&format!("uploads/{strange}"), 99);
    }
    let day_ago = now() - TimeDelta::hours(24);
    let mut older = files.older_than("uploads", day_ago, 10).await.unwrap();
    older.sort();
    assert_eq!(older, ["uploads/a", "uploads/below/c"]);
    assert_eq!(files.older_than("uploads", day_ago, 1).await.unwrap().len(), 1);
    // The last moment at which it was written, not that at which it was moved.
    files.rename("uploads/a", "uploads/e").await.unwrap();
    assert!(files.older_than("uploads", day_ago, 10).await.unwrap().contains(&"uploads/e".to_owned()));
}

#[tokio::test]
async fn folders_that_did_not_change_lately_are_found_in_batches() {
    let directory = Directory::create();
    let files = directory.open();
    assert!(files.older_folders("videos", now()).await.unwrap().next(10).await.unwrap().is_empty());
    for number in 0..25 {
        put(&files, &format!("videos/{number}/source")).await;
        // The file is old in all of them.
        directory.age(&format!("videos/{number}/source"), 99);
        directory.age(&format!("videos/{number}"), if number < 23 { 25 } else { 23 });
    }
    put(&files, "videos/file").await;
    directory.age("videos/file", 99);
    std::fs::create_dir(directory.0.join("files/below/videos/Not Ours")).unwrap();
    directory.age("videos/Not Ours", 99);
    let mut folders = files.older_folders("videos", now() - TimeDelta::hours(24)).await.unwrap();
    let (mut found, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let batch = folders.next(10).await.unwrap();
        if batch.is_empty() {
            break;
        }
        sizes.push(batch.len());
        found.extend(batch);
    }
    assert_eq!(sizes, [10, 10, 3]);
    let mut expected: Vec<_> = (0..23).map(|number| format!("videos/{number}")).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_a_dead_process_did_not_finish_is_deleted_and_what_is_being_written_is_not() {
    let directory = Directory::create();
    let files = directory.open();
    assert_eq!(files.delete_unfinished("uploads", now(), 10).await.unwrap(), 0);
    for key in ["uploads/a", "uploads/a", "uploads/b", "uploads/c"] {
        std::mem::forget(files.begin(key).await.unwrap());
    }
    put(&files, "uploads/finished").await;
    std::fs::write(directory.0.join("files/below/uploads/no#number"), "x").unwrap();
    for (name, hours) in [("a#1", 25), ("a#2", 26), ("b#1", 27), ("c#1", 23), ("finished", 99), ("no#number", 99)] {
        directory.age(&format!("uploads/{name}"), hours);
    }
    let day_ago = now() - TimeDelta::hours(24);
    assert_eq!(files.delete_unfinished("uploads", day_ago, 2).await.unwrap(), 2);
    assert_eq!(files.delete_unfinished("uploads", day_ago, 2).await.unwrap(), 1);
    assert_eq!(files.delete_unfinished("uploads", day_ago, 2).await.unwrap(), 0);
    let left = ["c#1", "finished", "no#number"].map(|name| format!("files/below/uploads/{name}"));
    assert_eq!(directory.listing(), left);
}
