//! The tables, as Markdown: on the terminal, and between markers in the documentation.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;

use crate::results::{Results, Summary};
use crate::{accepting, cache, jobs, memory, publishing};

/// A goal: one contender's figure contains another's at least so often.
struct Goal {
    what: &'static str,
    group: &'static str,
    ours: (&'static str, &'static str),
    theirs: (&'static str, &'static str),
    least: f64,
}

const fn end_to_end(what: &'static str, ours: &'static str, theirs: &'static str, least: f64) -> Goal {
    Goal { what, group: "jobs", ours: (ours, "end to end"), theirs: (theirs, "end to end"), least }
}

const fn processed(what: &'static str, ours: &'static str, theirs: &'static str, least: f64) -> Goal {
    Goal { what, group: "jobs", ours: (ours, "process"), theirs: (theirs, "process"), least }
}

const fn hits(what: &'static str, keys: &'static str, theirs: &'static str) -> Goal {
    Goal { what, group: "cache", ours: (cache::FETCH, keys), theirs: (theirs, keys), least: 0.9 }
}

const GOALS: [Goal; 19] = [
    end_to_end(
        "no-op jobs, publish to done, against BullMQ with AOF everysec",
        jobs::QUIET,
        jobs::BULLMQ_EVERYSEC,
        3.0,
    ),
    processed("the same, taken out of a full queue", jobs::QUIET, jobs::BULLMQ_EVERYSEC, 3.0),
    end_to_end("no-op jobs, publish to done, against BullMQ without AOF", jobs::QUIET, jobs::BULLMQ_MEMORY, 2.0),
    processed("the same, taken out of a full queue", jobs::QUIET, jobs::BULLMQ_MEMORY, 2.0),
    end_to_end(
        "with every final event published, confirmed and tracked, against BullMQ with AOF everysec",
        jobs::TOLD,
        jobs::BULLMQ_EVERYSEC,
        0.5,
    ),
    processed("the same, taken out of a full queue", jobs::TOLD, jobs::BULLMQ_EVERYSEC, 0.5),
    end_to_end("no-op jobs, publish to done, against Celery", jobs::QUIET, jobs::CELERY, 10.0),
    processed("the same, taken out of a full queue", jobs::QUIET, jobs::CELERY, 10.0),
    end_to_end("no-op jobs, publish to done, against Dramatiq", jobs::QUIET, jobs::DRAMATIQ, 5.0),
    processed("the same, taken out of a full queue", jobs::QUIET, jobs::DRAMATIQ, 5.0),
    end_to_end("no-op jobs, publish to done, against a bare lapin loop", jobs::QUIET, jobs::LAPIN, 0.8),
    processed("the same, taken out of a full queue", jobs::QUIET, jobs::LAPIN, 0.8),
    Goal {
        what: "confirmed publishes with 256 outstanding, against bare lapin",
        group: "publishing",
        ours: (publishing::POSTROOM, "256 outstanding"),
        theirs: (publishing::LAPIN, "256 outstanding"),
        least: 0.95,
    },
    Goal {
        what: "the same against librabbitmq in C",
        group: "publishing",
        ours: (publishing::POSTROOM, "256 outstanding"),
        theirs: (publishing::LIBRABBITMQ, "256 outstanding"),
        least: 0.65,
    },
    Goal {
        what: "`POST /v1/reports` accepted, against the bare `Publisher` with as many confirms outstanding",
        group: "accepting",
        ours: (accepting::WEB, "rate"),
        theirs: (accepting::PUBLISHER, "rate"),
        least: 0.5,
    },
    hits(
        "a hit of `Cache::fetch` with 1,000 keys, against a bare `GET` that is decoded",
        cache::KEYS[0],
        cache::DECODED,
    ),
    hits("the same against a bare `GET` that nobody decodes", cache::KEYS[0], cache::BARE),
    hits("a hit with one key, against a bare `GET` that is decoded", cache::KEYS[1], cache::DECODED),
    hits("the same against a bare `GET` that nobody decodes", cache::KEYS[1], cache::BARE),
];

/// What a worker may hold, in MiB.
const MOST_AT_REST: f64 = 20.0;
const MOST_UNDER_LOAD: f64 = 40.0;

type Table = fn(&Results) -> String;
const TABLES: [(&str, Table); 8] = [
    ("goals", goals),
    ("jobs", jobs_table),
    ("publishing", publishing_table),
    ("accepting", accepting_table),
    ("hits", hits_table),
    ("cache", cache_table),
    ("memory", memory_table),
    ("machine", machine),
];

/// Every table of which there are figures.
pub(crate) fn all(results: &Results) -> String {
    TABLES
        .iter()
        .map(|(_, table)| table(results))
        .filter(|table| table.lines().count() > 2)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Replaces what stands between the markers of each table, and of the lines in the README.
pub(crate) fn write(results: &Results, repository: &Path) -> anyhow::Result<()> {
    replace(results, &repository.join("docs/benchmarks.md"), &TABLES)?;
    replace(results, &repository.join("README.md"), &[("figures", readme)])
}

fn replace(results: &Results, file: &Path, tables: &[(&str, Table)]) -> anyhow::Result<()> {
    let mut text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    for (name, table) in tables {
        let (begin, end) = (format!("<!-- {name}: written by tests/bench/run -->\n"), format!("<!-- /{name} -->"));
        let (before, rest) = text.split_once(&begin).with_context(|| format!("no place for the table {name}"))?;
        let (_, after) = rest.split_once(&end).with_context(|| format!("no end of the table {name}"))?;
        text = format!("{before}{begin}{}{end}{after}", table(results));
    }
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// What the README quotes.
fn readme(results: &Results) -> String {
    let times = |group, ours, theirs| {
        let ratio = results.ratio(group, [ours, theirs]);
        ratio.map_or_else(|| "?".to_owned(), |ratio| format!("{:.1}x", ratio.median))
    };
    let jobs = |ours, theirs| times("jobs", (ours, "end to end"), (theirs, "end to end"));
    let publishes =
        |theirs| times("publishing", (publishing::POSTROOM, "256 outstanding"), (theirs, "256 outstanding"));
    format!(
        "- No-op jobs whose successes are told to nobody, publish to done: {} BullMQ with AOF everysec, {} Celery, {} Dramatiq, {} a bare\n\
         \x20 lapin loop.\n\
         - With every job's final event confirmed and tracked in PostgreSQL: {} BullMQ, set to keep no record.\n\
         - Confirmed publishes, 256 outstanding: {} bare lapin, {} librabbitmq in C. All of it: [`docs/benchmarks.md`](docs/benchmarks.md).\n",
        jobs(jobs::QUIET, jobs::BULLMQ_EVERYSEC),
        jobs(jobs::QUIET, jobs::CELERY),
        jobs(jobs::QUIET, jobs::DRAMATIQ),
        jobs(jobs::QUIET, jobs::LAPIN),
        jobs(jobs::TOLD, jobs::BULLMQ_EVERYSEC),
        publishes(publishing::LAPIN),
        publishes(publishing::LIBRABBITMQ),
    )
}

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

fn goals(results: &Results) -> String {
    let rows = GOALS.iter().filter_map(|goal| {
        let ratio = results.ratio(goal.group, [goal.ours, goal.theirs])?;
        let holds = if ratio.median >= goal.least { "yes" } else { "**no**" };
        Some(vec![goal.what.to_owned(), format!("{}x", goal.least), shown(ratio, 2, "x"), holds.to_owned()])
    });
    let held = [memory::NOOP, memory::EMAIL].into_iter().flat_map(|worker| {
        [("at rest", MOST_AT_REST), ("most under load", MOST_UNDER_LOAD)].map(|(measure, most)| (worker, measure, most))
    });
    let memory = held.filter_map(|(worker, measure, most)| {
        let held = results.summary("memory", worker, measure)?;
        let holds = if held.median <= most { "yes" } else { "**no**" };
        let what = format!("memory of the {worker}, {measure}");
        Some(vec![what, format!("at most {most} MiB"), shown(held, 1, " MiB"), holds.to_owned()])
    });
    table(&["what", "goal", "reached: median [least to greatest]", "holds"], rows.chain(memory))
}

fn jobs_table(results: &Results) -> String {
    let rows = jobs::CONTENDERS.iter().filter_map(|contender| {
        let cell = |measure| Some(shown(results.summary("jobs", contender.name, measure)?, 0, ""));
        let [put_in, taken_out, both] = ["enqueue", "process", "end to end"].map(cell);
        Some(vec![contender.name.to_owned(), put_in?, taken_out?, both?, contender.safe.to_owned()])
    });
    let head = ["", "enqueue/s", "process/s", "end to end/s", "what is safe when the enqueuer goes on"];
    table(&head, rows)
}

fn publishing_table(results: &Results) -> String {
    let rows = publishing::WINDOWS.iter().filter_map(|(window, _)| {
        let measure = format!("{window} outstanding");
        let [ours, lapin, c] = [publishing::POSTROOM, publishing::LAPIN, publishing::LIBRABBITMQ];
        let cell = |contender| Some(shown(results.summary("publishing", contender, &measure)?, 0, ""));
        let ratio = |theirs| Some(shown(results.ratio("publishing", [(ours, &measure), (theirs, &measure)])?, 2, "x"));
        Some(vec![window.to_string(), cell(ours)?, cell(lapin)?, cell(c)?, ratio(lapin)?, ratio(c)?])
    });
    let head = ["outstanding", "`Publisher`/s", "lapin/s", "librabbitmq/s", "against lapin", "against librabbitmq"];
    table(&head, rows)
}

fn accepting_table(results: &Results) -> String {
    let contenders = [accepting::PUBLISHER, accepting::WEB, accepting::LAPIN, accepting::NOOP, accepting::REPORT];
    let rows = contenders.into_iter().filter_map(|contender| {
        let cell = |measure, digits| results.summary("accepting", contender, measure).map(|it| shown(it, digits, ""));
        let cells = [cell("rate", 0), cell("p50", 1), cell("p99", 1)];
        cells.iter().any(Option::is_some).then(|| {
            let cells = cells.into_iter().map(Option::unwrap_or_default);
            std::iter::once(contender.to_owned()).chain(cells).collect()
        })
    });
    table(&["", "most per second", "p50, ms", "p99, ms"], rows)
}

fn hits_table(results: &Results) -> String {
    let rows = cache::KEYS.into_iter().filter_map(|keys| {
        let cell = |contender| Some(shown(results.summary("cache", contender, keys)?, 0, ""));
        let against = |theirs| Some(shown(results.ratio("cache", [(cache::FETCH, keys), (theirs, keys)])?, 2, "x"));
        let rates = [cell(cache::FETCH)?, cell(cache::DECODED)?, cell(cache::BARE)?];
        let ratios = [against(cache::DECODED)?, against(cache::BARE)?];
        Some(std::iter::once(keys.to_owned()).chain(rates).chain(ratios).collect())
    });
    let columns =
        ["", "`Cache::fetch`/s", "`GET`, decoded/s", "`GET`/s", "against the decoded `GET`", "against the `GET`"];
    table(&columns, rows)
}

fn cache_table(results: &Results) -> String {
    let contenders =
        cache::ENDPOINTS.iter().flat_map(|(path, ways)| ways.iter().map(|copies| cache::contender(path, *copies)));
    let rows = contenders.filter_map(|contender| {
        let cell = |measure, digits| Some(shown(results.summary("cache", &contender, measure)?, digits, ""));
        let cells = [cell("rate", 0)?, cell("p50", 1)?, cell("p99", 1)?, cell("transactions", 1)?, cell("503", 1)?];
        Some(std::iter::once(contender.clone()).chain(cells).collect())
    });
    table(&["", "most per second", "p50, ms", "p99, ms", "transactions of 1,000 requests", "503 of 1,000"], rows)
}

fn memory_table(results: &Results) -> String {
    let rows = [memory::NOOP, memory::EMAIL].into_iter().filter_map(|worker| {
        let cell = |measure| Some(shown(results.summary("memory", worker, measure)?, 1, ""));
        Some(vec![worker.to_owned(), cell("at rest")?, cell("most under load")?])
    });
    table(&["", "at rest, MiB", "most under load, MiB"], rows)
}

fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let mut text = String::new();
    let written = writeln!(
        text,
        "{}: {}, {} cores, {} GiB, Linux {}; {} repeats.\n",
        results.at.format("%Y-%m-%d"),
        machine.processor,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        results.repeats
    );
    debug_assert!(written.is_ok(), "a String takes everything");
    let versions: Vec<String> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    text + &versions.join(", ") + ".\n"
}

/// The median, and where there are several the least and the greatest.
pub(crate) fn shown(summary: Summary, digits: usize, unit: &str) -> String {
    let number = |value: f64| grouped(&format!("{value:.digits$}"));
    let Summary { median, least, greatest } = summary;
    format!("{}{unit} [{} to {}]", number(median), number(least), number(greatest))
}

/// 12345.6 as 12,345.6.
fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_at(number.find('.').unwrap_or(number.len()));
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(["7", "123", "1234.5", "1234567"].map(grouped), ["7", "123", "1,234.5", "1,234,567"]);
    }
}
