//! The table of what each fault did, for people.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;

use crate::fault::Fault;
use crate::verdict::Verdict;

const END: &str = "<!-- end of table -->";
const HEAD: [&str; 11] = [
    "fault",
    "strikes",
    "accepted",
    "asked again",
    "ended once",
    "lost",
    "duplicates absorbed",
    "mails maybe sent",
    "mails twice",
    "seconds to recover",
    "unfinished queues",
];

/// One line for each fault, however often it struck.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: BTreeMap<Fault, Vec<Verdict>>,
}

impl Table {
    pub(crate) fn add(&mut self, fault: Fault, verdict: &Verdict) {
        self.lines.entry(fault).or_default().push(verdict.clone());
    }

    pub(crate) fn is_whole(&self) -> bool {
        !self.lines.is_empty() && self.lines.values().flatten().all(Verdict::is_whole)
    }

    /// For a terminal.
    pub(crate) fn aligned(&self) -> String {
        let mut rows = vec![HEAD.map(ToOwned::to_owned)];
        rows.extend(self.lines.iter().map(|(fault, strikes)| cells(fault.to_string(), strikes)));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// Puts it into a page, with the day and the size of the load, where the options of the run stand in a marker.
    pub(crate) fn write_into(&self, page: &Path, options: &str, jobs: u32) -> anyhow::Result<()> {
        let begin = format!("<!-- table: tests/faults/run {options}--write -->");
        let text = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let (before, rest) = text.split_once(&begin).context("the page has no marker for the table")?;
        let (_, after) = rest.split_once(END).context("the page has no marker for the table's end")?;
        let mut table = format!("| {} |\n|{}\n", HEAD.join(" | "), " --- |".repeat(HEAD.len()));
        for (fault, strikes) in &self.lines {
            let name = format!("**{fault}**: {}", fault.description());
            writeln!(table, "| {} |", cells(name, strikes).join(" | "))?;
        }
        let day = Utc::now().date_naive();
        let text = format!("{before}{begin}\n{day}, at least {jobs} jobs a fault:\n\n{table}{END}{after}");
        std::fs::write(page, text).with_context(|| format!("write {}", page.display()))
    }
}

fn cells(name: String, strikes: &[Verdict]) -> [String; HEAD.len()] {
    let sum = |count: fn(&Verdict) -> u64| strikes.iter().map(count).sum::<u64>().to_string();
    let slowest = strikes.iter().map(|verdict| verdict.recovered_after).max().unwrap_or(Duration::ZERO);
    [
        name,
        strikes.len().to_string(),
        sum(|verdict| verdict.accepted),
        sum(|verdict| verdict.asked_again),
        sum(|verdict| verdict.ended_once),
        sum(|verdict| verdict.lost),
        sum(|verdict| verdict.duplicates),
        sum(|verdict| verdict.maybe_sent),
        sum(|verdict| verdict.mails_twice),
        format!("{:.1}", slowest.as_secs_f64()),
        sum(|verdict| verdict.unfinished.len() as u64),
    ]
}
