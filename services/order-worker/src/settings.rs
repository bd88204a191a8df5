//! What `order-worker` is told from outside. `defaults.toml` documents each.

use pipeline::{BrokerSettings, WorkerSettings};
use serde::Deserialize;
use service::{HealthSettings, LogSettings, ShutdownSettings};
use store::DatabaseSettings;

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
    /// How many orders it places at once.
    pub worker: WorkerSettings,
    /// Where the orders go.
    pub database: DatabaseSettings,
}

#[cfg(test)]
mod tests {
    use config::{Config, File, FileFormat};

    use super::{DEFAULTS, Settings};

    #[test]
    fn the_defaults_lack_just_the_two_values_that_they_name() {
        let given = "[broker]\nurl = \"amqp://a\"\n[database]\nurl = \"postgres://a\"\n";
        let config = Config::builder()
            .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
            .add_source(File::from_str(given, FileFormat::Toml));
        let settings: Settings = config.build().unwrap().try_deserialize().unwrap();
        assert_eq!(settings.worker.concurrency.get(), 8);
    }
}
