//! Runs that go on where others have ended.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use uuid::Uuid;
use video_worker::transcoder::MADE;

use crate::sample::Samples;
use crate::studio::{PROGRAMS, Studio, programs};

#[tokio::test]
async fn what_is_stored_is_not_made_again() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let path = samples.plain("video.mp4", "660x500", "1");
    let id = Uuid::now_v7();
    let source = studio.upload(id, &path).await;
    let made = studio.run(id, &source).await.unwrap();
    let inode = |studio: &Studio, name: &str| std::fs::metadata(studio.made(id, name)).unwrap().ino();
    let before = inode(&studio, "720p.mp4");

    // All of it is there and known to be: nothing is done, and the upload is needed no more.
    let broken = programs("exit 1");
    let studio = studio.by(&broken.0);
    studio.transcoder.files.delete(&source.key).await.unwrap();
    assert_eq!(studio.run(id, &source).await.unwrap(), made);
    assert_eq!(*studio.told.lock().unwrap(), []);

    // A run that was killed right before its end: ffmpeg has nothing to do.
    assert_eq!(studio.upload(id, &path).await, source);
    std::fs::remove_file(studio.made(id, MADE)).unwrap();
    assert_eq!(studio.run(id, &source).await.unwrap(), made);
    assert_eq!(studio.told.lock().unwrap().len(), 1, "the file is read again, and nothing else is done");

    // Another release wrote something else there.
    std::fs::write(studio.made(id, MADE), r#"{"minutes": 1}"#).unwrap();
    assert_eq!(studio.run(id, &source).await.unwrap(), made);
    assert_eq!(studio.told.lock().unwrap().len(), 2);

    // A step that ended between its two files, and one that never began.
    let log = samples.path("log");
    let counting =
        programs(&format!("for last; do :; done; echo $last >> {}; exec {PROGRAMS}/ffmpeg \"$@\"", log.display()));
    let studio = studio.by(&counting.0);
    for name in ["480p.m3u8", "poster.jpg", "master.m3u8", MADE] {
        std::fs::remove_file(studio.made(id, name)).unwrap();
    }
    // What a killed run has left of a file that it was storing, and what one that is alive writes right now.
    let [left, alive] = ["720p.mp4#1", "480p.mp4#1"].map(|name| studio.made(id, name));
    for path in [&left, &alive] {
        std::fs::write(path, "half a file").unwrap();
    }
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 3600);
    File::options().write(true).open(&left).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(studio.run(id, &source).await.unwrap(), made);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "480p.m3u8\nposter.jpg\n");
    assert_eq!(inode(&studio, "720p.mp4"), before);
    assert!(!left.exists() && alive.exists());
    std::fs::remove_file(alive).unwrap();
    assert_eq!(studio.names(id), made.files.iter().cloned().collect());
    studio.assert_idle();
}
