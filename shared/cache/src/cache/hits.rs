//! The counters of hits, at hand: to look one up by its labels costs a good part of what a hit costs.

use std::sync::{PoisonError, RwLock};

use metrics::Counter;

use super::answer::Source;
use super::family::Family;

/// One counter for each family. They are few: to walk along them is quicker than to hash a name.
#[derive(Default)]
pub(crate) struct Hits(RwLock<Vec<(&'static str, Counter)>>);

impl Hits {
    pub(crate) fn count(&self, family: &Family) {
        let counters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, hits)) = counters.iter().find(|(name, _)| *name == family.name) {
            return hits.increment(1);
        }
        drop(counters);
        let hits = metrics::counter!("cache_reads_total", "family" => family.name, "outcome" => Source::Hit.name());
        hits.increment(1);
        self.0.write().unwrap_or_else(PoisonError::into_inner).push((family.name, hits));
    }
}
