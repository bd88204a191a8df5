use std::path::PathBuf;

use bytes::Bytes;
use chrono::Utc;
use futures_util::TryStreamExt;
use uuid::Uuid;

use super::{
    Files, FilesError, FilesSettings, READ_DEADLINE, StoredFile, report_key, upload_key, video_folder, video_key,
    video_source_key, within,
};

mod folders;
mod uploads;

/// A directory of its own for a test; `files` in it is made by the store.
struct Directory(PathBuf);

impl Directory {
    fn create() -> Self {
        let path = std::env::temp_dir().join(format!("postroom-test-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn open(&self) -> Files {
        let url = format!("file://{}/files/below", self.0.display()).parse().unwrap();
        Files::open(&FilesSettings { url }).unwrap()
    }

    /// Every file under the directory, by its path from there.
    fn listing(&self) -> Vec<String> {
        let (mut found, mut open) = (Vec::new(), vec![self.0.clone()]);
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                } else {
                    found.push(entry.path().strip_prefix(&self.0).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("remove the test's directory");
    }
}

async fn content(file: StoredFile) -> Vec<u8> {
    let pieces: Vec<Bytes> = file.content.try_collect().await.unwrap();
    pieces.concat()
}

async fn read(files: &Files, key: &str) -> Option<Vec<u8>> {
    let file = files.get(key).await.unwrap()?;
    let bytes = file.bytes;
    let content = content(file).await;
    assert_eq!(bytes, content.len() as u64);
    Some(content)
}

#[tokio::test]
async fn a_file_is_read_back_as_it_was_stored() {
    let directory = Directory::create();
    let files = directory.open();
    // More than one piece.
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let key = report_key(Uuid::from_u128(7));
    files.put(&key, content.clone().into()).await.unwrap();
    assert!(read(&files, &key).await.unwrap() == content);
    assert_eq!(files.size(&key).await.unwrap(), Some(1_200_000));
    // Another process, or this one after a restart.
    assert_eq!(directory.open().size(&key).await.unwrap(), Some(1_200_000));
    assert_eq!(directory.listing(), ["files/below/reports/00000000-0000-0000-0000-000000000007.pdf"]);
}

#[tokio::test]
async fn a_file_that_was_never_stored_is_none() {
    let directory = Directory::create();
    let files = directory.open();
    assert!(files.get("reports/none.pdf").await.unwrap().is_none());
    assert_eq!(files.size("reports/none.pdf").await.unwrap(), None);
}

#[tokio::test]
async fn a_range_is_read_as_it_was_stored() {
    let directory = Directory::create();
    let files = directory.open();
    let whole: Vec<u8> = (0..70_000_u32).flat_map(u32::to_le_bytes).collect();
    let end = whole.len() as u64;
    files.put("a.mp4", whole.clone().into()).await.unwrap();
    for (from, to) in [(0, 1), (0, end), (1, end), (end - 1, end), (65_535, 65_537), (7, 200_000)] {
        let file = files.get_range("a.mp4", from..to).await.unwrap().unwrap();
        assert_eq!(file.bytes, end, "of the whole file");
        assert!(
            content(file).await == whole[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()],
            "{from}-{to}"
        );
    }
    for (from, to) in [(0, 0), (end, end), (0, end + 1), (end, end + 1), (end + 1, end + 2), (0, u64::MAX), (2, 1)] {
        let error = files.get_range("a.mp4", from..to).await.unwrap_err();
        assert!(matches!(error, FilesError::Range { bytes, .. } if bytes == end) && !error.is_transient(), "{error:?}");
    }
    assert!(files.get_range("b.mp4", 0..1).await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_is_an_error() {
    let directory = Directory::create();
    let files = directory.open();
    files.put("a.mp4", vec![7; 200_000].into()).await.unwrap();
    let file = files.get("a.mp4").await.unwrap().unwrap();
    std::fs::File::options().write(true).open(files.local_path("a.mp4").unwrap()).unwrap().set_len(100_000).unwrap();
    assert!(file.content.try_collect::<Vec<_>>().await.is_err());
}

#[tokio::test]
async fn a_file_that_is_renamed_has_the_new_key_alone() {
    let directory = Directory::create();
    let files = directory.open();
    let (upload, source) = (upload_key(Uuid::from_u128(1)), video_source_key(Uuid::from_u128(2), Uuid::from_u128(1)));
    for content in [&b"old"[..], b"new"] {
        files.put(&upload, Bytes::from_static(content)).await.unwrap();
        assert!(files.rename(&upload, &source).await.unwrap());
        assert_eq!(read(&files, &source).await.unwrap(), content);
        assert_eq!(directory.listing(), [format!("files/below/{source}")]);
    }
    assert!(!files.rename(&upload, &source).await.unwrap(), "there is nothing to rename");
    assert_eq!(read(&files, &source).await.unwrap(), b"new");
}

#[tokio::test]
async fn a_program_of_this_machine_finds_the_file() {
    let directory = Directory::create();
    let files = directory.open();
    let key = video_key(Uuid::from_u128(3), "720p.mp4");
    files.put(&key, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(std::fs::read(files.local_path(&key).unwrap()).unwrap(), b"x");
    assert_eq!(key, format!("{}/720p.mp4", video_folder(Uuid::from_u128(3))));
}

#[tokio::test]
async fn the_room_is_that_of_the_volume() {
    let directory = Directory::create();
    let files = directory.open();
    let room = files.room().await.unwrap();
    assert!(0 < room.free && room.free < room.total, "{room:?}");
    std::fs::remove_dir_all(directory.0.join("files")).unwrap();
    assert!(files.room().await.unwrap_err().is_transient());
}

#[tokio::test]
async fn a_file_that_is_deleted_is_gone_and_may_be_deleted_again() {
    let directory = Directory::create();
    let files = directory.open();
    files.put("reports/a.pdf", Bytes::from_static(b"x")).await.unwrap();
    files.put("reports/b.pdf", Bytes::from_static(b"x")).await.unwrap();
    for _ in 0..2 {
        files.delete("reports/a.pdf").await.unwrap();
        assert_eq!(directory.listing(), ["files/below/reports/b.pdf"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_the_old_file_or_the_new_one_never_a_part() {
    let directory = Directory::create();
    let files = directory.open();
    let versions = [vec![b'a'; 900_000], vec![b'b'; 1_300_000]];
    files.put("a.pdf", versions[0].clone().into()).await.unwrap();
    let writer = tokio::spawn({
        let (files, versions) = (files.clone(), versions.clone());
        async move {
            for round in 0..40 {
                files.put("a.pdf", versions[round % 2].clone().into()).await.unwrap();
            }
        }
    });
    let mut reads = 0;
    while !writer.is_finished() {
        let seen = read(&files, "a.pdf").await.unwrap();
        assert!(versions.contains(&seen), "{} bytes, first {}", seen.len(), seen[0]);
        reads += 1;
    }
    writer.await.unwrap();
    assert!(reads > 0);
    assert_eq!(directory.listing(), ["files/below/a.pdf"], "nothing temporary stays");
}

#[tokio::test]
async fn a_put_that_fails_leaves_nothing_and_may_be_tried_again() {
    let directory = Directory::create();
    let files = directory.open();
    std::fs::write(directory.0.join("files/below/reports"), "a file where a folder should be").unwrap();
    let error = files.put("reports/a.pdf", Bytes::from_static(b"x")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(directory.listing(), ["files/below/reports"]);
    std::fs::remove_file(directory.0.join("files/below/reports")).unwrap();
    files.put("reports/a.pdf", Bytes::from_static(b"x")).await.unwrap();
}

#[tokio::test]
async fn no_key_leads_out_of_the_store_or_to_its_temporary_files() {
    let directory = Directory::create();
    std::fs::write(directory.0.join("secret.pdf"), "secret").unwrap();
    let files = directory.open();
    let long = "a".repeat(201);
    for key in [
        "",
        "/",
        ".",
        "..",
        "/etc/passwd",
        "../../secret.pdf",
        "reports/../../../secret.pdf",
        "reports/..",
        "reports//a.pdf",
        "a.pdf#1",
        "a.pdf/",
        "/a.pdf",
        ".hidden",
        "a..pdf",
        "a.b.c",
        "%2e%2e/a.pdf",
        "a\\b",
        "a\0b",
        "A.pdf",
        "ä.pdf",
        "a b",
        &long,
    ] {
        let put = files.put(key, Bytes::from_static(b"x")).await.unwrap_err();
        assert!(matches!(put, FilesError::Key(_)) && !put.is_transient(), "{key}: {put:?}");
        assert!(matches!(files.get(key).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.size(key).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.get_range(key, 0..1).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.delete(key).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.begin(key).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.put_file(key, &directory.0.join("secret.pdf")).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.rename(key, "a.pdf").await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.rename("a.pdf", key).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.local_path(key), Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.delete_folder(key).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.older_than(key, Utc::now(), 1).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.older_folders(key, Utc::now()).await, Err(FilesError::Key(_))), "{key}");
        assert!(matches!(files.delete_unfinished(key, Utc::now(), 1).await, Err(FilesError::Key(_))), "{key}");
    }
    assert_eq!(directory.listing(), ["secret.pdf"]);
}

#[test]
fn only_a_directory_of_this_machine_can_be_opened() {
    let open = |url: &str| Files::open(&FilesSettings { url: url.parse().unwrap() }).unwrap_err();
    for url in ["https://shop.example/files", "file://elsewhere/files", "s3://bucket"] {
        assert!(matches!(open(url), FilesError::Address(_)), "{url}");
    }
    assert!(matches!(open("file:///dev/null/files"), FilesError::Directory { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_not_waited_for() {
    let start = tokio::time::Instant::now();
    let outcome = within("read", "a.pdf", READ_DEADLINE, std::future::pending::<object_store::Result<()>>()).await;
    assert!(matches!(outcome, Err(FilesError::Deadline { .. })) && outcome.unwrap_err().is_transient());
    assert_eq!(start.elapsed(), READ_DEADLINE);
}
