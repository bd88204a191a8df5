//! No-op jobs per second: put in, taken out, and from the first that goes in to the last that is done.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::house::House;
use crate::postroom;
use crate::process::{Program, Service};
use crate::results::Results;

/// A contender, with as many jobs as keep it busy for a second or two.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// What is known to be safe when the enqueuer goes on.
    pub(crate) safe: &'static str,
    kind: Kind,
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lapin,
    Postroom { told: bool },
    BullMq { everysec: bool },
    Celery,
    Dramatiq,
}

pub(crate) const LAPIN: &str = "lapin, bare";
pub(crate) const QUIET: &str = "Postroom";
pub(crate) const TOLD: &str = "Postroom, tracked";
pub(crate) const BULLMQ_EVERYSEC: &str = "BullMQ, AOF everysec";
pub(crate) const BULLMQ_MEMORY: &str = "BullMQ, no AOF";
pub(crate) const CELERY: &str = "Celery";
pub(crate) const DRAMATIQ: &str = "Dramatiq";

pub(crate) const CONTENDERS: [Contender; 7] = [
    Contender { name: LAPIN, safe: "each job, confirmed from disk", kind: Kind::Lapin, count: 40_000 },
    Contender {
        name: QUIET,
        safe: "each job, confirmed from disk",
        kind: Kind::Postroom { told: false },
        count: 40_000,
    },
    Contender {
        name: TOLD,
        safe: "each job and its final event, confirmed from disk; then a row in PostgreSQL, committed",
        kind: Kind::Postroom { told: true },
        count: 20_000,
    },
    Contender {
        name: BULLMQ_EVERYSEC,
        safe: "all but the last second",
        kind: Kind::BullMq { everysec: true },
        count: 15_000,
    },
    Contender { name: BULLMQ_MEMORY, safe: "nothing", kind: Kind::BullMq { everysec: false }, count: 15_000 },
    Contender { name: CELERY, safe: "nothing: on disk soon, not confirmed", kind: Kind::Celery, count: 5_000 },
    Contender { name: DRAMATIQ, safe: "nothing: on disk soon, not confirmed", kind: Kind::Dramatiq, count: 8_000 },
];

/// With the quotes and the name around it, a body has 200 bytes where it is JSON as ours.
const NOTE_BYTES: usize = 200 - r#"{"note":""}"#.len();
/// As BullMQ's and Postroom's.
const CELERY_THREADS: &str = "50";
const CELERY_DELAYS: u8 = 28;
/// Of each of Dramatiq's processes, of which there are as many as cores; as many as it has by default.
const DRAMATIQ_THREADS: &str = "8";
/// Nothing moves for so long: something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// One round of every contender.
pub(crate) async fn measure(house: &House, plan: &Plan, repeat: usize, results: &mut Results) -> anyhow::Result<()> {
    // Each repeat begins with another.
    for contender in CONTENDERS.iter().cycle().skip(repeat).take(CONTENDERS.len()) {
        let round = Round { house, contender, count: plan.sized(contender.count), done: House::done_file() };
        let rates = round.rates().await;
        std::fs::remove_file(&round.done).ok();
        let rates = rates.with_context(|| format!("measure {}", contender.name))?;
        for (measure, rate) in ["enqueue", "process", "end to end"].into_iter().zip(rates) {
            results.add("jobs", contender.name, measure, "1/s", rate);
        }
    }
    Ok(())
}

struct Round<'a> {
    house: &'a House,
    contender: &'a Contender,
    count: u32,
    done: PathBuf,
}

/// What a contender works with.
struct Workers {
    services: Vec<Service>,
}

impl Workers {
    fn check(&mut self) -> anyhow::Result<()> {
        self.services.iter_mut().try_for_each(Service::check)
    }

    async fn stop(self) -> anyhow::Result<()> {
        for service in self.services {
            service.stop().await?;
        }
        Ok(())
    }
}

impl Round<'_> {
    async fn rates(&self) -> anyhow::Result<[f64; 3]> {
        let count = f64::from(self.count);

        self.clear().await?;
        let enqueued = self.enqueue()?.span().await?;
        let mut workers = self.work().await?;
        // From the first that is seen done: what a worker needs to start is no work.
        let (first, begin) = self.reach(1, &mut workers).await?;
        let (_, end) = self.reach(u64::from(self.count), &mut workers).await?;
        let processed =
            (count - first as f64) / end.duration_since(begin).context("the clock was set back")?.as_secs_f64();
        workers.stop().await?;

        self.clear().await?;
        let mut workers = self.work().await?;
        let (enqueued_again, (_, end)) =
            tokio::try_join!(self.enqueue()?.span(), self.reach(u64::from(self.count), &mut workers))?;
        let end = end.duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
        let ended = end - enqueued_again.begin;
        workers.stop().await?;
        self.clear().await?;
        Ok([count / enqueued.seconds(), processed, count / ended])
    }

    /// Nothing is queued, and nothing is done yet.
    async fn clear(&self) -> anyhow::Result<()> {
        std::fs::write(&self.done, "").context("make the file that counts")?;
        match self.contender.kind {
            Kind::Lapin => self.house.clear(&[], &["bench.lapin"]).await,
            Kind::Postroom { .. } => {
                self.house.forget_jobs().await?;
                self.house.clear(&["noop.normal", "tracker.lifecycle"], &[]).await
            }
            Kind::BullMq { .. } => self.peer("empty")?.run().await,
            Kind::Celery => {
                // Its worker declares one of these for each power of two seconds of a delay.
                let delays = (0..CELERY_DELAYS).map(|number| format!("celery_delayed_{number}")).collect::<Vec<_>>();
                let queues: Vec<_> = delays.iter().map(String::as_str).chain(["bench.celery"]).collect();
                self.house.clear(&[], &queues).await
            }
            Kind::Dramatiq => {
                self.house.clear(&[], &["bench.dramatiq", "bench.dramatiq.DQ", "bench.dramatiq.XQ"]).await
            }
        }
    }

    fn enqueue(&self) -> anyhow::Result<Program> {
        match self.contender.kind {
            Kind::Lapin => self.part("enqueue-lapin"),
            Kind::Postroom { .. } => self.part("enqueue-postroom"),
            Kind::BullMq { .. } | Kind::Celery | Kind::Dramatiq => self.peer("enqueue"),
        }
    }

    async fn work(&self) -> anyhow::Result<Workers> {
        let cores = std::thread::available_parallelism()?.get();
        let worker = match self.contender.kind {
            Kind::Lapin => self.part("work-lapin")?.start()?.ready(1).await?,
            Kind::Postroom { told: false } => self.part("work-postroom-quiet")?.start()?.ready(1).await?,
            Kind::Postroom { told: true } => {
                let (web, _) = postroom::web(self.house).await?;
                let worker = self.part("work-postroom-told")?.start()?.ready(1).await?;
                return Ok(Workers { services: vec![worker, web] });
            }
            Kind::BullMq { .. } => self.peer("work")?.start()?.ready(1).await?,
            Kind::Celery => {
                let worker = self.python("celery", "celery")?.arg("--app").arg("tasks").arg("worker");
                let worker = worker.arg("--pool").arg("threads").arg("--concurrency").arg(CELERY_THREADS);
                let worker = worker.arg("--without-gossip").arg("--without-mingle").arg("--without-heartbeat");
                worker.start()?.ready(1).await?
            }
            Kind::Dramatiq => {
                let worker = self.python("dramatiq", "dramatiq")?.arg("actors").arg("--threads").arg(DRAMATIQ_THREADS);
                worker.arg("--processes").arg(cores.to_string()).start()?.ready(cores).await?
            }
        };
        Ok(Workers { services: vec![worker] })
    }

    /// Waits until so many are done: how many are, and when.
    async fn reach(&self, wanted: u64, workers: &mut Workers) -> anyhow::Result<(u64, SystemTime)> {
        let tracked = self.contender.kind == (Kind::Postroom { told: true });
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let done = match tracked {
                true => self.house.done_jobs().await?,
                false => std::fs::metadata(&self.done)?.len(),
            };
            if done >= wanted {
                return Ok((done, SystemTime::now()));
            }
            if done > seen {
                (seen, moved) = (done, Instant::now());
            }
            workers.check()?;
            ensure!(moved.elapsed() < PATIENCE, "only {done} of {wanted} are done, and nothing moves");
            // Counting rows takes longer than looking at a file.
            sleep(Duration::from_millis(if tracked { 25 } else { 2 })).await;
        }
    }

    fn part(&self, name: &str) -> anyhow::Result<Program> {
        let user = if self.contender.kind == Kind::Lapin { "operator" } else { "noop-worker" };
        Ok(self.told(Program::part(self.house, name)?, &self.house.broker_url(user)))
    }

    fn peer(&self, what: &str) -> anyhow::Result<Program> {
        match self.contender.kind {
            Kind::BullMq { everysec } => {
                let program = Program::new(self.house, &format!("bullmq-{what}"), "node")?;
                let program = program.arg(self.house.folder.join("bullmq").join(format!("{what}.js")));
                Ok(self.told(program, &self.house.redis_url(everysec)))
            }
            Kind::Celery => Ok(self.python("celery", "python")?.arg(format!("{what}.py"))),
            _ => Ok(self.python("dramatiq", "python")?.arg(format!("{what}.py"))),
        }
    }

    fn python(&self, peer: &str, program: &str) -> anyhow::Result<Program> {
        let path = self.house.folder.join("python/bin").join(program);
        let program = Program::new(self.house, &format!("{peer}-{program}"), path)?.folder(House::peer(peer));
        Ok(self.told(program.env("PYTHONDONTWRITEBYTECODE", "1"), &self.house.broker_url("operator")))
    }

    fn told(&self, program: Program, url: &str) -> Program {
        program
            .env("BENCH_URL", url)
            .env("BENCH_COUNT", self.count.to_string())
            .env("BENCH_PAYLOAD", "x".repeat(NOTE_BYTES))
            .env("BENCH_DONE", &self.done)
    }
}
