//! The counters of hits, at hand: to look one up by its labels costs a good part of what a hit costs.

use std::sync::OnceLock;

use metrics::Counter;

use super::answer::Source;
use super::family::Family;

/// Families that have theirs at hand; whatever comes after them is looked up.
const MOST: usize = 16;

/// One counter for each family. They are few: to walk along them is quicker than to hash a name.
#[derive(Default)]
pub(crate) struct Hits([OnceLock<(&'static str, Counter)>; MOST]);

impl Hits {
    pub(crate) fn count(&self, family: &Family) {
        let own = self.0.iter().find_map(|slot| {
            let (name, hits) = slot.get_or_init(|| (family.name, counter(family)));
            (*name == family.name).then_some(hits)
        });
        match own {
            Some(hits) => hits.increment(1),
            None => counter(family).increment(1),
        }
    }
}

fn counter(family: &Family) -> Counter {
    metrics::counter!("cache_reads_total", "family" => family.name, "outcome" => Source::Hit.name())
}
