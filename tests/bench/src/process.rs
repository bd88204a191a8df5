//! Programs that are measured: started, waited for, looked at, ended.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::house::House;

/// Python and Node are slow to start on a machine that does other things too.
const START: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(30);
/// The longest that one measured step may take.
const STEP: Duration = Duration::from_secs(300);

/// A program before it is started.
pub(crate) struct Program {
    name: String,
    log: PathBuf,
    command: Command,
}

/// A program with whatever it starts itself, in a process group of their own; all are killed when this is dropped.
struct Group {
    child: Child,
    /// Also that of one whose leader has ended.
    id: u32,
}

impl Group {
    fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let id = child.id().context("it has ended already")?;
        Ok(Self { child, id })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut kill = std::process::Command::new("kill");
        // All of it may have ended.
        kill.args(["-KILL", "--", &format!("-{}", self.id)]).stderr(Stdio::null()).status().ok();
    }
}

/// One that runs; killed when this is dropped.
pub(crate) struct Running {
    name: String,
    log: PathBuf,
    child: Group,
    lines: Lines<BufReader<ChildStdout>>,
}

/// When what a program did began and ended: seconds since 1970, by the clock that all of them share.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Span {
    pub(crate) begin: f64,
    pub(crate) end: f64,
}

impl Span {
    pub(crate) fn seconds(self) -> f64 {
        self.end - self.begin
    }
}

impl Program {
    /// What it says on standard error goes to a log of that name.
    pub(crate) fn new(house: &House, name: &str, path: impl AsRef<Path>) -> anyhow::Result<Self> {
        let log = house.folder.join(format!("{name}.log"));
        let mut command = Command::new(path.as_ref());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        File::create(&log).with_context(|| format!("write {}", log.display()))?;
        command.stderr(File::options().append(true).open(&log)?);
        Ok(Self { name: name.to_owned(), log, command })
    }

    /// A program of the product's, as it is released. All that it says goes to its log.
    pub(crate) fn released(house: &House, name: &str, program: &str) -> anyhow::Result<Self> {
        let mut released = Self::new(house, name, House::released(program)?)?;
        released.command.stdout(File::options().append(true).open(&released.log)?);
        Ok(released)
    }

    /// A part of this program's own, see `part.rs`.
    pub(crate) fn part(house: &House, name: &str) -> anyhow::Result<Self> {
        Ok(Self::new(house, name, std::env::current_exe()?)?.arg("part").arg(name))
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs it to its end; what it printed.
    async fn output(mut self) -> anyhow::Result<String> {
        let child = self.command.spawn().with_context(|| format!("start {}", self.name))?;
        let output = timeout(STEP, child.wait_with_output()).await;
        let output = output.with_context(|| format!("{} does not end", self.name))??;
        ensure!(output.status.success(), "{} failed, see {}", self.name, self.log.display());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let status = timeout(STEP, self.command.status()).await;
        let status = status.with_context(|| format!("{} does not end", self.name))?.context("start a program")?;
        ensure!(status.success(), "{} failed, see {}", self.name, self.log.display());
        Ok(())
    }

    /// Runs it to its end; the span that it printed last.
    pub(crate) async fn span(self) -> anyhow::Result<Span> {
        self.last_line().await
    }

    /// Runs it to its end; what it printed last, as JSON.
    pub(crate) async fn last_line<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let name = self.name.clone();
        let output = self.output().await?;
        let last = output.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("what {name} printed last is something else: {last}"))
    }

    /// Starts it and goes on.
    pub(crate) fn start(mut self) -> anyhow::Result<Running> {
        self.command.stdout(Stdio::piped());
        let mut child = Group::start(self.command).with_context(|| format!("start {}", self.name))?;
        let stdout = child.child.stdout.take().context("a pipe was asked for")?;
        Ok(Running { name: self.name, log: self.log, child, lines: BufReader::new(stdout).lines() })
    }

    /// Starts a service of the product's, whose log is not read here.
    pub(crate) fn start_service(self) -> anyhow::Result<Service> {
        let child = Group::start(self.command).with_context(|| format!("start {}", self.name))?;
        Ok(Service { name: self.name, log: self.log, child })
    }
}

impl Running {
    /// Waits until it has said `ready` so many times.
    pub(crate) async fn ready(mut self, times: usize) -> anyhow::Result<Service> {
        let Self { name, log, child, lines } = &mut self;
        let wait = async {
            let mut said = 0;
            while said < times {
                match lines.next_line().await? {
                    Some(line) if line == "ready" => said += 1,
                    Some(_) => {}
                    None => bail!("{name} ended: {:?}, see {}", child.child.wait().await, log.display()),
                }
            }
            anyhow::Ok(())
        };
        timeout(START, wait).await.with_context(|| format!("{name} does not get ready, see {}", log.display()))??;
        let Self { name, log, child, mut lines } = self;
        // A pipe that nobody reads would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Service { name, log, child })
    }
}

/// A program that does its work until it is told to end; killed when this is dropped.
pub(crate) struct Service {
    name: String,
    log: PathBuf,
    child: Group,
}

impl Service {
    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}, see {}", self.name, self.log.display()),
        }
    }

    /// A line of its `/proc/<id>/status` in MiB: `VmRSS`, what it holds now, or `VmHWM`, the most that it has held.
    pub(crate) async fn memory(&self, line: &str) -> anyhow::Result<f64> {
        let id = self.child.child.id().with_context(|| format!("{} has ended", self.name))?;
        let status = tokio::fs::read_to_string(format!("/proc/{id}/status")).await?;
        let value =
            status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')?.split_whitespace().next());
        let kibibytes: f64 = value.with_context(|| format!("no {line}"))?.parse()?;
        Ok(kibibytes / 1024.0)
    }

    /// Tells it to end and waits for that.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(id) = self.child.child.id() {
            Command::new("kill").arg("-TERM").arg(id.to_string()).status().await?;
        }
        let ended = timeout(END, self.child.child.wait()).await;
        ended.with_context(|| format!("{} does not end, see {}", self.name, self.log.display()))??;
        Ok(())
    }
}
