//! Acks of one channel: what is settled goes out at once and in few frames, and nobody waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::try_join_all;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::CALL_DEADLINE;

/// What became of a delivery, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is to be acked.
    Done(u64),
    /// The broker has been told: it was rejected, or acked by itself.
    Told(u64),
}

/// The acks of what was settled since the last ones.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acks {
    /// Everything up to this tag, which itself was never acked: one frame with `multiple`.
    up_to: Option<u64>,
    /// These alone.
    singly: Vec<u64>,
}

/// Knows which tags of a channel are settled. Tags count from 1 without a gap (AMQP 0-9-1, 1.8.2.3 `delivery-tag`).
#[derive(Debug)]
struct Ledger {
    /// The lowest tag that is not settled.
    open: u64,
    /// Settled tags above it.
    beyond: BTreeSet<u64>,
}

impl Ledger {
    fn new() -> Self {
        Self { open: 1, beyond: BTreeSet::new() }
    }

    fn settle(&mut self, settled: impl IntoIterator<Item = Settled>) -> Acks {
        let mut done = BTreeSet::new();
        for one in settled {
            match one {
                Settled::Done(tag) => {
                    done.insert(tag);
                    self.beyond.insert(tag);
                }
                Settled::Told(tag) => {
                    self.beyond.insert(tag);
                }
            }
        }
        while self.beyond.remove(&self.open) {
            self.open += 1;
        }
        // The broker closes the channel over a `multiple` whose own tag it does not know any more, so that tag must be one
        // that is acked here for the first time.
        let singly = done.split_off(&self.open);
        Acks { up_to: done.last().copied(), singly: singly.into_iter().collect() }
    }
}

/// Acks until every sender of `settled` is gone. When an ack cannot be written the channel is of no use any more: `lost` says
/// so, and the broker will deliver again what was not acked.
pub(super) async fn acknowledge(channel: Arc<Channel>, mut settled: mpsc::Receiver<Settled>, lost: CancellationToken) {
    let mut ledger = Ledger::new();
    let mut batch = Vec::new();
    let most = settled.max_capacity();
    while settled.recv_many(&mut batch, most).await > 0 {
        // What is settled by the tasks that are ready now comes along: fewer frames, and longer ranges.
        yield_now().await;
        while batch.len() < most
            && let Ok(one) = settled.try_recv()
        {
            batch.push(one);
        }
        let acks = ledger.settle(batch.drain(..));
        let up_to = acks.up_to.into_iter().map(|tag| (tag, true));
        let frames = up_to.chain(acks.singly.into_iter().map(|tag| (tag, false)));
        let written = try_join_all(frames.map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple })));
        let failure = match timeout(CALL_DEADLINE, written).await {
            Ok(Ok(_)) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        if !lost.is_cancelled() {
            tracing::warn!(error = failure, "ack: the broker will deliver again what was not acked");
        }
        lost.cancel();
        return;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{Acks, Ledger, Settled};

    /// What RabbitMQ does with the acks of a channel (`rabbit_channel:collect_acks`).
    struct Channel {
        unacked: BTreeSet<u64>,
    }

    impl Channel {
        fn ack(&mut self, tag: u64, multiple: bool) -> Vec<u64> {
            assert!(self.unacked.contains(&tag), "PRECONDITION_FAILED: unknown delivery tag {tag}");
            let acked: Vec<u64> =
                if multiple { self.unacked.range(..=tag).copied().collect() } else { Vec::from([tag]) };
            self.unacked.retain(|tag| !acked.contains(tag));
            acked
        }
    }

    /// Deliveries that are settled in any order, some of them by a reject, told in batches of any size.
    fn orders() -> impl Strategy<Value = (Vec<(u64, bool)>, Vec<usize>)> {
        (1_u64..200).prop_flat_map(|count| {
            let tags: Vec<u64> = (1..=count).collect();
            let rejected = proptest::collection::vec(proptest::bool::weighted(0.1), tags.len());
            let shuffled = (Just(tags).prop_shuffle(), rejected)
                .prop_map(|(tags, rejected)| tags.into_iter().zip(rejected).collect());
            (shuffled, proptest::collection::vec(1_usize..20, 200))
        })
    }

    proptest! {
        #[test]
        fn no_unfinished_tag_is_ever_acked_and_every_finished_one_is_acked_at_once((order, sizes) in orders()) {
            let mut channel = Channel { unacked: order.iter().map(|(tag, _)| *tag).collect() };
            let (mut ledger, mut done, mut rest) = (Ledger::new(), BTreeSet::new(), order.as_slice());
            for size in sizes {
                let (batch, left) = rest.split_at(size.min(rest.len()));
                rest = left;
                for (tag, _) in batch.iter().filter(|(_, rejected)| *rejected) {
                    channel.unacked.remove(tag);
                }
                done.extend(batch.iter().filter(|(_, rejected)| !rejected).map(|(tag, _)| *tag));
                let told = batch.iter().map(|(tag, rejected)| match rejected {
                    true => Settled::Told(*tag),
                    false => Settled::Done(*tag),
                });
                let acks = ledger.settle(told);
                let mut acked = BTreeSet::new();
                for (tag, multiple) in acks.up_to.map(|tag| (tag, true)).into_iter().chain(acks.singly.into_iter().map(|tag| (tag, false))) {
                    acked.extend(channel.ack(tag, multiple));
                }
                prop_assert!(acked.is_subset(&done), "acked {acked:?}, done were {done:?}");
                prop_assert!(done.is_disjoint(&channel.unacked), "done and not acked");
            }
            prop_assert!(rest.is_empty() == channel.unacked.is_empty());
        }
    }

    #[test]
    fn what_is_done_in_order_goes_out_in_one_frame() {
        let mut ledger = Ledger::new();
        assert_eq!(ledger.settle([1, 2, 3].map(Settled::Done)), Acks { up_to: Some(3), singly: vec![] });
        assert_eq!(ledger.settle([6, 8].map(Settled::Done)), Acks { up_to: None, singly: vec![6, 8] });
        // 6 was acked: a frame up to it would be refused.
        assert_eq!(ledger.settle([4, 5].map(Settled::Done)), Acks { up_to: Some(5), singly: vec![] });
        assert_eq!(ledger.settle([Settled::Told(7)]), Acks::default());
        assert_eq!(ledger.settle([9].map(Settled::Done)), Acks { up_to: Some(9), singly: vec![] });
    }
}
