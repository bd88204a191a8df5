//! What a file is, as ffprobe tells it, and whether it can become a video.

use std::collections::HashMap;

use serde::Deserialize;

use super::plan::{Rate, Source};
use super::refusal::Refusal;

/// What ffprobe is asked for: numbers and names of formats, nothing that the file's author wrote.
pub(super) const ENTRIES: &str = "format=duration:\
    stream=index,codec_type,codec_name,width,height,sample_aspect_ratio,r_frame_rate,avg_frame_rate,duration,sample_rate:\
    stream_disposition=attached_pic:stream_side_data=rotation";

/// ffprobe's answer.
#[derive(Debug, Deserialize)]
pub(super) struct Probed {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, Default, Deserialize)]
struct Format {
    duration: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stream {
    index: u32,
    codec_type: String,
    codec_name: String,
    width: u32,
    height: u32,
    sample_aspect_ratio: String,
    r_frame_rate: String,
    avg_frame_rate: String,
    duration: Option<String>,
    sample_rate: String,
    disposition: HashMap<String, u8>,
    side_data_list: Vec<SideData>,
}

#[derive(Debug, Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

/// An upload of which everything is known but perhaps its length.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) millis: Option<u64>,
    /// Its `millis` mean nothing yet.
    source: Source,
}

impl Found {
    pub(super) fn with_millis(self, millis: u64) -> Source {
        Source { millis, ..self.source }
    }
}

impl Probed {
    /// What becomes a video: the first stream of moving pictures and the first of sound.
    pub(super) fn found(&self) -> Result<Found, Refusal> {
        if self.streams.is_empty() {
            return Err(Refusal::Unreadable);
        }
        let is_cover = |stream: &Stream| stream.disposition.get("attached_pic").is_some_and(|flag| *flag != 0);
        let picture = self.streams.iter().find(|stream| stream.codec_type == "video" && !is_cover(stream));
        let picture = picture.ok_or(Refusal::NoPicture)?;
        if picture.width == 0 || picture.height == 0 {
            return Err(Refusal::Unreadable);
        }
        let is_sound = |stream: &&Stream| {
            stream.codec_type == "audio"
                && !stream.codec_name.is_empty()
                && !matches!(stream.sample_rate.as_str(), "" | "0")
        };
        let source = Source {
            picture: picture.index,
            sound: self.streams.iter().find(is_sound).map(|stream| stream.index),
            size: (picture.width, picture.height),
            pixel_aspect: fraction(&picture.sample_aspect_ratio, ':').unwrap_or((1, 1)),
            is_turned: picture.side_data_list.iter().find_map(|data| data.rotation).is_some_and(is_quarter),
            rate: picture.rate(),
            millis: 0,
            picture_millis: picture.duration.as_deref().and_then(millis),
        };
        Ok(Found { millis: self.format.duration.as_deref().and_then(millis), source })
    }

    /// How long a finished file is, and the picture in it.
    pub(super) fn lengths(&self) -> Option<(u64, u64)> {
        let picture = self.streams.iter().find(|stream| stream.codec_type == "video")?;
        Some((millis(self.format.duration.as_deref()?)?, millis(picture.duration.as_deref()?)?))
    }
}

impl Stream {
    /// The base rate, by which players go; where that is none, the average.
    fn rate(&self) -> Rate {
        let rates = [&self.r_frame_rate, &self.avg_frame_rate].into_iter().filter_map(|text| fraction(text, '/'));
        let (frames, seconds) = rates.into_iter().next().unwrap_or((25, 1));
        Rate { frames, seconds }
    }
}

/// As ffmpeg itself sees it when it turns a picture upright.
fn is_quarter(degrees: f64) -> bool {
    (degrees.rem_euclid(180.0) - 90.0).abs() < 1.0
}

/// Both above 0.
fn fraction(text: &str, between: char) -> Option<(u32, u32)> {
    let (upper, lower) = text.split_once(between)?;
    let (upper, lower) = (upper.parse().ok()?, lower.parse().ok()?);
    (upper > 0 && lower > 0).then_some((upper, lower))
}

/// Above 0.
fn millis(seconds: &str) -> Option<u64> {
    let seconds: f64 = seconds.parse().ok()?;
    let millis = (seconds * 1000.0).round();
    (1.0..1e15).contains(&millis).then_some(millis as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(streams: Value, duration: &str) -> Result<Found, Refusal> {
        let probed: Probed =
            serde_json::from_value(json!({"programs": [], "streams": streams, "format": {"duration": duration}}))
                .unwrap();
        probed.found()
    }

    fn picture() -> Value {
        json!({
            "index": 0, "codec_type": "video", "codec_name": "h264", "width": 1920, "height": 1080,
            "sample_aspect_ratio": "1:1", "r_frame_rate": "30/1", "avg_frame_rate": "2997/100", "duration": "2.000000",
            "disposition": {"attached_pic": 0}, "tags": {}, "side_data_list": [{}, {"rotation": -90}],
        })
    }

    fn sound() -> Value {
        json!({"index": 1, "codec_type": "audio", "codec_name": "aac", "sample_rate": "44100", "r_frame_rate": "0/0"})
    }

    fn with(mut stream: Value, key: &str, value: Value) -> Value {
        stream[key] = value;
        stream
    }

    #[test]
    fn a_video_is_its_first_moving_picture_and_its_first_sound() {
        let cover = with(with(picture(), "disposition", json!({"attached_pic": 1})), "index", json!(7));
        let data = json!({"index": 8, "codec_type": "data"});
        let second = with(sound(), "index", json!(2));
        let video = found(json!([cover, data, picture(), sound(), second]), "2.0234").unwrap();
        assert_eq!(video.millis, Some(2023));
        let wanted = Source {
            picture: 0,
            sound: Some(1),
            size: (1920, 1080),
            pixel_aspect: (1, 1),
            is_turned: true,
            rate: Rate { frames: 30, seconds: 1 },
            millis: 5,
            picture_millis: Some(2000),
        };
        assert_eq!(video.with_millis(5), wanted);
    }

    #[test]
    fn what_holds_no_moving_picture_is_refused() {
        let cover = with(picture(), "disposition", json!({"attached_pic": 1}));
        assert_eq!(found(json!([]), "1"), Err(Refusal::Unreadable));
        assert_eq!(found(json!([sound(), cover]), "1"), Err(Refusal::NoPicture));
        assert_eq!(found(json!([with(picture(), "width", json!(0))]), "1"), Err(Refusal::Unreadable));
    }

    #[test]
    fn what_a_file_does_not_tell_has_a_plain_value() {
        let bare = json!({"index": 3, "codec_type": "video", "width": 20, "height": 20, "sample_aspect_ratio": "0:1",
            "r_frame_rate": "0/0", "avg_frame_rate": "0/0"});
        let deaf = with(sound(), "sample_rate", json!("0"));
        for length in ["N/A", "0.000000", "-1", "nan", "inf", "1e300"] {
            let video = found(json!([bare.clone(), deaf.clone()]), length).unwrap();
            assert_eq!(video.millis, None, "{length}");
            let source = video.with_millis(1);
            assert_eq!((source.pixel_aspect, source.rate), ((1, 1), Rate { frames: 25, seconds: 1 }));
            assert_eq!((source.sound, source.is_turned, source.picture_millis), (None, false, None));
        }
    }

    #[test]
    fn a_quarter_to_either_side_turns_a_picture() {
        let turned = [90.0, -90.0, 270.0, 89.5, -270.0].map(is_quarter);
        let upright = [0.0, 180.0, -180.0, 45.0, 1.0, f64::NAN, -2_147_483_648.0].map(is_quarter);
        assert_eq!((turned, upright), ([true; 5], [false; 7]));
    }
}
