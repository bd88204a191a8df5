//! What is done to a database before services use it: the schema, and sample data for trying things out.

pub mod migration;
pub mod sample_callers;
pub mod sample_data;

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;
use service::LogSettings;
use store::DatabaseSettings;

/// The defaults of both programs; `database.url` has none, and there are no tokens.
pub const DEFAULTS: &str = r#"
[log]
format = "json"
filter = "info,sqlx::postgres::notice=warn"
"#;

/// The settings of both programs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How they log.
    pub log: LogSettings,
    /// Which database they prepare.
    pub database: DatabaseSettings,
    /// The tokens of the sample callers, by name: `alice` is alice@shop.example.
    #[serde(default)]
    pub tokens: BTreeMap<String, SecretString>,
}
