//! Puts the composed system under load, strikes it with one fault after another, and counts what was lost. `tests/faults/run`
//! starts the system and this.

#![expect(clippy::print_stdout, reason = "a command line")]

mod fault;
mod followers;
mod load;
mod noop_workers;
mod phases;
mod system;
mod table;
mod verdict;
mod visits;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use chrono::Utc;
use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngCore, SeedableRng};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};

use crate::fault::Fault;
use crate::followers::Followers;
use crate::load::Load;
use crate::phases::Phases;
use crate::system::System;
use crate::table::Table;
use crate::verdict::Verdict;
use crate::visits::Visits;

/// The load goes on for so long after a fault.
const AFTER: Duration = Duration::from_millis(500);
/// One strike, from the first job to the verdict.
const STRIKE_DEADLINE: Duration = Duration::from_secs(600);

/// Strikes the composed system with one fault after another while it works, and tells what was lost.
#[derive(Debug, Parser)]
#[command(name = "tests/faults/run")]
struct Arguments {
    /// Jobs that each fault meets
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    jobs: u32,
    /// Three RabbitMQ nodes, and the faults that strike one of them
    #[arg(long)]
    cluster: bool,
    /// Strikes in random order for so long, instead of each fault once
    #[arg(long)]
    minutes: Option<u64>,
    /// Where the random order begins; it is printed, so that it can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Only this fault; may be given several times
    #[arg(long, value_enum)]
    only: Vec<Fault>,
    /// Puts the table into this page, between its markers
    #[arg(long, conflicts_with = "only")]
    write: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Given up, it takes its processes along.
    tokio::select! {
        outcome = run(&arguments) => outcome,
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("told to end"),
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let begun = Instant::now();
    let faults = faults(arguments)?;
    let mut system = System::start(arguments.cluster).await?;
    println!("the system is ready after {} s", begun.elapsed().as_secs());
    let mut table = Table::default();
    for fault in order(arguments, faults) {
        Arc::make_mut(&mut system.visitors).keep_signed_in().await?;
        let (begun, mut phases) = (Instant::now(), Phases::start());
        let verdict = match timeout(STRIKE_DEADLINE, strike(&system, fault, arguments.jobs, &mut phases)).await {
            Ok(verdict) => verdict,
            Err(late) => Err(late.into()),
        };
        let verdict = verdict.unwrap_or_else(|error| Verdict::failed(&error));
        println!("{:>4} s  {fault}: {verdict}\n        seconds: {phases}", begun.elapsed().as_secs());
        table.add(fault, &verdict);
    }
    println!("\n{}\n{} s in all", table.aligned(), begun.elapsed().as_secs());
    system.stop().await;
    ensure!(table.is_whole(), "something was lost, ended twice, ended otherwise than it should, or was left behind");
    if let Some(page) = &arguments.write {
        table.write_into(page, if arguments.cluster { "--cluster " } else { "" }, arguments.jobs)?;
    }
    Ok(())
}

fn faults(arguments: &Arguments) -> anyhow::Result<Vec<Fault>> {
    let of_these = if arguments.only.is_empty() { Fault::value_variants() } else { &arguments.only };
    let faults =
        of_these.iter().filter(|fault| fault.needs_cluster() == arguments.cluster).copied().collect::<Vec<_>>();
    ensure!(
        !faults.is_empty(),
        "none of these faults strikes {}",
        if arguments.cluster { "a cluster" } else { "one broker" }
    );
    Ok(faults)
}

/// Each fault once, or by chance until the time is over.
fn order(arguments: &Arguments, faults: Vec<Fault>) -> Box<dyn Iterator<Item = Fault>> {
    let Some(minutes) = arguments.minutes else {
        return Box::new(faults.into_iter());
    };
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().next_u64());
    println!("--seed {seed}");
    let (mut chance, end) = (StdRng::seed_from_u64(seed), Instant::now() + Duration::from_secs(60 * minutes));
    Box::new(std::iter::from_fn(move || if Instant::now() < end { faults.choose(&mut chance).copied() } else { None }))
}

async fn strike(system: &System, fault: Fault, jobs: u32, phases: &mut Phases) -> anyhow::Result<Verdict> {
    let visitors = fault.redis().map(|_| &system.visitors);
    let mut past_the_cache = 0;
    if let Some(visitors) = visitors {
        visitors.all_are_served().await?;
        past_the_cache = system.reads_past_the_cache();
    }
    let (begun, before, stock) = (Utc::now(), system.acked_as_done(), system::stock().await?);
    phases.end("counters");
    let visits = visitors.map(Visits::start);
    let followers = visitors.map(|_| Followers::start(&system.ways));
    let mut load = Load::start(&system.ways, jobs, fault.length());
    fault.strike(system, &mut load).await?;
    phases.end("fault");
    let over = Utc::now();
    sleep(AFTER).await;
    let mut accepted = load.finish().await?;
    phases.end("load");
    let mut followed = Vec::new();
    if let Some(followers) = followers {
        followed = followers.finish().await?;
        accepted.extend(followed.iter().map(|followed| followed.accepted));
        phases.end("followers");
    }
    system.ready().await?;
    phases.end("ready");
    let mut verdict = Verdict::of(system, fault, &accepted, begun, over, phases).await?;
    verdict.judge_orders(&accepted, begun, stock).await?;
    if let (Some(visitors), Some(visits)) = (visitors, visits) {
        verdict.judge_visits(fault, visits.finish().await?);
        verdict.judge_followed(followed).await?;
        verdict.past_the_cache = system.reads_past_the_cache() - past_the_cache;
        // Whoever was signed in before, by the same cookie.
        if let Err(error) = visitors.all_are_served().await {
            verdict.wrong.push(format!("after it: {error:#}"));
        }
        phases.end("visits");
    }
    let after = system.acked_as_done();
    // A container that was started anew has counted from 0.
    let since =
        |(name, after): (&String, &u64)| after.checked_sub(before.get(name).copied().unwrap_or(0)).unwrap_or(*after);
    verdict.duplicates += after.iter().map(since).sum::<u64>();
    verdict.wrong.extend(fault.missed(&verdict).map(ToOwned::to_owned));
    system.clear_files();
    phases.end("clean-up");
    Ok(verdict)
}
