use std::future::Future;
use std::task::{Context, Waker};

use bytes::Bytes;

use super::{Directory, FilesError, read};

/// Some millions of bytes that repeat nowhere near.
fn content(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_le_bytes).take(length).collect()
}

#[tokio::test]
async fn a_file_that_arrives_in_pieces_of_any_size_is_stored_as_it_came() {
    let directory = Directory::create();
    let files = directory.open();
    let content = content(5_000_000);
    for size in [1_000, 65_536, 1_048_576, 1_048_577, 5_000_000] {
        let mut upload = files.begin("uploads/a").await.unwrap();
        for piece in content.chunks(size) {
            upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(upload.finish().await.unwrap(), 5_000_000);
        assert!(read(&files, "uploads/a").await.unwrap() == content, "in pieces of {size}");
    }
    let empty = files.begin("uploads/b").await.unwrap();
    assert_eq!(empty.finish().await.unwrap(), 0);
    assert_eq!(files.size("uploads/b").await.unwrap(), Some(0));
    assert_eq!(directory.listing(), ["files/below/uploads/a", "files/below/uploads/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_an_upload_whole_or_not_at_all() {
    let directory = Directory::create();
    let files = directory.open();
    let content = content(3_000_000);
    let mut reads = 0;
    for round in 0..8_usize {
        let writer = tokio::spawn({
            let (files, content) = (files.clone(), content.clone());
            async move {
                let mut upload = files.begin("uploads/a").await.unwrap();
                for piece in content[round..].chunks(400_000) {
                    upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
                }
                upload.finish().await.unwrap();
            }
        });
        while !writer.is_finished() {
            reads += 1;
            let seen = read(&files, "uploads/a").await;
            let known = seen.as_ref().is_none_or(|seen| {
                let first = content.len() - seen.len();
                (first == round || first + 1 == round) && *seen == content[first..]
            });
            assert!(
                known && (round == 0 || seen.is_some()),
                "{:?} bytes in round {round}",
                seen.map(|seen| seen.len())
            );
        }
        writer.await.unwrap();
    }
    assert!(reads > 0);
    assert_eq!(directory.listing(), ["files/below/uploads/a"], "nothing temporary stays");
}

#[tokio::test]
async fn two_uploads_under_one_key_do_not_mix() {
    let directory = Directory::create();
    let files = directory.open();
    let (mut one, mut other) = (files.begin("a").await.unwrap(), files.begin("a").await.unwrap());
    for _ in 0..3 {
        one.write(vec![1; 700_000].into()).await.unwrap();
        other.write(vec![2; 900_000].into()).await.unwrap();
    }
    one.finish().await.unwrap();
    assert!(read(&files, "a").await.unwrap() == vec![1; 2_100_000]);
    other.finish().await.unwrap();
    assert!(read(&files, "a").await.unwrap() == vec![2; 2_700_000]);
}

/// A runtime in which one thread waits for the disk: what is asked of it is done in order.
fn in_order(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(test);
}

#[test]
fn an_upload_that_is_dropped_leaves_nothing() {
    in_order(async {
        let directory = Directory::create();
        let files = directory.open();
        files.put("a", Bytes::from_static(b"old")).await.unwrap();
        for pieces in 0..3 {
            let mut upload = files.begin("a").await.unwrap();
            for _ in 0..pieces {
                upload.write(vec![7; 2_000_000].into()).await.unwrap();
            }
            assert_eq!(directory.listing().len(), 2);
            drop(upload);
            assert_eq!(read(&files, "a").await.unwrap(), b"old");
            assert_eq!(directory.listing(), ["files/below/a"]);
        }
    });
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing() {
    let directory = Directory::create();
    let files = directory.open();
    let mut upload = files.begin("uploads/a").await.unwrap();
    upload.write(vec![7; 2_000_000].into()).await.unwrap();
    upload.abort().await.unwrap();
    assert!(directory.listing().is_empty());
}

#[test]
fn an_upload_with_a_piece_that_was_cut_short_is_never_finished() {
    in_order(async {
        let directory = Directory::create();
        let files = directory.open();
        let mut upload = files.begin("uploads/a").await.unwrap();
        // The disk hangs, and the caller stops waiting while the piece is on its way.
        let (release, hanging) = std::sync::mpsc::channel::<()>();
        let disk = tokio::task::spawn_blocking(move || hanging.recv());
        let mut writing = Box::pin(upload.write(vec![7; 2_000_000].into()));
        assert!(writing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(writing);
        drop(release);
        assert!(disk.await.unwrap().is_err());
        let more = upload.write(vec![7; 2_000_000].into()).await.unwrap_err();
        assert!(matches!(more, FilesError::PieceMissing(_)) && more.is_transient(), "{more:?}");
        assert!(matches!(upload.finish().await, Err(FilesError::PieceMissing(_))));
        assert_eq!(files.size("uploads/a").await.unwrap(), None);
        assert!(directory.listing().is_empty());
    });
}

#[tokio::test]
async fn a_file_of_this_machine_is_stored_whole() {
    let directory = Directory::create();
    let files = directory.open();
    let content = content(3_000_001);
    let from = directory.0.join("rendition.mp4");
    for length in [0, 1, 1_048_576, 3_000_001] {
        std::fs::write(&from, &content[..length]).unwrap();
        assert_eq!(files.put_file("videos/a/720p.mp4", &from).await.unwrap(), length as u64);
        assert!(read(&files, "videos/a/720p.mp4").await.unwrap() == content[..length], "{length} bytes");
    }
    std::fs::remove_file(&from).unwrap();
    let error = files.put_file("videos/a/360p.mp4", &from).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("rendition.mp4"), "{error}");
    assert_eq!(files.size("videos/a/360p.mp4").await.unwrap(), None);
}
