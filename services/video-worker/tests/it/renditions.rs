//! What comes out of which file.

use pipeline::events::ReadyRendition;
use serde_json::{Value, json};
use video_worker::transcoder::Transcoded;

use crate::sample::{Samples, decode, find, look};
use crate::studio::Studio;

fn sizes(made: &Transcoded) -> Vec<(&str, u32, u32)> {
    made.renditions.iter().map(|ReadyRendition { name, width, height, .. }| (name.as_str(), *width, *height)).collect()
}

fn stream<'a>(looked: &'a Value, kind: &str) -> Option<&'a Value> {
    looked["streams"].as_array().unwrap().iter().find(|stream| stream["codec_type"] == kind)
}

#[tokio::test]
async fn a_large_video_gets_two_renditions_that_play_everywhere_a_playlist_and_a_poster() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let path = samples.plain("plain.mp4", "1000x600", "7");
    let (id, made) = studio.make(&path).await;
    assert_eq!(sizes(&made), [("720p", 1000, 600), ("480p", 800, 480)]);
    assert!((6900..7200).contains(&made.millis), "{}", made.millis);
    let files = ["720p.mp4", "720p.m3u8", "720p.ts", "480p.mp4", "480p.m3u8", "480p.ts", "master.m3u8", "poster.jpg"];
    assert_eq!(made.files, files);
    assert_eq!(studio.names(id), made.files.iter().cloned().collect());
    for rendition in &made.renditions {
        let video = studio.made(id, &format!("{}.mp4", rendition.name));
        let bytes = std::fs::read(&video).unwrap();
        assert_eq!(bytes.len() as u64, rendition.bytes);
        assert!(find(&bytes, b"moov").unwrap() < find(&bytes, b"mdat").unwrap(), "a player can begin at once");
        let looked = look(&video);
        let (picture, sound) = (stream(&looked, "video").unwrap(), stream(&looked, "audio").unwrap());
        let is = [
            &picture["codec_name"],
            &picture["profile"],
            &picture["pix_fmt"],
            &picture["level"],
            &picture["avg_frame_rate"],
        ];
        assert_eq!(is, [&json!("h264"), &json!("High"), &json!("yuv420p"), &json!(31), &json!("30/1")]);
        assert_eq!((&picture["width"], &picture["height"]), (&json!(rendition.width), &json!(rendition.height)));
        assert_eq!(picture["sample_aspect_ratio"], "1:1");
        let is = [&sound["codec_name"], &sound["profile"], &sound["channels"], &sound["sample_rate"]];
        assert_eq!(is, [&json!("aac"), &json!("LC"), &json!(2), &json!("48000")]);

        let playlist = studio.made(id, &format!("{}.m3u8", rendition.name));
        let text = std::fs::read_to_string(&playlist).unwrap();
        assert_eq!(text.matches("#EXTINF:").count(), 2, "6 s and a rest: {text}");
        for path in [&video, &playlist] {
            let (frames, keys) = decode(path);
            assert_eq!(frames, 210, "{}", path.display());
            let begun: Vec<f64> = keys.iter().map(|at| at - keys[0]).collect();
            assert!(begun.windows(2).all(|pair| pair[1] - pair[0] < 2.01) && begun.len() >= 4, "{begun:?}");
        }
    }
    let master = look(&studio.made(id, "master.m3u8"));
    assert_eq!(master["streams"].as_array().unwrap().len(), 4, "two of each kind: {master}");
    let text = std::fs::read_to_string(studio.made(id, "master.m3u8")).unwrap();
    let codecs = "CODECS=\"avc1.64001F,mp4a.40.2\"";
    assert!(text.contains("RESOLUTION=1000x600,FRAME-RATE=30.000") && text.matches(codecs).count() == 2, "{text}");
    let poster = look(&studio.made(id, "poster.jpg"));
    let is = [&poster["streams"][0]["codec_name"], &poster["streams"][0]["width"], &poster["streams"][0]["height"]];
    assert_eq!(is, [&json!("mjpeg"), &json!(1000), &json!(600)]);

    let told = studio.told.lock().unwrap().clone();
    assert!(told.is_sorted_by_key(|(_, percent)| *percent), "{told:?}");
    assert!(told.iter().any(|(phase, percent)| phase == "making 720p" && (10..60).contains(percent)), "{told:?}");
    assert_eq!(told.last().unwrap(), &("taking a picture of it".to_owned(), 100));
    studio.assert_idle();
}

#[tokio::test]
async fn pictures_are_upright_square_and_never_enlarged() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let lying = samples.plain("lying.mp4", "640x360", "1");
    let encode = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let odd = "-f lavfi -i testsrc2=size=361x241:rate=25:duration=1 -c:v libx264 -preset ultrafast -pix_fmt yuv444p";
    let wide = "-f lavfi -i testsrc2=size=360x288:rate=25:duration=1 -vf setsar=64/45 -c:v mpeg4";
    let table = [
        (lying.clone(), (640, 360)),
        (samples.turned("turned.mp4", &lying), (360, 640)),
        (samples.plain("portrait.mp4", "240x320", "1"), (240, 320)),
        (samples.make("odd.mp4", odd), (360, 240)),
        (samples.make("wide.mkv", wide), (512, 288)),
        (
            samples.make("strip.mp4", &format!("-f lavfi -i testsrc2=size=2560x16:rate=5:duration=1 {encode}")),
            (1920, 12),
        ),
    ];
    for (path, (width, height)) in table {
        let (id, made) = studio.make(&path).await;
        assert_eq!(sizes(&made), [("480p", width, height)], "{}", path.display());
        let looked = look(&studio.made(id, "480p.mp4"));
        let picture = stream(&looked, "video").unwrap();
        assert_eq!((&picture["width"], &picture["height"]), (&json!(width), &json!(height)), "{}", path.display());
        assert_eq!((&picture["sample_aspect_ratio"], picture.get("side_data_list")), (&json!("1:1"), None));
    }
    studio.assert_idle();
}

#[tokio::test]
async fn what_people_upload_becomes_h264_of_eight_bits_and_at_most_30_frames_a_second() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let source = |rate| format!("-f lavfi -i testsrc2=size=320x180:rate={rate}:duration=1");
    let sound = "-f lavfi -i sine=duration=1";
    let hevc = "-c:v libx265 -preset ultrafast -pix_fmt yuv420p10le -x265-params log-level=error";
    let vp9 = "-c:v libvpx-vp9 -pix_fmt yuv420p10le -deadline realtime -cpu-used 8 -c:a libopus";
    let x264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let uneven = "-vf setpts='if(lt(N,10),N/30,(10/30)+(N-10)/10)/TB' -fps_mode vfr";
    let covered = "-map 0 -map 1 -map 2 -c:v:1 mjpeg -c:s mov_text -c:a alac -disposition:v:1 attached_pic";
    samples.make("cover.jpg", "-f lavfi -i color=red:size=64x64 -frames:v 1");
    samples.write("words.srt", "1\n00:00:00,000 --> 00:00:01,000\nHello\n");
    let table = [
        ("hevc.mp4", format!("{} {hevc}", source(24)), "24/1", false),
        ("vp9.webm", format!("{} {sound} {vp9}", source(30)), "30/1", true),
        ("fast.mp4", format!("{} {x264}", source(60)), "30/1", false),
        ("fast.mov", format!("{} {x264}", source(50)), "25/1", false),
        ("uneven.mkv", format!("{} {uneven} {x264}", source(30)), "30/1", false),
        ("slow.mp4", format!("{} {x264}", source(2)), "2/1", false),
        (
            "covered.m4v",
            format!("{} -i {{cover.jpg}} -i {{words.srt}} {sound} -map 3 {x264} {covered}", source(30)),
            "30/1",
            true,
        ),
    ];
    for (name, arguments, rate, has_sound) in table {
        let (id, _) = studio.make(&samples.make(name, &arguments)).await;
        let looked = look(&studio.made(id, "480p.mp4"));
        let picture = stream(&looked, "video").unwrap();
        assert_eq!((&picture["codec_name"], &picture["pix_fmt"]), (&json!("h264"), &json!("yuv420p")), "{name}");
        assert_eq!((&picture["r_frame_rate"], &picture["avg_frame_rate"]), (&json!(rate), &json!(rate)), "{name}");
        assert_eq!(stream(&looked, "audio").is_some(), has_sound, "{name}");
        assert_eq!(looked["streams"].as_array().unwrap().len(), 1 + usize::from(has_sound), "{name}: {looked}");
        decode(&studio.made(id, "480p.mp4"));
        decode(&studio.made(id, "480p.m3u8"));
    }
    studio.assert_idle();
}

#[tokio::test]
async fn where_and_by_whom_a_video_was_made_is_told_by_none_of_its_files() {
    let (samples, studio) = (Samples::new(), Studio::new());
    samples.plain("plain.mp4", "320x180", "1");
    samples.write(
        "told.txt",
        ";FFMETADATA1\ntitle=PRIVATE-1\nlocation=+47.37+008.54/PRIVATE-2\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=PRIVATE-3\n",
    );
    let told = "-metadata comment=PRIVATE-4 -metadata creation_time=2001-02-03T04:05:06Z -metadata:s handler_name=PRIVATE-5 \
        -metadata:s title=PRIVATE-6 -metadata:s creation_time=2001-02-03T04:05:06Z";
    let from = "-i {plain.mp4} -f ffmetadata -i {told.txt} -map 0 -map_metadata 1 -map_chapters 1 -c copy";
    for name in ["told.mp4", "told.mkv"] {
        let path = samples.make(name, &format!("{from} {told}"));
        let upload = std::fs::read(&path).unwrap();
        assert!((1..=4).all(|number| find(&upload, format!("PRIVATE-{number}").as_bytes()).is_some()), "{name}");
        let (id, made) = studio.make(&path).await;
        for file in &made.files {
            assert_eq!(find(&std::fs::read(studio.made(id, file)).unwrap(), b"PRIVATE"), None, "{name} {file}");
        }
        let looked = look(&studio.made(id, "480p.mp4"));
        assert_eq!(looked["chapters"], json!([]));
        assert!(!looked.to_string().contains("creation_time"), "{looked}");
    }
}

#[tokio::test]
async fn a_video_that_does_not_tell_its_length_is_as_long_as_it_is() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let sources = "-f lavfi -i testsrc2=size=160x90:rate=10:duration=7 -f lavfi -i sine=duration=7";
    // As a browser records.
    let live = samples
        .make("live.webm", &format!("{sources} -c:v libvpx -deadline realtime -cpu-used 8 -c:a libopus -live 1"));
    assert_eq!(look(&live)["format"].get("duration"), None);
    let (_, made) = studio.make(&live).await;
    assert!((6900..7100).contains(&made.millis), "{}", made.millis);
    let pieces = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac -movflags frag_keyframe+empty_moov";
    let (_, made) = studio.make(&samples.make("pieces.mp4", &format!("{sources} {pieces}"))).await;
    assert!((6900..7100).contains(&made.millis), "{}", made.millis);
}

#[tokio::test]
async fn a_single_frame_is_a_short_video() {
    let (samples, studio) = (Samples::new(), Studio::new());
    let one = "-f lavfi -i testsrc2=size=320x180:rate=25 -frames:v 1 -c:v libx264 -preset ultrafast -pix_fmt yuv420p";
    let (id, made) = studio.make(&samples.make("one.mp4", one)).await;
    assert_eq!(made.millis, 40);
    assert_eq!(decode(&studio.made(id, "480p.mp4")).0, 1);
}
