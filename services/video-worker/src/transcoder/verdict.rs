//! Whose fault it is that a process has not done its work: pure, and shown as a table by its tests.

use std::os::unix::process::ExitStatusExt;

use super::child::Broken;
use super::refusal::Refusal;

// From signal(7), the same on every Linux that Rust runs on but MIPS and SPARC.
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGXCPU: i32 = 24;
const SIGXFSZ: i32 = 25;
const DEADLY: [i32; 8] = [4, SIGABRT, 7, 8, SIGKILL, SIGSEGV, SIGXCPU, SIGXFSZ];

/// Said of the machine. A file can have some of it said as well, and is then tried as often as any job.
const OF_THE_MACHINE: &[&str] = &[
    "No space left on device",
    "Disk quota exceeded",
    "Read-only file system",
    "Too many open files",
    "Permission denied",
    "No such file or directory",
    "Stale file handle",
    "failed to execute",
];
/// Said by whoever asks for memory or a thread.
const OF_MEMORY: &[&str] = &["Cannot allocate memory", "malloc of size", "Resource temporarily unavailable"];
/// Said of a picture above the limit, also where the process ends well.
pub(super) const TOO_MANY_PIXELS: &str = "exceeds specified max pixel count";
/// Said by ffmpeg 5 and 7 of a file that makes no sense, or of a format that is not taken.
const OF_THE_FILE: &[&str] = &[
    "Invalid data found",
    "not on whitelist",
    "moov atom not found",
    "EBML header parsing failed",
    "End of file",
    "matches no streams",
    "Cannot determine format of input",
    "does not contain any stream",
];

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The file's: it will be the same again.
    File(Refusal),
    /// The machine's: it may pass.
    Machine,
    /// Either's: memory, time, a crash, words that nobody knows. Worth a second try, no third.
    Unclear,
    /// Nobody's: it was told to stop.
    Stopped,
}

/// `otherwise` is what a broken file is refused as where it is not said more exactly.
pub(super) fn judge(broken: &Broken, otherwise: Refusal) -> Verdict {
    let (status, said) = match broken {
        Broken::Ended { status, said } => (status, said),
        Broken::Slow { .. } | Broken::Stalled { .. } => return Verdict::Unclear,
        Broken::Start(_) => return Verdict::Machine,
        Broken::Stopped => return Verdict::Stopped,
    };
    let hears = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    match status.signal() {
        Some(signal) if DEADLY.contains(&signal) => Verdict::Unclear,
        // Sent by a person or a supervisor.
        Some(_) => Verdict::Machine,
        None if hears(OF_THE_MACHINE) => Verdict::Machine,
        None if hears(OF_MEMORY) => Verdict::Unclear,
        None if hears(&[TOO_MANY_PIXELS]) => Verdict::File(Refusal::TooLarge),
        None if said.contains("Codec (") && said.contains("not on whitelist") => Verdict::File(Refusal::Unsupported),
        None if hears(OF_THE_FILE) => Verdict::File(otherwise),
        None => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_table_of_endings_and_verdicts() {
        let unreadable = Verdict::File(Refusal::Unreadable);
        let (unsupported, large) = (Verdict::File(Refusal::Unsupported), Verdict::File(Refusal::TooLarge));
        let exit = |code: i32| code << 8;
        let table = [
            (
                exit(1),
                "[mov @ 0x1] moov atom not found | file:/a: Invalid data found when processing input",
                unreadable,
            ),
            (exit(183), "[in#0 @ 0x1] Error opening input: Invalid data found when processing input", unreadable),
            (exit(1), "[hls @ 0x1] Format not on whitelist 'mov,matroska' | file:/a: Invalid argument", unreadable),
            (
                exit(1),
                "Cannot determine format of input stream 0:0 after EOF | Error marking filters as finished",
                unreadable,
            ),
            (exit(1), "[dca @ 0x1] Codec (dca) not on whitelist 'h264,aac'", unsupported),
            (exit(1), "[vp8 @ 0x1] Picture size 12000x12000 exceeds specified max pixel count 67108864", large),
            (exit(1), "av_interleaved_write_frame(): No space left on device", Verdict::Machine),
            (exit(228), "[out#0 @ 0x1] Error writing trailer: No space left on device", Verdict::Machine),
            (exit(1), "Invalid data found | No space left on device | Conversion failed!", Verdict::Machine),
            (exit(127), "prlimit: failed to execute /usr/bin/ffmpeg: No such file or directory", Verdict::Machine),
            (exit(1), "x264 [error]: malloc of size 1234 failed | Error while opening encoder", Verdict::Unclear),
            (exit(244), "Error submitting packet to decoder: Cannot allocate memory", Verdict::Unclear),
            (exit(1), "", Verdict::Unclear),
            (exit(255), "Exiting normally, received signal 24.", Verdict::Unclear),
            (SIGKILL, "", Verdict::Unclear),
            (SIGSEGV, "Invalid data found", Verdict::Unclear),
            (SIGXCPU, "", Verdict::Unclear),
            (SIGXFSZ, "", Verdict::Unclear),
            (15, "", Verdict::Machine),
        ];
        for (raw, said, wanted) in table {
            let ended = Broken::Ended { status: ExitStatus::from_raw(raw), said: said.to_owned() };
            assert_eq!(judge(&ended, Refusal::Unreadable), wanted, "{raw:#x} {said}");
        }
    }

    #[test]
    fn what_did_not_end_by_itself_is_judged_without_a_word() {
        let (limit, said) = (Duration::from_secs(1), String::new());
        let verdict = |broken| judge(&broken, Refusal::Damaged);
        assert_eq!(verdict(Broken::Slow { limit, said: said.clone() }), Verdict::Unclear);
        assert_eq!(verdict(Broken::Stalled { limit, said }), Verdict::Unclear);
        assert_eq!(verdict(Broken::Start(io::ErrorKind::NotFound.into())), Verdict::Machine);
        assert_eq!(verdict(Broken::Stopped), Verdict::Stopped);
    }
}
