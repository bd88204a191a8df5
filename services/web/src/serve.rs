//! Serves the API, and ends.

use service::http;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::App;
use crate::recorder::Recording;
use crate::routes::router;

/// Serves until the app drains, then waits for the answers that have begun; a client that does not take its answer is not
/// waited for longer than [`crate::Limits::last_wait`]. `recording` came with the app; what was accepted is written down in the end.
pub async fn serve(listener: TcpListener, app: App, recording: Recording, connections: http::Limits) {
    let (drain, last_wait) = (app.drain.clone(), app.limits.last_wait);
    let too_long = async {
        drain.cancelled().await;
        tokio::time::sleep(last_wait).await;
    };
    let answered = CancellationToken::new();
    let serving = async {
        http::serve(listener, router(app), connections, drain.clone()).await;
        answered.cancel();
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(serving, recording.run(&answered)) } => {}
        () = too_long => tracing::warn!("the end was cut short: clients did not take their answers, or accepted jobs were not written down in time"),
    }
}
