//! How far a job is: what ffmpeg reports of one step, and how much of the whole that is.

use std::time::Duration;

/// A line of a report is shorter than this; what is longer is no report.
const LONGEST_LINE: usize = 200;

/// Reads what `-progress` writes, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Reports {
    line: Vec<u8>,
    /// How much has been written, in time of the video.
    pub(super) at: Duration,
    frames: u64,
}

impl Reports {
    /// Takes the next piece; whether it says that more has been written.
    pub(super) fn take(&mut self, piece: &[u8]) -> bool {
        let mut moved = false;
        for byte in piece {
            match byte {
                b'\n' => {
                    moved |= self.read_line();
                    self.line.clear();
                }
                _ if self.line.len() < LONGEST_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        moved
    }

    fn read_line(&mut self) -> bool {
        let Some((key, value)) = std::str::from_utf8(&self.line).ok().and_then(|line| line.split_once('=')) else {
            return false;
        };
        // Before the first frame: `N/A`, or a negative time.
        let Ok(value) = value.trim().parse::<u64>() else { return false };
        match key {
            "out_time_us" if Duration::from_micros(value) > self.at => self.at = Duration::from_micros(value),
            "frame" if value > self.frames => self.frames = value,
            _ => return false,
        }
        true
    }
}

/// The steps of a job, by their weights.
#[derive(Clone, Debug)]
pub(super) struct Whole {
    all: u64,
    done: u64,
}

impl Whole {
    pub(super) fn of(weights: impl Iterator<Item = u64>) -> Self {
        Self { all: weights.sum::<u64>().max(1), done: 0 }
    }

    /// A step is done.
    pub(super) fn add(&mut self, weight: u64) {
        self.done += weight;
    }

    /// Percent of the whole, where `part` of a step of this weight is done.
    pub(super) fn percent(&self, weight: u64, part: f64) -> u64 {
        let done = self.done as f64 + weight as f64 * part.clamp(0.0, 1.0);
        ((done * 100.0 / self.all as f64) as u64).min(100)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Reports, Whole};

    #[test]
    fn reports_are_read_however_they_are_cut() {
        let text = b"frame=0\nfps=0.00\nout_time_us=N/A\nout_time=N/A\nprogress=continue\n\
            frame=12\nbitrate=2727.7kbits/s\ntotal_size=691024\nout_time_us=2026667\nout_time_ms=2026667\nprogress=end\n";
        for size in 1..text.len() {
            let mut reports = Reports::default();
            let moved: Vec<bool> = text.chunks(size).map(|piece| reports.take(piece)).collect();
            assert_eq!((reports.at, reports.frames), (Duration::from_micros(2_026_667), 12), "pieces of {size}");
            assert!(moved.contains(&true));
        }
    }

    #[test]
    fn only_more_than_before_is_a_move() {
        let mut reports = Reports::default();
        assert!(!reports.take(b"frame=0\nout_time_us=0\nout_time_us=-33333\ntotal_size=100\n"));
        assert!(reports.take(b"frame=1\n"));
        assert!(!reports.take(b"frame=1\nspeed=1x\n"));
        assert!(reports.take(b"frame=1\nout_time_us=5\n"));
        assert!(!reports.take(&[b'f'; 100_000]));
        assert!(!reports.take(b"rame=9\n"), "what is too long is no report");
        assert!(reports.take(b"frame=9\n"));
    }

    #[test]
    fn the_whole_is_the_sum_of_its_steps() {
        let mut whole = Whole::of([60, 30, 10].into_iter());
        assert_eq!((whole.percent(60, 0.0), whole.percent(60, 0.5), whole.percent(60, 7.0)), (0, 30, 60));
        whole.add(60);
        whole.add(30);
        assert_eq!((whole.percent(10, 0.0), whole.percent(10, 1.0)), (90, 100));
    }
}
