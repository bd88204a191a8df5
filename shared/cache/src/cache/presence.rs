//! That this process lives, as Redis sees it: a subscription, which ends with the process. A lease whose holder has none any more is
//! nobody's, so that nobody waits for the dead.

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Redis;

/// Between the prefix of a system and a process's own part, in the name of its channel. Nothing is ever published there.
const HOLDER: &str = "holder";

/// The presence of one process, while this is there. Called within a Tokio runtime.
#[derive(Debug)]
pub(crate) struct Presence {
    channel: String,
    seen: watch::Receiver<bool>,
    _end: DropGuard,
}

impl Presence {
    pub(crate) fn show(redis: Redis) -> Self {
        let channel = redis.key(&[HOLDER, &format!("{:032x}", rand::random::<u128>())]);
        let ((live, seen), end) = (watch::channel(false), CancellationToken::new());
        tokio::spawn({
            let (channel, end) = (channel.clone(), end.clone());
            async move { redis.listen(&channel, &live, &end, |_| {}).await }
        });
        Self { channel, seen, _end: end.drop_guard() }
    }

    /// The channel on which this process is there; `None` while Redis does not see it. Then its leases end by their time alone.
    pub(crate) fn channel(&self) -> Option<&str> {
        self.seen.borrow().then_some(&self.channel)
    }
}
