//! Fills an empty shop with a year of sample data, signs up the sample callers, and ends. A shop that has anything is left alone.

use std::time::{Duration, Instant};

use anyhow::Context;
use store_setup::sample_data::{Loaded, load};
use store_setup::{DEFAULTS, Settings, sample_callers};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    service::telemetry::start(&settings.log)?;
    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let start = Instant::now();
    match timeout(DEADLINE, load(&pool)).await.context("the sample data takes too long")?? {
        Loaded::All => tracing::info!(duration_ms = start.elapsed().as_millis(), "loaded the sample data"),
        Loaded::Stock => tracing::info!("filled the shelves of the sample shop"),
        Loaded::Nothing => tracing::info!("the shop has data already; nothing was loaded"),
    }
    let signing_up = timeout(DEADLINE, sample_callers::sign_up(&pool, &settings.tokens)).await;
    signing_up.context("the sample callers take too long")??;
    pool.close().await;
    Ok(())
}
