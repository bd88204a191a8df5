//! On what was measured: the machine, and the version of everything that took part.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::house::{House, variable};

/// The machine and the versions, by name.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) versions: BTreeMap<String, String>,
}

/// Looks at this one.
pub(crate) async fn describe(house: &House) -> anyhow::Result<Machine> {
    let processors = std::fs::read_to_string("/proc/cpuinfo")?;
    let processor = field(&processors, "model name").unwrap_or("unknown").to_owned();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let kibibytes = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();

    let (python, peers) = (house.folder.join("python/bin/python"), House::peer("bullmq"));
    let lock = std::fs::read_to_string(House::repository().join("Cargo.lock"))?;
    let package = std::fs::read_to_string(peers.join("package-lock.json"))?;
    let package: serde_json::Value = serde_json::from_str(&package)?;
    let python_version = |name: &str| format!("import importlib.metadata as m; print(m.version('{name}'))");
    let mut versions = BTreeMap::new();
    let mut add = |name: &str, version: String| versions.insert(name.to_owned(), version);
    add("RabbitMQ", variable("BENCH_RABBITMQ_VERSION")?);
    add("PostgreSQL", variable("BENCH_POSTGRES_VERSION")?);
    add("Redis", variable("BENCH_REDIS_VERSION")?);
    add("librabbitmq", output(Command::new("pkg-config").args(["--modversion", "librabbitmq"])).await?);
    add("lapin", locked(&lock, "lapin").context("no lapin")?.to_owned());
    add("rustc", output(Command::new("rustc").arg("--version")).await?.replace("rustc ", ""));
    add("Node", output(Command::new("node").arg("--version")).await?.replace('v', ""));
    for name in ["bullmq", "ioredis"] {
        let version = &package["packages"][format!("node_modules/{name}")]["version"];
        add(name, version.as_str().context("read the versions of npm's packages")?.to_owned());
    }
    add("Python", output(Command::new(&python).arg("--version")).await?.replace("Python ", ""));
    for name in ["celery", "dramatiq"] {
        add(name, output(Command::new(&python).args(["-c", &python_version(name)])).await?);
    }
    Ok(Machine {
        processor,
        cores: std::thread::available_parallelism()?.get(),
        memory_gib: kibibytes.context("read the memory's size")? / (1 << 20),
        kernel,
        versions,
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.starts_with(name))?.split_once(':').map(|(_, value)| value.trim())
}

fn locked<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    rest.split('"').next()
}

async fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().await.with_context(|| format!("run {:?}", command.as_std().get_program()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
