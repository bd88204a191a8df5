//! Makes videos playable: the handler of `video.transcode`, and nothing else.

use anyhow::Context;
use pipeline::{Broker, Handlers};
use service::{Health, Shutdown};
use store::Files;
use video_worker::scratch::Scratch;
use video_worker::settings::{DEFAULTS, Settings};
use video_worker::transcode_video::TranscodeVideoHandler;
use video_worker::transcoder::{Encoder, Limits, Transcoder};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings: Settings = service::settings::load(DEFAULTS)?;
    let metrics = service::telemetry::start(&settings.log)?;
    let shutdown = Shutdown::on_signals(&settings.shutdown)?;

    let pool = store::connect(&settings.database).context("read the settings of the database")?;
    let files = Files::open(&settings.files).context("open the files")?;
    let scratch = Scratch::open(&settings.scratch.directory).context("open the scratch directory")?;
    let threads = settings.encoder.threads_each(settings.worker.concurrency.get());
    let encoder = Encoder::new(settings.encoder.programs, threads, Limits::default());
    encoder.check().await.context("find the programs that work on videos")?;
    let broker = Broker::start(&settings.broker, "video-worker").context("read the settings of the broker")?;

    let transcoder = Transcoder { files, scratch, encoder };
    let handler = TranscodeVideoHandler { transcoder, publisher: broker.publisher() };
    let handlers = worker::with_database(Handlers::new().register(handler), &pool);

    let health = Health::new(&settings.health, metrics);
    worker::run(broker, handlers, &settings.worker, health, &shutdown).await
}
