//! The smallest worker, as processes of this machine that are started again whenever they end.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use backing::composed;
use tokio::process::{Child, Command};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// Some processes of it.
#[derive(Debug)]
pub(crate) struct NoopWorkers {
    orders: broadcast::Sender<usize>,
    _tasks: JoinSet<()>,
}

impl NoopWorkers {
    /// `broker_urls` is what the setting `broker.url` holds.
    pub(crate) fn start(count: usize, broker_urls: &str) -> anyhow::Result<Self> {
        let (orders, _) = broadcast::channel(16);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let log = Path::new("target/faults").join(format!("noop-worker-{number}.log"));
            let log = File::create(&log).with_context(|| format!("write {}", log.display()))?;
            tasks.spawn(keep_up(number, broker_urls.to_owned(), log, orders.subscribe()));
        }
        Ok(Self { orders, _tasks: tasks })
    }

    /// Ends one with no chance to say a word.
    pub(crate) fn kill(&self, number: usize) -> anyhow::Result<()> {
        self.orders.send(number).context("there is no no-op worker")?;
        Ok(())
    }
}

async fn keep_up(number: usize, broker_urls: String, log: File, mut orders: broadcast::Receiver<usize>) {
    loop {
        match spawn(&broker_urls, &log) {
            Ok(mut child) => {
                let killed = async { while orders.recv().await.is_ok_and(|order| order != number) {} };
                let ended = tokio::select! {
                    status = child.wait() => status.map(drop),
                    () = killed => child.kill().await,
                };
                ended.expect("the no-op worker can be waited for");
            }
            Err(error) => panic!("start the no-op worker: {error:#}"),
        }
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

fn spawn(broker_urls: &str, log: &File) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?.with_file_name("noop_worker");
    let child = Command::new(program)
        .env("POSTROOM__BROKER__URL", broker_urls)
        .env("POSTROOM__BROKER__TIME_SCALE", composed("POSTROOM_FAULTS_TIME_SCALE"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}
