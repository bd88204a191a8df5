//! Sends mails: the handler of `email.send`, and nothing else.

use anyhow::Context;
use email_worker::compose::Composer;
use email_worker::send_email::{Deadlines, RELAY, SendEmailHandler};
use email_worker::settings::{DEFAULTS, Settings};
use pipeline::{Broker, Handlers};
use service::{Health, Shutdown};
use store::{Files, SignedLinks};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    let metrics = service::telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;

    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let files = Files::open(&settings.files).context("open the files")?;
    let links = SignedLinks::new(&settings.links).context("read the settings of the links")?;
    let composer = Composer::new(settings.mail.from, links)?;
    let broker = Broker::start(&settings.broker, "email-worker").context("read the settings of the broker")?;

    let deadlines = Deadlines::at(settings.broker.time_scale);
    let handler = SendEmailHandler::new(pool.clone(), files, composer, settings.smtp.url, deadlines);
    let relay = handler.relay_probe();
    let handlers = Handlers::new().register(handler).dependency(RELAY, relay);
    let handlers = worker::with_database(handlers, &pool);

    let health = Health::new(&settings.health, metrics);
    worker::run(broker, handlers, &settings.worker, health, &shutdown).await
}
