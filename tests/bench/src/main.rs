//! Measures Postroom beside its peers on one machine in one run, and writes what it found. Started by `tests/bench/run`,
//! which brings up what all of them need.
#![expect(clippy::print_stdout, reason = "a command line")]

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

mod accepting;
mod cache;
mod house;
mod http;
mod jobs;
mod latency;
mod machine;
mod memory;
mod part;
mod picture;
mod postroom;
mod process;
mod publishing;
mod results;
mod smtp;
mod tables;

use house::House;
use results::Results;

/// What there is to measure.
const GROUPS: [&str; 5] = ["jobs", "publishing", "accepting", "cache", "memory"];

/// Fewer repeats make no documentation.
const WHOLE: usize = 3;

/// What was asked for on the command line.
#[derive(Debug)]
struct Plan {
    repeats: usize,
    only: Option<String>,
    quick: bool,
}

impl Plan {
    fn read(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut plan = Self { repeats: WHOLE, only: None, quick: false };
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--repeats" => {
                    let number = arguments.next().context("--repeats wants a number")?;
                    plan.repeats =
                        number.parse().ok().filter(|number| *number > 0).context("--repeats wants a number")?;
                }
                "--only" => {
                    let name = arguments.next().filter(|name| GROUPS.contains(&name.as_str()));
                    plan.only = Some(name.with_context(|| format!("--only wants one of {}", GROUPS.join(", ")))?);
                }
                "--quick" => plan.quick = true,
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(plan)
    }

    fn wants(&self, group: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == group)
    }

    /// A number of messages or seconds: a tenth for a short try.
    fn sized(&self, number: u32) -> u32 {
        if self.quick { (number / 10).max(1) } else { number }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("run") => {
            let plan = Plan::read(arguments)?;
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            // Whatever was started is killed when what started it is dropped.
            tokio::select! {
                outcome = run(&plan) => outcome,
                _ = interrupt.recv() => bail!("interrupted"),
                _ = terminate.recv() => bail!("told to end"),
            }
        }
        Some("draw") => draw(),
        Some("part") => part::run(&arguments.collect::<Vec<_>>()).await,
        _ => bail!("bench run [--repeats N] [--only {}] [--quick] | bench draw", GROUPS.join("|")),
    }
}

async fn run(plan: &Plan) -> anyhow::Result<()> {
    let house = House::read()?;
    let mut results = Results::new(plan.repeats, machine::describe(&house).await?);
    house.prepare().await.context("prepare the backing services")?;
    for repeat in 1..=plan.repeats {
        if plan.wants("jobs") {
            println!("\njobs, {repeat} of {}", plan.repeats);
            jobs::measure(&house, plan, repeat, &mut results).await.context("measure jobs")?;
        }
        if plan.wants("publishing") {
            println!("\npublishing, {repeat} of {}", plan.repeats);
            publishing::measure(&house, plan, repeat, &mut results).await.context("measure publishing")?;
        }
        if plan.wants("accepting") {
            println!("\naccepting, {repeat} of {}", plan.repeats);
            accepting::measure(&house, plan, &mut results).await.context("measure accepting")?;
        }
        if plan.wants("cache") {
            println!("\nthe cache, {repeat} of {}", plan.repeats);
            cache::measure(&house, plan, repeat, &mut results).await.context("measure the cache")?;
        }
        if plan.wants("memory") {
            println!("\nmemory, {repeat} of {}", plan.repeats);
            memory::measure(&house, plan, &mut results).await.context("measure memory")?;
        }
    }
    println!("\n{}", tables::all(&results));
    if plan.only.is_none() && !plan.quick && plan.repeats >= WHOLE {
        results.write(&House::results())?;
        draw()
    } else {
        let file = house.folder.join("results.json");
        results.write(&file)?;
        println!("Not the whole: written to {} alone.", file.display());
        Ok(())
    }
}

/// Writes the tables and the picture of the documentation from the results that are kept.
fn draw() -> anyhow::Result<()> {
    let results = Results::read(&House::results())?;
    tables::write(&results, House::repository())?;
    picture::write(&results, &House::repository().join("docs/benchmarks.svg"))
}
