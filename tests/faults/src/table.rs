//! The table of what each fault did, for people.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;

use crate::fault::Fault;
use crate::verdict::Verdict;
use crate::visits::Seen;

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

const VISITORS: [&str; 8] = [
    "fault",
    "pages of the shop",
    "of these read from the database",
    "answers to who is signed in",
    "of these `503`",
    "slowest answer, seconds",
    "ends of jobs heard of",
    "the latest, seconds after it",
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

    /// Puts it into a page, with the day and the size of the load, where the options of the run stand in a marker; and beside it
    /// what visitors saw, where there were any.
    pub(crate) fn write_into(&self, page: &Path, options: &str, jobs: u32) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
        let day = Utc::now().date_naive();
        let rows =
            self.lines.iter().map(|(fault, strikes)| cells(format!("**{fault}**: {}", fault.description()), strikes));
        let table = format!("{day}, at least {jobs} jobs a fault:\n\n{}", markdown(&HEAD, rows));
        let mut text = between(&text, &format!("<!-- table: tests/faults/run {options}--write -->"), &table)?;
        let visited: Vec<_> =
            self.lines.iter().filter_map(|(fault, strikes)| visits(fault.to_string(), strikes)).collect();
        if !visited.is_empty() {
            text = between(&text, "<!-- visitors: tests/faults/run --write -->", &markdown(&VISITORS, visited))?;
        }
        std::fs::write(page, text).with_context(|| format!("write {}", page.display()))
    }
}

/// The text with another table between a marker and the next end.
fn between(text: &str, begin: &str, table: &str) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(begin).with_context(|| format!("the page has no {begin}"))?;
    let (_, after) = rest.split_once(END).context("the page has no marker for the table's end")?;
    Ok(format!("{before}{begin}\n{table}{END}{after}"))
}

fn markdown<const COLUMNS: usize>(head: &[&str; COLUMNS], rows: impl IntoIterator<Item = [String; COLUMNS]>) -> String {
    let rows = rows.into_iter().map(|row| format!("| {} |\n", row.join(" | ")));
    format!("| {} |\n|{}\n{}", head.join(" | "), " --- |".repeat(COLUMNS), rows.collect::<String>())
}

fn visits(name: String, strikes: &[Verdict]) -> Option<[String; VISITORS.len()]> {
    let seen: Vec<&Seen> = strikes.iter().filter_map(|verdict| verdict.seen.as_ref()).collect();
    let slowest = seen.iter().map(|seen| seen.slowest()).max()?;
    let heard_last = strikes.iter().map(Verdict::heard_last).max().unwrap_or_default();
    let sum = |count: fn(&Seen) -> u64| seen.iter().map(|seen| count(seen)).sum::<u64>().to_string();
    Some([
        name,
        sum(|seen| seen.pages.len() as u64),
        strikes.iter().map(|verdict| verdict.past_the_cache).sum::<u64>().to_string(),
        sum(|seen| seen.own.len() as u64),
        sum(|seen| seen.put_off),
        format!("{:.2}", slowest.as_secs_f64()),
        strikes.iter().map(|verdict| verdict.heard_after.len()).sum::<usize>().to_string(),
        format!("{:.2}", heard_last.as_secs_f64()),
    ])
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
