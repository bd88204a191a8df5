//! What `web` is told from outside. `defaults.toml` documents each.

use std::net::SocketAddr;

use cache::RedisSettings;
use pipeline::BrokerSettings;
use serde::Deserialize;
use service::{HealthSettings, LogSettings, ShutdownSettings};
use store::{DatabaseSettings, FilesSettings, LinkSettings};

use crate::client_address::TrustedProxies;

/// The documented defaults.
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
    /// Where the API is served.
    pub http: HttpSettings,
    /// How much a caller may ask for.
    pub limits: LimitSettings,
    /// Where Redis is.
    pub redis: RedisServers,
    /// Where the broker is.
    pub broker: BrokerSettings,
    /// Where the database is.
    pub database: DatabaseSettings,
    /// Where reports and videos are.
    pub files: FilesSettings,
    /// What is taken of videos.
    pub videos: VideoSettings,
    /// How signed links are made.
    pub links: LinkSettings,
}

/// Where the API is served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Address and port.
    pub listen: SocketAddr,
    /// Whose word is taken for who the client is.
    pub trusted_proxies: TrustedProxies,
}

/// How much a caller may ask for.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSettings {
    /// In a minute, and at once: a request counts as 1, one that makes work as 10, an upload as 100.
    pub requests_per_minute: u32,
}

/// What is taken of videos.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoSettings {
    /// The largest upload.
    pub max_bytes: u64,
}

/// The servers of Redis, by what they are for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisServers {
    /// Keeps copies of what the database has, and may lose them.
    pub cache: RedisSettings,
    /// Keeps what lasts: sessions, what is known of tokens, limits over all processes.
    pub durable: RedisSettings,
}
