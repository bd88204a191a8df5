//! The picture of the documentation: bars with the range of their repeats, in colours that can be read on light and on dark.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use crate::results::{Results, Summary};
use crate::tables::shown;
use crate::{jobs, publishing};

const WIDTH: f64 = 860.0;
/// Where the bars begin, and where the longest ends.
const BARS: (f64, f64) = (210.0, 640.0);
const ROW: f64 = 26.0;
const BAR: f64 = 14.0;
const HEAD: f64 = 44.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}.head{font-weight:600;font-size:14px}\
    .name{text-anchor:end}.ours{fill:#2563eb}.theirs{fill:#9aa4b2}.range{stroke:#24292f;stroke-width:1.5}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#6ea8fe}.theirs{fill:#6b7686}.range{stroke:#e6edf3}}";

/// Some bars on one scale.
struct Panel {
    title: &'static str,
    bars: Vec<(&'static str, Summary)>,
}

/// Draws the results.
pub(crate) fn write(results: &Results, file: &Path) -> anyhow::Result<()> {
    let names = jobs::CONTENDERS.iter().map(|contender| contender.name);
    let [ours, lapin, c] = [publishing::POSTROOM, publishing::LAPIN, publishing::LIBRABBITMQ];
    let bars = |group: &str, names: &[&'static str], measure: &str| {
        names.iter().filter_map(|name| Some((*name, results.summary(group, name, measure)?))).collect()
    };
    let names: Vec<_> = names.collect();
    let panels = [
        Panel {
            title: "No-op jobs per second, from the first publish to the last one done",
            bars: bars("jobs", &names, "end to end"),
        },
        Panel { title: "No-op jobs per second, out of a full queue", bars: bars("jobs", &names, "process") },
        Panel {
            title: "Confirmed publishes per second, 1 KiB, 256 outstanding",
            bars: bars("publishing", &[ours, lapin, c], "256 outstanding"),
        },
    ];
    let picture = draw(&panels).context("draw the picture")?;
    std::fs::write(file, picture).with_context(|| format!("write {}", file.display()))
}

fn draw(panels: &[Panel]) -> Result<String, std::fmt::Error> {
    let height: f64 = panels.iter().map(|panel| HEAD + ROW * panel.bars.len() as f64).sum::<f64>() + 12.0;
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"Postroom beside its peers\">\n<style>{STYLE}</style>"
    )?;
    let mut top = 0.0;
    for panel in panels {
        writeln!(svg, "<text class=\"head\" x=\"12\" y=\"{}\">{}</text>", top + 28.0, panel.title)?;
        top += HEAD;
        let most = panel.bars.iter().map(|(_, summary)| summary.greatest).fold(1.0, f64::max);
        let place = |value: f64| BARS.0 + (BARS.1 - BARS.0) * value / most;
        for (name, summary) in &panel.bars {
            let (middle, text) = (top + BAR / 2.0, top + BAR - 2.0);
            let class = if name.starts_with("Postroom") { "ours" } else { "theirs" };
            let [left, right, end] = [summary.least, summary.greatest, summary.median].map(place);
            writeln!(svg, "<text class=\"name\" x=\"{:.1}\" y=\"{text:.1}\">{name}</text>", BARS.0 - 10.0)?;
            writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
                BARS.0,
                end - BARS.0
            )?;
            writeln!(
                svg,
                "<path class=\"range\" d=\"M{left:.1} {middle:.1}H{right:.1}M{left:.1} {0:.1}v6M{right:.1} {0:.1}v6\"/>",
                middle - 3.0
            )?;
            writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{text:.1}\">{}</text>",
                right.max(end) + 10.0,
                shown(*summary, 0, "")
            )?;
            top += ROW;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}
