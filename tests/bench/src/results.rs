//! What was measured, as the file in the repository keeps it.

use std::path::Path;

use anyhow::Context;
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// One run.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Results {
    pub(crate) at: DateTime<Utc>,
    pub(crate) repeats: usize,
    pub(crate) machine: Machine,
    pub(crate) figures: Vec<Figure>,
}

/// One thing that was measured of one contender, once in each repeat.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Figure {
    pub(crate) group: String,
    pub(crate) contender: String,
    pub(crate) measure: String,
    pub(crate) unit: String,
    pub(crate) values: Vec<f64>,
}

/// The middle of some values, with the least and the greatest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) greatest: f64,
}

impl Summary {
    fn of(values: &[f64]) -> Option<Self> {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, least, greatest })
    }
}

impl Results {
    pub(crate) fn new(repeats: usize, machine: Machine) -> Self {
        Self { at: Utc::now().trunc_subsecs(0), repeats, machine, figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, group: &str, contender: &str, measure: &str, unit: &str, value: f64) {
        println!("  {contender:32} {measure:28} {value:>10.1} {unit}");
        let known = self
            .figures
            .iter_mut()
            .find(|figure| figure.group == group && figure.contender == contender && figure.measure == measure);
        match known {
            Some(figure) => figure.values.push(value),
            None => self.figures.push(Figure {
                group: group.to_owned(),
                contender: contender.to_owned(),
                measure: measure.to_owned(),
                unit: unit.to_owned(),
                values: vec![value],
            }),
        }
    }

    fn values(&self, group: &str, contender: &str, measure: &str) -> &[f64] {
        let is = |figure: &&Figure| figure.group == group && figure.contender == contender && figure.measure == measure;
        self.figures.iter().find(is).map_or(&[], |figure| &figure.values)
    }

    pub(crate) fn summary(&self, group: &str, contender: &str, measure: &str) -> Option<Summary> {
        Summary::of(self.values(group, contender, measure))
    }

    /// How often one contender's value contains another's of the same repeat.
    pub(crate) fn ratio(&self, group: &str, [ours, theirs]: [(&str, &str); 2]) -> Option<Summary> {
        let ours = self.values(group, ours.0, ours.1);
        let theirs = self.values(group, theirs.0, theirs.1);
        Summary::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }

    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]), Some(Summary { median: 2.5, least: 1.0, greatest: 4.0 }));
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, least: 1.0, greatest: 3.0 }));
        assert_eq!(Summary::of(&[]), None);
    }
}
