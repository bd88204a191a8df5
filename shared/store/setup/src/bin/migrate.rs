//! Brings the database to today's schema and ends; waits a minute for the database to come up.

use std::time::Duration;

use anyhow::Context;
use store_setup::{DEFAULTS, Settings, migration};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    service::telemetry::start(&settings.log)?;
    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    migration::migrate(&pool, PATIENCE).await?;
    tracing::info!("the database has today's schema");
    pool.close().await;
    Ok(())
}
