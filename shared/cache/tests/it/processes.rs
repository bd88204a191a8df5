//! Several processes with a database, a Redis and one kind of cache between them.

use std::process::Stdio;

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;
use uuid::Uuid;

/// Held by those who want the machine for themselves: side by side they would only measure each other.
pub(crate) static ALONE: Mutex<()> = Mutex::const_new(());

/// What the processes share, but for the Redis.
pub(crate) struct Ground {
    database: backing::Database,
    pub(crate) prefix: String,
}

/// How long things last in the processes, in ms.
pub(crate) struct Times<'a> {
    pub(crate) fresh_ms: u64,
    /// How long they are kept after that.
    pub(crate) grace_ms: u64,
    /// One for each process.
    pub(crate) leases_ms: &'a [u64],
}

/// A process of `examples/cache_process`.
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Ground {
    pub(crate) async fn prepare(items: i32) -> Self {
        let ground =
            Self { database: backing::Database::create().await, prefix: format!("test-{}", Uuid::new_v4().simple()) };
        let mut connection = ground.connect().await;
        for statement in ["CREATE SEQUENCE loads", "CREATE TABLE items (id int PRIMARY KEY, version bigint NOT NULL)"] {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
        let fill = sqlx::query("INSERT INTO items SELECT id, 1 FROM generate_series(0, $1 - 1) id").bind(items);
        fill.execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        ground
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.database.url()).await.unwrap()
    }

    /// How often the database was asked.
    pub(crate) async fn loads(&self) -> i64 {
        let mut connection = self.connect().await;
        let loads = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM loads";
        sqlx::query_scalar(loads).fetch_one(&mut connection).await.unwrap()
    }

    /// The next version of an item.
    pub(crate) async fn write(&self, item: i32) {
        let write = sqlx::query("UPDATE items SET version = version + 1 WHERE id = $1").bind(item);
        write.execute(&mut self.connect().await).await.unwrap();
    }

    /// The version of each item.
    pub(crate) async fn versions(&self) -> Vec<(i32, i64)> {
        let mut connection = self.connect().await;
        sqlx::query_as("SELECT id, version FROM items ORDER BY id").fetch_all(&mut connection).await.unwrap()
    }

    /// Starts a process for each lease, which waits for the word to begin.
    pub(crate) async fn start(&self, redis: &str, kind: &str, times: &Times<'_>, task: Value) -> Vec<Process> {
        let orders = |lease_ms: &u64| {
            json!({
                "redis": { "url": redis, "prefix": self.prefix },
                "floors": { "url": backing::redis_url("durable"), "prefix": self.prefix },
                "database": self.database.url(), "kind": kind, "task": task,
                "fresh_ms": times.fresh_ms, "grace_ms": times.grace_ms, "lease_ms": lease_ms,
            })
        };
        let mut processes =
            times.leases_ms.iter().map(|lease_ms| Process::start(&orders(lease_ms))).collect::<Vec<_>>();
        for process in &mut processes {
            assert_eq!(process.line().await, "ready");
        }
        processes
    }
}

impl Process {
    fn start(orders: &Value) -> Self {
        let own = std::env::current_exe().unwrap();
        let program = own.parent().and_then(|deps| deps.parent()).unwrap().join("examples/cache_process");
        let mut command = Command::new(program);
        command.arg(orders.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output).lines() }
    }

    pub(crate) async fn begin(&mut self) {
        self.input.write_all(b"begin\n").await.unwrap();
    }

    /// Has it end what it still does.
    pub(crate) async fn end(mut self) {
        self.input.write_all(b"end\n").await.unwrap();
        assert!(self.child.wait().await.unwrap().success());
    }

    /// What it reports next.
    pub(crate) async fn line(&mut self) -> Value {
        let line = self.output.next_line().await.unwrap().expect("the process has failed: its own words stand above");
        serde_json::from_str(&line).unwrap()
    }

    /// What it reports when it has done what it was told.
    pub(crate) async fn result(&mut self) -> Value {
        loop {
            let line = self.line().await;
            if line.is_object() {
                return line;
            }
        }
    }

    /// Ends it with no chance to say a word.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
