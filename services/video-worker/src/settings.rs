//! What `video-worker` is told from outside. `defaults.toml` documents each.

use std::num::NonZeroU16;
use std::path::PathBuf;

use pipeline::{BrokerSettings, WorkerSettings};
use serde::Deserialize;
use service::{HealthSettings, LogSettings, ShutdownSettings};
use store::{DatabaseSettings, FilesSettings};

/// The values that need not be given.
pub const DEFAULTS: &str = include_str!("../defaults.toml");

/// Every setting of the service.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How it logs.
    pub log: LogSettings,
    /// Where health and metrics are served.
    pub health: HealthSettings,
    /// How long it may take to end.
    pub shutdown: ShutdownSettings,
    /// Where the broker is.
    pub broker: BrokerSettings,
    /// How many videos it works on at once.
    pub worker: WorkerSettings,
    /// Where it is known whether a job is still wanted.
    pub database: DatabaseSettings,
    /// Where uploads come from and renditions go.
    pub files: FilesSettings,
    /// Where files are made.
    pub scratch: ScratchSettings,
    /// What makes them.
    pub encoder: EncoderSettings,
}

/// Where files are made.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScratchSettings {
    /// A directory on a local disk. Several processes may share it.
    pub directory: PathBuf,
}

/// What makes the renditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSettings {
    /// The directory of `ffmpeg` and `ffprobe`.
    pub programs: PathBuf,
    /// Threads of each process; the machine's cores are shared out where this is not given.
    #[serde(default)]
    pub threads: Option<NonZeroU16>,
}

impl EncoderSettings {
    /// Threads of each process, where so many videos are worked on at once.
    #[must_use]
    pub fn threads_each(&self, concurrency: u16) -> u16 {
        let cores =
            std::thread::available_parallelism().map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX));
        self.threads.map_or_else(|| share(cores, concurrency), NonZeroU16::get)
    }
}

/// Above 4 threads an encoder of these sizes gains little, and takes more memory for each.
fn share(cores: u16, concurrency: u16) -> u16 {
    (cores / concurrency.max(1)).clamp(1, 4)
}

#[cfg(test)]
mod tests {
    use config::{Config, File, FileFormat};

    use super::{DEFAULTS, Settings, share};

    fn read(more: &str) -> Settings {
        let given = format!("[broker]\nurl = \"amqp://a\"\n[database]\nurl = \"postgres://a\"\n{more}");
        let config = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from_str(&given, FileFormat::Toml));
        config.build().unwrap().try_deserialize().unwrap()
    }

    #[test]
    fn the_defaults_lack_just_the_two_values_that_they_name() {
        let settings = read("");
        assert_eq!((settings.worker.concurrency.get(), settings.encoder.threads), (1, None));
    }

    #[test]
    fn the_cores_are_shared_out_unless_threads_are_given() {
        let shares = [(1, 1), (2, 1), (4, 2), (8, 3), (2, 4), (64, 1)].map(|(cores, at_once)| share(cores, at_once));
        assert_eq!(shares, [1, 2, 2, 2, 1, 4]);
        assert_eq!(read("[encoder]\nthreads = 5").encoder.threads_each(2), 5);
    }
}
