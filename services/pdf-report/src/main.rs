//! Makes reports: the handler of `report.render`, and nothing else.

use std::sync::Arc;

use anyhow::Context;
use pdf_report::render_report::RenderReportHandler;
use pdf_report::renderer::{Limits, Renderer};
use pdf_report::settings::{DEFAULTS, Settings};
use pipeline::{Broker, Handlers};
use service::{Health, Shutdown};
use store::Files;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    let metrics = service::telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;

    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let files = Files::open(&settings.files).context("open the files")?;
    let warm = usize::from(settings.worker.concurrency.get());
    let renderer = Arc::new(Renderer::new(settings.engine.path, warm, Limits::default()));
    renderer.check().await.context("start the engine that makes documents")?;
    let broker = Broker::start(&settings.broker, "pdf-report").context("read the settings of the broker")?;

    let publisher = broker.publisher();
    let handler = RenderReportHandler { pool: pool.clone(), files, renderer, publisher, shop: settings.shop };
    let handlers = worker::with_database(Handlers::new().register(handler), &pool);

    let health = Health::new(&settings.health, metrics);
    worker::run(broker, handlers, &settings.worker, health, &shutdown).await
}
