use std::fs::File;
use std::time::Duration;

use backing::Directory;
use store::FilesSettings;

use super::plan::{Level, Rate, Source};
use super::*;

fn upload(millis: u64, picture_millis: Option<u64>) -> Source {
    Source {
        picture: 0,
        sound: None,
        size: (640, 360),
        pixel_aspect: (1, 1),
        is_turned: false,
        rate: Rate { frames: 30, seconds: 1 },
        millis,
        picture_millis,
    }
}

#[test]
fn a_video_is_whole_that_is_as_long_as_its_file_says() {
    let table = [
        (60_000, None, (60_000, 60_000), true),
        (60_000, None, (54_000, 54_000), true),
        (60_000, None, (53_999, 53_999), false),
        // Its sound alone is whole.
        (60_000, Some(60_000), (60_000, 30_000), false),
        // Its picture ends early, as it says.
        (60_000, Some(30_000), (60_000, 30_000), true),
        (1_000, None, (500, 500), true),
        (2_000, None, (1_000, 1_000), false),
        (40, Some(40), (40, 40), true),
        (60_000, None, (70_000, 70_000), true),
        (60_000, None, (70_001, 70_001), false),
    ];
    for (millis, picture_millis, made, wanted) in table {
        assert_eq!(is_whole(&upload(millis, picture_millis), made), wanted, "{millis} {picture_millis:?} {made:?}");
    }
}

#[test]
fn a_video_that_is_cut_as_too_long_is_never_taken_for_whole() {
    for millis in [40, 1_000, 60_000, 7_200_000] {
        let cut = u64::try_from(at_most(Duration::from_millis(millis)).as_millis()).unwrap();
        assert!(!is_whole(&upload(millis, None), (cut - 500, cut - 500)), "{millis}");
    }
}

#[test]
fn the_files_of_a_plan_are_those_of_its_renditions_and_two_more() {
    let rendition = |name| Rendition { name, width: 2, height: 2, level: Level(31), kilobits: 1 };
    let plan = Plan {
        renditions: vec![rendition("720p"), rendition("480p")],
        rate: Rate { frames: 1, seconds: 1 },
        has_sound: false,
    };
    let wanted = ["720p.mp4", "720p.m3u8", "720p.ts", "480p.mp4", "480p.m3u8", "480p.ts", "master.m3u8", "poster.jpg"];
    assert_eq!(plan.files(), wanted);
}

#[tokio::test]
async fn a_file_for_which_the_store_has_no_room_is_stored_in_no_part_and_left_to_another_try() {
    let directory = Directory::new();
    let url = format!("file://{}/files", directory.0.display()).parse().unwrap();
    let transcoder = Transcoder {
        files: Files::open(&FilesSettings { url }).unwrap(),
        scratch: Scratch::open(&directory.0.join("scratch")).unwrap(),
        encoder: Encoder::new(PathBuf::from("/nowhere"), 1, Limits::default()),
    };
    // Nobody waits for it: a run that asks for no room ends here, and does not fill the volume.
    let stop = CancellationToken::new();
    stop.cancel();
    let waiting = Waiting { stop: &stop, tell: &|_, _| {} };
    let plan = Plan { renditions: Vec::new(), rate: Rate { frames: 1, seconds: 1 }, has_sound: false };
    let folder = transcoder.scratch.folder().unwrap();
    // A hole as large as the whole volume.
    let total = transcoder.files.room().await.unwrap().total;
    File::create(folder.path().join("480p.mp4")).unwrap().set_len(total).unwrap();
    let (id, whole) = (Uuid::from_u128(1), Whole::of(std::iter::empty()));
    let run = Run { transcoder: &transcoder, id, folder, waiting, plan: &plan, whole };

    let error = run.store("480p.mp4").await.unwrap_err();
    let reason = error.to_string();
    assert!(matches!(error, TranscodeError::Machine(_)), "{error:?}");
    assert!(reason.starts_with(&format!("480p.mp4 has {total} bytes, and ")), "{reason}");
    assert_eq!(std::fs::read_dir(directory.0.join("files")).unwrap().count(), 0);
}
