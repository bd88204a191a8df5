//! The playlist over the renditions' own (RFC 8216): what each takes to be played, so that a player can choose.

use super::plan::{Plan, Rendition};

/// AAC-LC, as every rendition with sound has it.
const SOUND_CODEC: &str = "mp4a.40.2";

/// The pieces of one rendition, as its own playlist lists them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Segments(Vec<Segment>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Segment {
    seconds: f64,
    bytes: u64,
}

/// Bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bandwidth {
    peak: u64,
    average: u64,
}

impl Segments {
    /// Reads a playlist of pieces of one file; `None` for what is none.
    pub(super) fn read(playlist: &str) -> Option<Self> {
        let (mut segments, mut seconds) = (Vec::new(), None);
        for line in playlist.lines() {
            if let Some(length) = line.strip_prefix("#EXTINF:") {
                seconds = length.split(',').next()?.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
            } else if let Some(range) = line.strip_prefix("#EXT-X-BYTERANGE:") {
                let bytes = range.split('@').next()?.parse().ok()?;
                segments.push(Segment { seconds: seconds.take()?, bytes });
            }
        }
        let ended = playlist.lines().any(|line| line == "#EXT-X-ENDLIST");
        (ended && !segments.is_empty()).then_some(Self(segments))
    }

    /// The peak is that of any pieces in a row that last half to one and a half times the longest (section 4.1), so that a
    /// last piece of two frames is none.
    fn bandwidth(&self) -> Bandwidth {
        let rate = |bytes: u64, seconds: f64| (bytes as f64 * 8.0 / seconds).ceil() as u64;
        let target = self.0.iter().map(|segment| segment.seconds).fold(0.0, f64::max).round().max(1.0);
        let (bytes, seconds) = self.0.iter().fold((0, 0.0), |sum, it| (sum.0 + it.bytes, sum.1 + it.seconds));
        let average = rate(bytes, seconds);
        let mut peak = average;
        for first in 0..self.0.len() {
            let (mut bytes, mut seconds) = (0, 0.0);
            for segment in &self.0[first..] {
                (bytes, seconds) = (bytes + segment.bytes, seconds + segment.seconds);
                if seconds > target * 1.5 {
                    break;
                }
                if seconds >= target * 0.5 {
                    peak = peak.max(rate(bytes, seconds));
                }
            }
        }
        Bandwidth { peak, average }
    }
}

/// The playlist of playlists.
pub(super) fn master(plan: &Plan, renditions: &[(Rendition, Segments)]) -> String {
    let mut text = "#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-INDEPENDENT-SEGMENTS\n".to_owned();
    for (rendition, segments) in renditions {
        let Rendition { name, width, height, level, .. } = rendition;
        let Bandwidth { peak, average } = segments.bandwidth();
        let mut codecs = level.codec();
        if plan.has_sound {
            codecs = format!("{codecs},{SOUND_CODEC}");
        }
        let rate = plan.rate.per_second();
        text += &format!(
            "#EXT-X-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},RESOLUTION={width}x{height},\
             FRAME-RATE={rate:.3},CODECS=\"{codecs}\"\n{name}.m3u8\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Level, Rate};
    use super::*;

    fn playlist(pieces: &[(f64, u64)]) -> String {
        let mut at = 0;
        let pieces = pieces.iter().map(|(seconds, bytes)| {
            let line = format!("#EXTINF:{seconds:.6},\n#EXT-X-BYTERANGE:{bytes}@{at}\n480p.ts\n");
            at += bytes;
            line
        });
        let head =
            "#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-TARGETDURATION:6\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:VOD\n";
        format!("{head}{}#EXT-X-ENDLIST\n", pieces.collect::<String>())
    }

    fn bandwidth(pieces: &[(f64, u64)]) -> (u64, u64) {
        let Bandwidth { peak, average } = Segments::read(&playlist(pieces)).unwrap().bandwidth();
        (peak, average)
    }

    #[test]
    fn the_peak_is_that_of_pieces_long_enough_to_matter() {
        assert_eq!(bandwidth(&[(6.0, 600_000)]), (800_000, 800_000));
        assert_eq!(bandwidth(&[(6.0, 600_000), (6.0, 1_200_000)]), (1_600_000, 1_200_000));
        // A rest of a tenth of a second does not count alone, but with the piece before it.
        assert_eq!(bandwidth(&[(6.0, 600_000), (0.1, 61_000)]), (866_886, 866_886));
        // Shorter than any piece that counts.
        assert_eq!(bandwidth(&[(0.2, 20_000)]), (800_000, 800_000));
    }

    #[test]
    fn what_is_no_whole_playlist_is_none() {
        let whole = playlist(&[(6.0, 600_000)]);
        for wrong in ["", "#EXTM3U\n#EXT-X-ENDLIST\n", whole.strip_suffix("#EXT-X-ENDLIST\n").unwrap()] {
            assert_eq!(Segments::read(wrong), None, "{wrong}");
        }
        assert_eq!(Segments::read(&whole.replace("EXTINF:6.0", "EXTINF:0.0")), None);
        assert_eq!(Segments::read(&whole.replace("BYTERANGE:600000", "BYTERANGE:many")), None);
    }

    #[test]
    fn the_master_playlist_tells_what_each_rendition_takes() {
        let rendition =
            |name, width, height, level| Rendition { name, width, height, level: Level(level), kilobits: 1 };
        let large = Segments::read(&playlist(&[(6.0, 1_500_000), (6.0, 600_000)])).unwrap();
        let small = Segments::read(&playlist(&[(6.0, 300_000)])).unwrap();
        let renditions = [(rendition("720p", 1920, 720, 40), large), (rendition("480p", 1280, 480, 31), small)];
        let plan = Plan {
            renditions: renditions.iter().map(|(rendition, _)| *rendition).collect(),
            rate: Rate { frames: 30_000, seconds: 1001 },
            has_sound: true,
        };
        let wanted = "#EXTM3U\n#EXT-X-VERSION:4\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-STREAM-INF:BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1400000,RESOLUTION=1920x720,FRAME-RATE=29.970,\
            CODECS=\"avc1.640028,mp4a.40.2\"\n720p.m3u8\n\
            #EXT-X-STREAM-INF:BANDWIDTH=400000,AVERAGE-BANDWIDTH=400000,RESOLUTION=1280x480,FRAME-RATE=29.970,\
            CODECS=\"avc1.64001F,mp4a.40.2\"\n480p.m3u8\n";
        assert_eq!(master(&plan, &renditions), wanted);
        let silent = Plan { has_sound: false, ..plan };
        assert!(master(&silent, &renditions).contains("CODECS=\"avc1.640028\"\n"));
    }
}
