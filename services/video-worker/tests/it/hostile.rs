//! Files that are no videos, or worse.

use std::net::TcpListener;

use video_worker::transcoder::{Refusal, TranscodeError};

use crate::sample::{Samples, find};
use crate::studio::Studio;

#[tokio::test]
async fn what_is_no_whole_video_is_refused_with_its_reason() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let video = samples.plain("video.mp4", "640x360", "3");
    let fast = samples.make("fast.mp4", "-i {video.mp4} -c copy -movflags +faststart");
    let mkv = samples.make("video.mkv", "-i {video.mp4} -c copy");
    let cover = "-f lavfi -i sine=duration=1 -f lavfi -i color=red:size=64x64:duration=0.04 -c:a aac -c:v mjpeg -disposition:v attached_pic";
    let encrypted = "-i {video.mp4} -c copy -encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb \
        -encryption_kid a7e61c373e219033c21091fa607bf3b8";
    let dts = "-i {video.mp4} -c:v copy -c:a dca -strict -2";
    let theora = "-f lavfi -i testsrc2=size=320x180:duration=1 -c:v libtheora";
    let small = "-f lavfi -i testsrc2=size=64x14:duration=1 -c:v libx264 -pix_fmt yuv420p";
    let wide = "-f lavfi -i color=size=8200x16:duration=0.2 -c:v libx264 -pix_fmt yuv420p";
    let huge = "-f lavfi -i color=size=9000x9000:rate=1:duration=1 -c:v libvpx -deadline realtime -cpu-used 16";
    let long = "-f lavfi -i color=size=16x16:rate=1/60:duration=7260 -c:v libx264 -pix_fmt yuv420p";
    let table = [
        (samples.write("empty.mp4", ""), Refusal::Unreadable),
        (samples.write("text.mp4", "just text"), Refusal::Unreadable),
        (samples.write("zeros.mp4", [0; 100_000]), Refusal::Unreadable),
        (samples.cut("cut.mp4", &video, 60), Refusal::Unreadable),
        (samples.cut("cut-fast.mp4", &fast, 50), Refusal::Damaged),
        (samples.cut("cut.mkv", &mkv, 50), Refusal::Damaged),
        (samples.make("encrypted.mp4", encrypted), Refusal::Damaged),
        (samples.make("video.ts", "-i {video.mp4} -c copy -f mpegts"), Refusal::Unreadable),
        (samples.make("video.avi", "-i {video.mp4} -c copy"), Refusal::Unreadable),
        (samples.make("picture.png", "-f lavfi -i color=red:size=64x64 -frames:v 1"), Refusal::Unreadable),
        (samples.make("sound.mp4", "-f lavfi -i sine=duration=1 -c:a aac"), Refusal::NoPicture),
        (samples.make("cover.mp4", cover), Refusal::NoPicture),
        (samples.make("dts.mkv", dts), Refusal::Unsupported),
        (samples.make("theora.mkv", theora), Refusal::Unsupported),
        (samples.make("small.mp4", small), Refusal::TooSmall),
        (samples.make("wide.mp4", wide), Refusal::TooLarge),
        (samples.make("huge.webm", huge), Refusal::TooLarge),
        (samples.make("long.mp4", long), Refusal::TooLong),
    ];
    for (path, wanted) in table {
        assert_eq!(studio.refuse(&path).await, wanted, "{}", path.display());
    }
}

#[tokio::test]
async fn what_names_other_files_or_hosts_is_refused_and_nobody_is_asked() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/secret.ts", listener.local_addr().unwrap());
    let other = samples.plain("other.mp4", "320x180", "1");
    let mut files = Vec::new();
    for (kind, target) in [("host", url), ("file", other.display().to_string()), ("system", "/etc/passwd".to_owned())] {
        let scripts = [
            ("m3u8", format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")),
            ("ffconcat", format!("ffconcat version 1.0\nfile '{target}'\nduration 9\n")),
            (
                "svg",
                format!(
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"99\" height=\"99\"><image href=\"{target}\"/></svg>"
                ),
            ),
            (
                "mpd",
                format!(
                    "<?xml version=\"1.0\"?><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\" type=\"static\"><Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
                ),
            ),
            (
                "sdp",
                format!(
                    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
                ),
            ),
        ];
        files.extend(scripts.map(|(extension, text)| samples.write(&format!("{kind}.{extension}"), text)));
    }
    for path in files {
        assert_eq!(studio.refuse(&path).await, Refusal::Unreadable, "{}", path.display());
    }
    let asked = listener.accept().map(|(_, from)| from);
    assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// A QuickTime file whose samples lie in another file, as its record of references says.
fn referring(whole: &[u8], path: &str) -> Vec<u8> {
    let mut alias = vec![0; 4];
    alias.extend(vec![0; 10 + 1 + 27 + 12 + 1 + 63 + 16 + 4 + 16]);
    alias.extend([0, 2]);
    let mut path = path.as_bytes().to_vec();
    path.resize(path.len().next_multiple_of(2).max(64), 0);
    alias.extend(u16::try_from(path.len()).unwrap().to_be_bytes());
    alias.extend(path);
    alias.extend([0xff, 0xff, 0, 0]);
    let mut entry = u32::try_from(alias.len() + 8).unwrap().to_be_bytes().to_vec();
    entry.extend(b"alis");
    entry.extend(alias);
    let old = b"\0\0\0\x0curl \0\0\0\x01";
    let mut bytes = whole.to_vec();
    let place = find(&bytes, old).unwrap();
    let grown = u32::try_from(entry.len() - old.len()).unwrap();
    for name in [b"dref", b"dinf", b"minf", b"mdia", b"trak", b"moov"] {
        // The last before the entry: boxes lie in each other.
        let at = (0..place).rev().find(|at| &bytes[*at..*at + 4] == name).unwrap() - 4;
        let size = u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) + grown;
        bytes[at..at + 4].copy_from_slice(&size.to_be_bytes());
    }
    bytes.splice(place..place + old.len(), entry);
    let samples = find(&bytes, b"mdat").unwrap() + 4;
    let end = find(&bytes, b"moov").unwrap() - 4;
    bytes[samples..end].fill(0);
    bytes
}

#[tokio::test]
async fn a_video_whose_samples_lie_in_another_file_does_not_get_them() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let other = samples.make(
        "other.mov",
        "-f lavfi -i testsrc2=size=320x180:rate=30:duration=1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    );
    let path = samples.write("refers.mov", referring(&std::fs::read(&other).unwrap(), other.to_str().unwrap()));
    // Whoever believes it, sees the other one's frames.
    samples.make("believed.mp4", "-enable_drefs 1 -use_absolute_path 1 -xerror -i {refers.mov}");
    assert_eq!(studio.refuse(&path).await, Refusal::Damaged);
}

#[tokio::test]
async fn an_upload_that_is_not_there_is_waited_for_and_one_of_another_size_is_not() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let path = samples.plain("video.mp4", "320x180", "1");
    let id = uuid::Uuid::now_v7();
    let source = studio.upload(id, &path).await;
    let other = pipeline::jobs::VideoSource { bytes: source.bytes + 1, ..source.clone() };
    let failed = studio.run(id, &other).await.unwrap_err();
    assert!(matches!(&failed, TranscodeError::Defect(reason) if reason.contains("was accepted with")), "{failed:?}");
    studio.transcoder.files.delete(&source.key).await.unwrap();
    let failed = studio.run(id, &source).await.unwrap_err();
    assert!(matches!(&failed, TranscodeError::Machine(reason) if reason.contains("not in the store")), "{failed:?}");
    for key in ["../etc/passwd", "/etc/passwd", "videos/a#1"] {
        let other = pipeline::jobs::VideoSource { key: key.to_owned(), ..source.clone() };
        assert!(matches!(studio.run(id, &other).await.unwrap_err(), TranscodeError::Defect(_)), "{key}");
    }
}
