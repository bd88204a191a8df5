//! Puts a topology on a broker. Declaring what stands there already changes nothing.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ErrorKind, ExchangeKind};
use tokio::time::timeout;

use super::verify::{Difference, refusal};
use super::{Argument, Binding, Topology};

/// A declaration of one thing; generous, because a cluster elects a leader for each new quorum queue.
const DEADLINE: Duration = Duration::from_secs(15);

/// What could not be declared, and why.
#[derive(Debug, thiserror::Error)]
#[error("declare {what}")]
pub(crate) struct DeclareError {
    what: String,
    #[source]
    source: DeclareFailure,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum DeclareFailure {
    #[error(transparent)]
    Broker(lapin::Error),
    #[error("no answer from the broker in {} s", DEADLINE.as_secs())]
    Late(#[from] tokio::time::error::Elapsed),
    /// It stands there already, and is not the same.
    #[error("{0}")]
    Differs(Difference),
}

impl DeclareError {
    /// Whether what stands there has to be mended by a person first.
    pub(crate) fn differs(&self) -> bool {
        matches!(self.source, DeclareFailure::Differs(_))
    }
}

impl From<lapin::Error> for DeclareFailure {
    fn from(error: lapin::Error) -> Self {
        const PRECONDITION_FAILED: u16 = 406;
        if let ErrorKind::ProtocolError(refused) = error.kind()
            && refused.get_id() == PRECONDITION_FAILED
            && let Some(difference) = refusal(refused.get_message().as_str())
        {
            return Self::Differs(difference);
        }
        Self::Broker(error)
    }
}

/// Declares exchanges, then each queue with its bindings; each with a deadline.
pub(crate) async fn declare(channel: &Channel, topology: &Topology) -> Result<(), DeclareError> {
    // An alternate exchange must stand before the exchange that names it is of use, so plain ones come first.
    let (plain, with_alternate): (Vec<_>, Vec<_>) =
        topology.exchanges.iter().partition(|(_, exchange)| exchange.alternate.is_none());
    for (name, exchange) in plain.into_iter().chain(with_alternate) {
        let kind = match exchange.kind {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            _ => ExchangeKind::Topic,
        };
        let mut arguments = FieldTable::default();
        if let Some(alternate) = exchange.alternate {
            arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
        }
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        within(
            &format!("exchange \"{name}\""),
            channel.exchange_declare(name.as_str().into(), kind, options, arguments),
        )
        .await?;
    }
    for (name, queue) in &topology.queues {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let declared = channel.queue_declare(name.as_str().into(), options, field_table(&queue.arguments));
        within(&format!("queue \"{name}\""), declared).await?;
        // At once, so that nobody who looks sees a queue without its bindings for long.
        for Binding { exchange, key, queue } in topology.bindings.iter().filter(|binding| binding.queue == *name) {
            let bound = channel.queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            within(&format!("binding \"{exchange}\" -> \"{key}\" -> \"{queue}\""), bound).await?;
        }
    }
    Ok(())
}

async fn within<T>(what: &str, call: impl Future<Output = lapin::Result<T>>) -> Result<T, DeclareError> {
    let result = match timeout(DEADLINE, call).await {
        Ok(answer) => answer.map_err(DeclareFailure::from),
        Err(late) => Err(late.into()),
    };
    result.map_err(|source| DeclareError { what: what.to_owned(), source })
}

fn field_table(arguments: &std::collections::BTreeMap<&'static str, Argument>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Int(number) => AMQPValue::LongLongInt(*number),
            Argument::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
        };
        table.insert((*name).into(), value);
    }
    table
}
