//! The counters of hits, at hand: to look one up by its labels costs a good part of what a hit costs.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use metrics::Counter;

use super::answer::Source;
use super::family::Family;

/// One counter for each family.
#[derive(Default)]
pub(crate) struct Hits(RwLock<HashMap<&'static str, Counter>>);

impl Hits {
    pub(crate) fn count(&self, family: &Family) {
        if let Some(hits) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(family.name) {
            return hits.increment(1);
        }
        let hits = metrics::counter!("cache_reads_total", "family" => family.name, "outcome" => Source::Hit.name());
        hits.increment(1);
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(family.name, hits);
    }
}
