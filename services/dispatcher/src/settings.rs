//! What `dispatcher` is told from outside. `defaults.toml` documents each.

use cache::RedisSettings;
use chrono::TimeDelta;
use pipeline::BrokerSettings;
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
    /// Where the outbox and the schedules are.
    pub database: DatabaseSettings,
    /// Where the reports are.
    pub files: FilesSettings,
    /// Where Redis is.
    pub redis: RedisServers,
    /// How long things are kept.
    pub retention: RetentionSettings,
}

/// The servers of Redis, by what they are for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisServers {
    /// Keeps copies of what the database has, which end with it.
    pub cache: RedisSettings,
}

/// How long things are kept.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionSettings {
    /// Days after a job's end.
    pub days: KeptDays,
}

/// 3 to 3650 days: a mail may be tried for a day, and needs its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub struct KeptDays(u16);

impl KeptDays {
    /// As a length of time.
    #[must_use]
    pub fn length(self) -> TimeDelta {
        TimeDelta::days(self.0.into())
    }
}

impl TryFrom<u16> for KeptDays {
    type Error = &'static str;

    fn try_from(days: u16) -> Result<Self, Self::Error> {
        if (3..=3650).contains(&days) { Ok(Self(days)) } else { Err("retention.days must be 3 to 3650") }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use config::{Config, File, FileFormat};

    use super::{DEFAULTS, KeptDays, Settings};

    #[test]
    fn the_defaults_lack_just_the_three_values_that_they_name() {
        let given =
            "[broker]\nurl = \"amqp://a\"\n[database]\nurl = \"postgres://a\"\n[redis.cache]\nurl = \"redis://a\"\n";
        let config = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from_str(given, FileFormat::Toml));
        let settings: Settings = config.build().unwrap().try_deserialize().unwrap();
        assert_eq!(settings.retention.days.length(), TimeDelta::days(30));
    }

    #[test]
    fn nothing_is_kept_for_less_than_a_mail_may_take_or_for_ever() {
        assert!(KeptDays::try_from(2).is_err() && KeptDays::try_from(3651).is_err());
        assert_eq!(KeptDays::try_from(3).unwrap().length(), TimeDelta::days(3));
    }
}
