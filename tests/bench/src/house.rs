//! Where everything is: the backing services at their containers' own addresses, the programs, the files.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Queue};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::postroom;
use crate::process::Program;

/// A database of its own, made anew for each run.
const DATABASE: &str = "bench";

const PATIENCE: Duration = Duration::from_secs(60);

/// The way to everything.
pub(crate) struct House {
    rabbitmq: String,
    postgres: String,
    redis_cache: String,
    redis_durable: String,
    redis_everysec: String,
    redis_memory: String,
    /// Logs, and what peers install.
    pub(crate) folder: PathBuf,
    pub(crate) pool: PgPool,
}

impl House {
    /// Reads what `tests/bench/run` says.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let postgres = variable("BENCH_POSTGRES")?;
        let pool = PgPoolOptions::new().max_connections(2).connect_lazy(&database_url(&postgres, DATABASE))?;
        Ok(Self {
            rabbitmq: variable("BENCH_RABBITMQ")?,
            postgres,
            redis_cache: variable("BENCH_REDIS_CACHE")?,
            redis_durable: variable("BENCH_REDIS_DURABLE")?,
            redis_everysec: variable("BENCH_REDIS_EVERYSEC")?,
            redis_memory: variable("BENCH_REDIS_MEMORY")?,
            folder: variable("BENCH_FOLDER")?.into(),
            pool,
        })
    }

    pub(crate) fn repository() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    /// The results that the documentation is made of.
    pub(crate) fn results() -> PathBuf {
        Self::repository().join("docs/benchmarks.json")
    }

    pub(crate) fn peer(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
    }

    /// A program of the product's, as it is released.
    pub(crate) fn released(name: &str) -> anyhow::Result<PathBuf> {
        let own = std::env::current_exe().context("find the programs")?;
        let release = own.parent().and_then(Path::parent).context("find the programs")?;
        Ok(release.join(name))
    }

    /// A file that is not on a disk: what is measured must not wait for one on account of the measuring.
    pub(crate) fn done_file() -> PathBuf {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        folder.join(format!("postroom-bench-{}", std::process::id()))
    }

    pub(crate) fn broker_url(&self, user: &str) -> String {
        format!("amqp://{user}:{}@{}:5672/postroom", backing::broker_password(user), self.rabbitmq)
    }

    /// The product's own, which forgets.
    pub(crate) fn cache_url(&self) -> String {
        redis_url(backing::composed("POSTROOM_REDIS_PASSWORD_CACHE"), &self.redis_cache)
    }

    /// The product's own, which keeps what lasts.
    pub(crate) fn durable_redis_url(&self) -> String {
        redis_url(backing::composed("POSTROOM_REDIS_PASSWORD_DURABLE"), &self.redis_durable)
    }

    /// Where BullMQ keeps its jobs.
    pub(crate) fn redis_url(&self, everysec: bool) -> String {
        format!("redis://{}:6379", if everysec { &self.redis_everysec } else { &self.redis_memory })
    }

    pub(crate) fn database_url(&self) -> String {
        database_url(&self.postgres, DATABASE)
    }

    /// A database with today's schema, and the topology on the broker.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        let first = PgPoolOptions::new().connect(&database_url(&self.postgres, "postroom")).await?;
        for statement in
            [format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"), format!("CREATE DATABASE {DATABASE}")]
        {
            sqlx::query(AssertSqlSafe(statement)).execute(&first).await?;
        }
        first.close().await;
        for name in ["migrate", "sample-data"] {
            let program = Program::released(self, name, name)?
                .env("POSTROOM__DATABASE__URL", self.database_url())
                .env("POSTROOM__TOKENS__ALICE", postroom::TOKEN);
            program.run().await.with_context(|| format!("run {name}"))?;
        }
        postroom::declare(self).await
    }

    /// A connection of the operator's, who may do everything.
    pub(crate) async fn operator(&self) -> anyhow::Result<(Connection, Channel)> {
        let url = self.broker_url("operator");
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.context("connect")?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }

    /// Empties queues of the product, and deletes those of the others.
    pub(crate) async fn clear(&self, purge: &[&str], delete: &[&str]) -> anyhow::Result<()> {
        tokio::time::timeout(PATIENCE, self.clear_now(purge, delete)).await.context("clear the queues")?
    }

    async fn clear_now(&self, purge: &[&str], delete: &[&str]) -> anyhow::Result<()> {
        let (connection, channel) = self.operator().await?;
        for queue in purge {
            channel
                .queue_purge((*queue).into(), QueuePurgeOptions::default())
                .await
                .with_context(|| format!("purge {queue}"))?;
        }
        for queue in delete {
            channel.queue_delete((*queue).into(), QueueDeleteOptions::default()).await?;
        }
        channel.close(200, "done".into()).await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }

    /// Forgets every job.
    pub(crate) async fn forget_jobs(&self) -> anyhow::Result<()> {
        sqlx::query("TRUNCATE jobs, outbox, sent_mails, idempotency_keys CASCADE").execute(&self.pool).await?;
        Ok(())
    }

    /// How many jobs are known to be done.
    pub(crate) async fn done_jobs(&self) -> anyhow::Result<u64> {
        let (done, failed): (i64, i64) = sqlx::query_as(
            "SELECT count(*) FILTER (WHERE state = 'succeeded'), count(*) FILTER (WHERE state <> 'succeeded')
             FROM jobs WHERE finished_at IS NOT NULL",
        )
        .fetch_one(&self.pool)
        .await?;
        ensure!(failed == 0, "{failed} jobs have failed");
        Ok(u64::try_from(done)?)
    }

    /// How many transactions the services' connections have ended. PostgreSQL counts them late while a connection is open, so that
    /// this waits until there is none.
    pub(crate) async fn transactions(&self) -> anyhow::Result<i64> {
        let begin = Instant::now();
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'postroom'";
        while sqlx::query_scalar::<_, i64>(open).fetch_one(&self.pool).await? > 0 {
            ensure!(begin.elapsed() < PATIENCE, "a service that was stopped is still connected to the database");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ended = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        Ok(sqlx::query_scalar(ended).fetch_one(&self.pool).await?)
    }

    /// Waits until a queue has a consumer.
    pub(crate) async fn wait_consumed(&self, queue: &str) -> anyhow::Result<()> {
        self.wait_queue(queue, PATIENCE, |queue| queue.consumer_count() > 0).await
    }

    /// Waits until every message of a queue was taken.
    pub(crate) async fn wait_empty(&self, queue: &str, patience: Duration) -> anyhow::Result<()> {
        self.wait_queue(queue, patience, |queue| queue.message_count() == 0).await
    }

    async fn wait_queue(&self, name: &str, patience: Duration, done: impl Fn(&Queue) -> bool) -> anyhow::Result<()> {
        let (connection, channel) = self.operator().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let wait = async {
            while !done(&channel.queue_declare(name.into(), options, FieldTable::default()).await?) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(patience, wait).await.with_context(|| format!("wait for queue {name}"))??;
        channel.close(200, "done".into()).await?;
        connection.close(200, "done".into()).await?;
        Ok(())
    }
}

fn database_url(host: &str, database: &str) -> String {
    format!("postgres://postroom:{}@{host}:5432/{database}", backing::composed("POSTROOM_DATABASE_PASSWORD"))
}

fn redis_url(password: &str, host: &str) -> String {
    format!("redis://postroom:{password}@{host}:6379")
}

pub(crate) fn variable(name: &str) -> anyhow::Result<String> {
    #[expect(clippy::disallowed_methods, reason = "these are no settings of a service; tests/bench/run sets them")]
    std::env::var(name).with_context(|| format!("{name} is not set: start this by tests/bench/run"))
}
