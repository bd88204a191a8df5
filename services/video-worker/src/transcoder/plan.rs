//! Which renditions a video gets: pure, and shown as a table by its tests.

use super::refusal::Refusal;

/// The longest video, in seconds.
pub const MAX_SECONDS: u64 = 2 * 60 * 60;
/// The largest width and height, in pixels: 8K.
pub const MAX_SIDE: u32 = 8192;
/// The smallest width and height, in pixels: an H.264 macroblock.
pub const MIN_SIDE: u32 = 16;

/// The longer side of a rendition at most, in pixels: what phones still decode. Wide cinema at 720p just fits.
const LONGEST_SIDE: u32 = 1920;
const MOST_FRAMES_A_SECOND: u32 = 30;
/// More is no rate, but what a container counts time in.
const MOST_BELIEVED: f64 = 1000.0;
/// Below this a frame rate is not divided, as motion would stutter.
const SMOOTH_FRAMES_A_SECOND: u32 = 24;

/// An upload, as far as a plan needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The index of the stream of pictures.
    pub picture: u32,
    /// The index of the stream of sound, if there is one.
    pub sound: Option<u32>,
    /// Size of the stored picture, in pixels.
    pub size: (u32, u32),
    /// Width of a pixel by its height.
    pub pixel_aspect: (u32, u32),
    /// Whether it is shown turned by a quarter, to either side.
    pub is_turned: bool,
    /// Frames a second.
    pub rate: Rate,
    /// How long the file says it is, in milliseconds.
    pub millis: u64,
    /// How long the file says the stream of pictures is, in milliseconds, if it says so.
    pub picture_millis: Option<u64>,
}

/// Frames a second, as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Frames …
    pub frames: u32,
    /// … in so many seconds.
    pub seconds: u32,
}

/// What is made of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The largest first; one or two.
    pub renditions: Vec<Rendition>,
    /// Of every rendition.
    pub rate: Rate,
    /// Whether they have sound.
    pub has_sound: bool,
}

/// One size of a video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendition {
    /// `720p` or `480p`.
    pub name: &'static str,
    /// Pixels, even.
    pub width: u32,
    /// Pixels, even.
    pub height: u32,
    /// The level of H.264 that it keeps to.
    pub level: Level,
    /// Of the picture at most, in kbit/s.
    pub kilobits: u32,
}

/// A level of H.264 by its number times ten: 31 is 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub u8);

/// A kind of rendition: its name, its shorter side at most, its kbit/s at most.
struct Size(&'static str, u32, u32);

const LARGE: Size = Size("720p", 720, 3000);
const SMALL: Size = Size("480p", 480, 1500);

impl Plan {
    /// The plan for a video.
    ///
    /// # Errors
    /// Too long, too large or too small.
    pub fn of(source: &Source) -> Result<Self, Refusal> {
        if source.millis > MAX_SECONDS * 1000 {
            return Err(Refusal::TooLong);
        }
        let (width, height) = source.displayed();
        let (shorter, longer) = (width.min(height), width.max(height));
        if longer > f64::from(MAX_SIDE) || source.size.0.max(source.size.1) > MAX_SIDE {
            return Err(Refusal::TooLarge);
        }
        if shorter < f64::from(MIN_SIDE) {
            return Err(Refusal::TooSmall);
        }
        let rate = source.rate.limited();
        let sizes: &[Size] = if shorter > f64::from(SMALL.1) { &[LARGE, SMALL] } else { &[SMALL] };
        let renditions = sizes.iter().map(|size| Rendition::fitted(size, (width, height), rate)).collect();
        Ok(Self { renditions, rate, has_sound: source.sound.is_some() })
    }
}

impl Source {
    /// Width and height as it is shown: with square pixels, upright.
    fn displayed(&self) -> (f64, f64) {
        let (width, height) = (f64::from(self.size.0), f64::from(self.size.1));
        let (wide, high) = self.pixel_aspect;
        let width = width * f64::from(wide) / f64::from(high);
        if self.is_turned { (height, width) } else { (width, height) }
    }
}

impl Rate {
    /// Frames a second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        f64::from(self.frames) / f64::from(self.seconds)
    }

    /// 1 to 30 a second: every second or third frame of a faster video where that is still smooth, else 30.
    fn limited(self) -> Self {
        let most = f64::from(MOST_FRAMES_A_SECOND);
        if self.per_second() <= 1.0 {
            return Self { frames: 1, seconds: 1 };
        }
        if self.per_second() > MOST_BELIEVED {
            return Self { frames: MOST_FRAMES_A_SECOND, seconds: 1 };
        }
        let every = (self.per_second() / most).ceil() as u32;
        let divided = self.seconds.checked_mul(every).map(|seconds| Self { frames: self.frames, seconds });
        match divided {
            Some(rate) if every == 1 || rate.per_second() >= f64::from(SMOOTH_FRAMES_A_SECOND) => rate,
            _ => Self { frames: MOST_FRAMES_A_SECOND, seconds: 1 },
        }
    }
}

impl Rendition {
    fn fitted(size: &Size, (width, height): (f64, f64), rate: Rate) -> Self {
        let &Size(name, shorter, kilobits) = size;
        let by_shorter = f64::from(shorter) / width.min(height);
        let by_longer = f64::from(LONGEST_SIDE) / width.max(height);
        let scale = by_shorter.min(by_longer).min(1.0);
        let (width, height) = (even(width, scale), even(height, scale));
        Self { name, width, height, level: Level::of(width, height, rate), kilobits }
    }

    /// Its number of pixels.
    #[must_use]
    pub fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }
}

/// The nearest even number of pixels, never above what there is.
fn even(side: f64, scale: f64) -> u32 {
    let nearest = (side * scale / 2.0).round() * 2.0;
    let there = (side / 2.0).floor() * 2.0;
    (nearest.min(there) as u32).max(2)
}

impl Level {
    /// The least level, from 3.1 on, that allows the picture: ITU-T H.264, table A-1.
    fn of(width: u32, height: u32, rate: Rate) -> Self {
        let blocks = width.div_ceil(16) * height.div_ceil(16);
        let a_second = f64::from(blocks) * rate.per_second();
        let allowed =
            |(_, most, most_a_second): &(u8, u32, u32)| blocks <= *most && a_second <= f64::from(*most_a_second);
        let table = [(31, 3_600, 108_000), (32, 5_120, 216_000), (40, 8_192, 245_760)];
        Self(table.iter().find(|row| allowed(row)).map_or(42, |(level, ..)| *level))
    }

    /// As ffmpeg is told: `3.1`.
    #[must_use]
    pub fn dotted(self) -> String {
        format!("{}.{}", self.0 / 10, self.0 % 10)
    }

    /// As a playlist tells it, in profile High: `avc1.64001F` (RFC 6381).
    #[must_use]
    pub fn codec(self) -> String {
        format!("avc1.6400{:02X}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(width: u32, height: u32) -> Source {
        Source {
            picture: 0,
            sound: Some(1),
            size: (width, height),
            pixel_aspect: (1, 1),
            is_turned: false,
            rate: Rate { frames: 30, seconds: 1 },
            millis: 10_000,
            picture_millis: None,
        }
    }

    fn sizes(source: &Source) -> Vec<(&'static str, u32, u32, u8)> {
        let plan = Plan::of(source).unwrap();
        plan.renditions.iter().map(|it| (it.name, it.width, it.height, it.level.0)).collect()
    }

    #[test]
    fn the_table_of_pictures_and_renditions() {
        let dv = Source { pixel_aspect: (64, 45), ..source(720, 576) };
        let table = [
            ("full HD", source(1920, 1080), vec![("720p", 1280, 720, 31), ("480p", 854, 480, 31)]),
            ("portrait", source(1080, 1920), vec![("720p", 720, 1280, 31), ("480p", 480, 854, 31)]),
            (
                "turned",
                Source { is_turned: true, ..source(1920, 1080) },
                vec![("720p", 720, 1280, 31), ("480p", 480, 854, 31)],
            ),
            ("between", source(1000, 600), vec![("720p", 1000, 600, 31), ("480p", 800, 480, 31)]),
            ("just small", source(640, 480), vec![("480p", 640, 480, 31)]),
            ("just not small", source(640, 482), vec![("720p", 640, 482, 31), ("480p", 638, 480, 31)]),
            ("small", source(320, 240), vec![("480p", 320, 240, 31)]),
            ("odd", source(361, 641), vec![("480p", 360, 640, 31)]),
            ("square", source(2000, 2000), vec![("720p", 720, 720, 31), ("480p", 480, 480, 31)]),
            ("wide pixels", dv.clone(), vec![("720p", 1024, 576, 31), ("480p", 854, 480, 31)]),
            (
                "narrow pixels, turned",
                Source { is_turned: true, pixel_aspect: (1, 2), ..source(1440, 1080) },
                vec![("720p", 1080, 720, 31), ("480p", 720, 480, 31)],
            ),
            ("cinema", source(4096, 1716), vec![("720p", 1718, 720, 32), ("480p", 1146, 480, 31)]),
            ("panorama", source(8192, 2048), vec![("720p", 1920, 480, 31), ("480p", 1920, 480, 31)]),
            ("wider than that", source(1920, 720), vec![("720p", 1920, 720, 40), ("480p", 1280, 480, 31)]),
            ("a strip", source(8192, 16), vec![("480p", 1920, 4, 31)]),
            ("the least", source(16, 16), vec![("480p", 16, 16, 31)]),
        ];
        for (what, source, wanted) in table {
            assert_eq!(sizes(&source), wanted, "{what}");
        }
    }

    #[test]
    fn no_rendition_is_larger_than_its_source_or_odd() {
        for width in (16..2200).step_by(37) {
            for height in (16..2200).step_by(41) {
                for rendition in Plan::of(&source(width, height)).unwrap().renditions {
                    assert!(rendition.width <= width && rendition.height <= height, "{width}x{height}: {rendition:?}");
                    assert!(rendition.width % 2 == 0 && rendition.height % 2 == 0, "{width}x{height}: {rendition:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let refused = |source: &Source| Plan::of(source).unwrap_err();
        assert_eq!(refused(&Source { millis: 7_200_001, ..source(640, 360) }), Refusal::TooLong);
        assert!(Plan::of(&Source { millis: 7_200_000, ..source(640, 360) }).is_ok());
        for (width, height) in [(8193, 360), (360, 8193)] {
            assert_eq!(refused(&source(width, height)), Refusal::TooLarge);
        }
        for pixel_aspect in [(1000, 1), (u32::MAX, 1)] {
            assert_eq!(refused(&Source { pixel_aspect, ..source(640, 360) }), Refusal::TooLarge);
        }
        assert_eq!(refused(&source(640, 15)), Refusal::TooSmall);
        assert_eq!(refused(&Source { pixel_aspect: (1, 1000), ..source(640, 360) }), Refusal::TooSmall);
    }

    #[test]
    fn thirty_frames_a_second_at_most() {
        let table = [
            ((30, 1), (30, 1)),
            ((25, 1), (25, 1)),
            ((24_000, 1001), (24_000, 1001)),
            ((60, 1), (60, 2)),
            ((60_000, 1001), (60_000, 2002)),
            ((50, 1), (50, 2)),
            ((240, 1), (240, 8)),
            ((31, 1), (30, 1)),
            ((40, 1), (30, 1)),
            ((90_000, 1), (30, 1)),
            ((1, 10), (1, 1)),
            ((u32::MAX, 1), (30, 1)),
        ];
        for ((frames, seconds), (wanted, in_seconds)) in table {
            let limited = Rate { frames, seconds }.limited();
            assert_eq!(limited.per_second(), f64::from(wanted) / f64::from(in_seconds), "{frames}/{seconds}");
            assert!((1.0..=30.0).contains(&limited.per_second()), "{frames}/{seconds}");
        }
    }

    #[test]
    fn a_level_has_two_spellings() {
        assert_eq!((Level(31).dotted(), Level(31).codec()), ("3.1".to_owned(), "avc1.64001F".to_owned()));
        assert_eq!((Level(40).dotted(), Level(40).codec()), ("4.0".to_owned(), "avc1.640028".to_owned()));
    }
}
