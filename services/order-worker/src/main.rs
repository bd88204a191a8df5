//! Places orders: the handler of `order.place`, and nothing else.

use anyhow::Context;
use order_worker::place_order::PlaceOrderHandler;
use order_worker::settings::{DEFAULTS, Settings};
use pipeline::{Broker, Handlers};
use service::{Health, Shutdown};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    let metrics = service::telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;

    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let broker = Broker::start(&settings.broker, "order-worker").context("read the settings of the broker")?;

    let handler = PlaceOrderHandler::new(pool.clone());
    let handlers = worker::with_database(Handlers::new().register(handler), &pool);

    let health = Health::new(&settings.health, metrics);
    worker::run(broker, handlers, &settings.worker, health, &shutdown).await
}
