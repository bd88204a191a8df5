//! What this process may do, taken away by itself before it reads anything from anybody.

use std::io;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::set_no_new_privs;

/// Standard input, output and error are open already; nothing else can be opened.
const OPEN_FILES: u64 = 3;

/// The limits that the parent chooses, as `--memory-bytes=N --cpu-seconds=N`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProcessLimits {
    memory_bytes: u64,
    cpu_seconds: u64,
}

impl ProcessLimits {
    /// Reads both from the command line; there is no default for a limit.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut memory_bytes, mut cpu_seconds) = (None, None);
        for argument in arguments {
            let (target, value) = match argument.split_once('=') {
                Some(("--memory-bytes", value)) => (&mut memory_bytes, value),
                Some(("--cpu-seconds", value)) => (&mut cpu_seconds, value),
                _ => return Err(format!("unknown argument {argument:?}")),
            };
            *target = Some(value.parse().map_err(|_| format!("no number in {argument:?}"))?);
        }
        match (memory_bytes, cpu_seconds) {
            (Some(memory_bytes), Some(cpu_seconds)) => Ok(Self { memory_bytes, cpu_seconds }),
            _ => Err("usage: pdf-engine --memory-bytes=N --cpu-seconds=N".to_owned()),
        }
    }

    /// Gives up, for good, what a template's process does not need.
    pub(crate) fn confine(&self) -> io::Result<()> {
        // One thread, this one: each further thread reserves up to 136 MiB of the address space, and how many documents
        // are made at once is the parent's choice.
        rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global().map_err(io::Error::other)?;
        set_no_new_privs(true)?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        for (resource, most) in [
            (Resource::As, self.memory_bytes),
            (Resource::Core, 0),
            (Resource::Fsize, 0),
            (Resource::Nofile, OPEN_FILES),
        ] {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        // The soft limit ends the process by SIGXCPU, which tells the parent why.
        let (soft, hard) = (self.cpu_seconds, self.cpu_seconds + 1);
        setrlimit(Resource::Cpu, Rlimit { current: Some(soft), maximum: Some(hard) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::ProcessLimits;

    fn parse(arguments: &[&str]) -> Result<ProcessLimits, String> {
        ProcessLimits::parse(arguments.iter().map(ToString::to_string))
    }

    #[test]
    fn both_limits_are_read() {
        let limits = parse(&["--cpu-seconds=5", "--memory-bytes=1024"]);
        assert_eq!(limits, Ok(ProcessLimits { memory_bytes: 1024, cpu_seconds: 5 }));
    }

    #[test]
    fn a_missing_or_wrong_limit_is_refused() {
        assert!(parse(&["--cpu-seconds=5"]).unwrap_err().contains("usage"));
        assert!(parse(&["--cpu-seconds=soon", "--memory-bytes=1"]).unwrap_err().contains("no number"));
        assert!(parse(&["--help"]).unwrap_err().contains("unknown argument"));
    }
}
