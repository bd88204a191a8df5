//! Of each item the oldest version that a read may see which begins now: that of the last write whose invalidation has returned.

use std::time::Duration;

use cache::RedisSettings;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Script};
use secrecy::ExposeSecret;

/// The machine may be slow; this is no part of what is tested.
const DEADLINE: Duration = Duration::from_secs(30);
/// Raises a number, and never lowers it.
const RAISE: &str = "if tonumber(ARGV[1]) > tonumber(redis.call('GET', KEYS[1]) or 0) then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', 600)
end";

/// In a Redis that stays.
#[derive(Clone)]
pub(crate) struct Floors {
    connection: MultiplexedConnection,
    prefix: String,
}

impl Floors {
    pub(crate) async fn connect(settings: &RedisSettings) -> anyhow::Result<Self> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(DEADLINE)).set_response_timeout(Some(DEADLINE));
        let client = Client::open(settings.url.expose_secret())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(Self { connection, prefix: settings.prefix.clone() })
    }

    pub(crate) async fn read(&self, item: i32) -> anyhow::Result<Option<i64>> {
        Ok(redis::cmd("GET").arg(self.key(item)).query_async(&mut self.connection.clone()).await?)
    }

    pub(crate) async fn raise(&self, item: i32, version: i64) -> anyhow::Result<()> {
        let raise = Script::new(RAISE);
        Ok(raise.key(self.key(item)).arg(version).invoke_async(&mut self.connection.clone()).await?)
    }

    fn key(&self, item: i32) -> String {
        format!("{}:floor:{item}", self.prefix)
    }
}
