//! `order.place`: decides on the order in the database, with the mail and the event that follow from it.

use chrono::{DateTime, SubsecRound, Utc};
use pipeline::events::{EventBody, PlacedLine, PlacedOrder};
use pipeline::jobs::{
    InvalidMailbox, Job, Message, OrderLine, OrderPlaced, OrderRefused, OrderedItem, PlaceOrder, Recipient, SendEmail,
};
use pipeline::{Done, Event, Failure, Handler, JobContext, OrFail, OutgoingJob};
use serde_json::json;
use store::PgPool;
use store::accounts::Letter;
use store::jobs::NewJob;
use store::orders::{self, Customer, Letters, NewLine, NewOrder, Order, Outcome, Placed, Placing, Refused};
use store::outbox::{NewEventRow, NewOutboxRow};
use worker::POSTGRES;

/// Places orders. Whatever an order brings about is written in one transaction, once: the first decision stays.
#[derive(Debug)]
pub struct PlaceOrderHandler {
    pool: PgPool,
}

impl PlaceOrderHandler {
    /// Orders are kept in `pool`.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        // Shown as 0 from the start, so that its first rise is seen as one.
        metrics::counter!("orders_unmailed_total").increment(0);
        Self { pool }
    }
}

impl Handler for PlaceOrderHandler {
    type Job = PlaceOrder;

    async fn run(&self, job: PlaceOrder, context: &JobContext) -> Result<Done, Failure> {
        let order = new_order(&job, context);
        let placing = orders::place(&self.pool, &order, |order, customer| letters(order, customer, context)).await;
        match placing.or_unavailable(POSTGRES, "place the order")? {
            Placing::Decided(order) => answer(order.outcome),
            Placing::Unwanted => Err(Failure::Cancelled),
        }
    }
}

fn new_order(job: &PlaceOrder, context: &JobContext) -> NewOrder {
    let line = |line: &OrderLine| NewLine { product_id: line.product_id, quantity: line.quantity.get() };
    NewOrder {
        job: NewJob {
            id: context.id(),
            kind: PlaceOrder::KIND.to_owned(),
            owner: context.owner().map_or_else(|| job.customer.to_string(), ToOwned::to_owned),
            caused_by: context.job().caused_by,
            at: as_kept(job.accepted_at),
        },
        replays: context.replays(),
        customer: job.customer,
        lines: job.items.as_slice().iter().map(line).collect(),
    }
}

/// The same answer whenever the order is asked for.
fn answer(outcome: Outcome) -> Result<Done, Failure> {
    match outcome {
        Outcome::Placed(Placed { number, placed_at, currency, total_minor, .. }) => Ok(Done::with_result(json!({
            "number": number, "placed_at": placed_at, "currency": currency, "total_minor": total_minor,
        }))),
        Outcome::Refused(Refused { code, reason, .. }) => Err(Failure::refused(code, reason)),
    }
}

/// What goes out because of the decision. The ids derive from the order's.
fn letters(order: &Order, customer: Option<&Customer>, context: &JobContext) -> Result<Letters, serde_json::Error> {
    let message = match &order.outcome {
        Outcome::Placed(placed) => Message::OrderPlaced(placed_mail(order, placed)),
        Outcome::Refused(Refused { reason, .. }) => {
            Message::OrderRefused(OrderRefused { order_id: order.id, reason: reason.clone() })
        }
    };
    let event = match &order.outcome {
        Outcome::Placed(placed) => Some(placed_event(order, placed, context)?),
        Outcome::Refused(_) => None,
    };
    let mail = match customer.map(recipient) {
        Some(Ok(to)) => Some(letter(SendEmail { to, message }, order, context)?),
        Some(Err(error)) => {
            // An order is not lost for that.
            metrics::counter!("orders_unmailed_total").increment(1);
            tracing::error!(%error, "the customer of an order cannot be written to");
            None
        }
        None => None,
    };
    Ok(Letters { mail, event })
}

fn recipient(customer: &Customer) -> Result<Recipient, InvalidMailbox> {
    Ok(Recipient { name: customer.name.clone().try_into()?, address: customer.email.clone().try_into()? })
}

fn letter(mail: SendEmail, order: &Order, context: &JobContext) -> Result<Letter, serde_json::Error> {
    let (id, at) = (context.child_id(SendEmail::KIND), as_kept(Utc::now()));
    let owner = context.owner().map_or_else(|| order.customer.to_string(), ToOwned::to_owned);
    let job = OutgoingJob {
        owner: Some(owner.clone()),
        correlation_id: Some(order.id),
        accepted_at: at,
        trace: Some(context.trace().clone()),
        ..OutgoingJob::new(id, mail)
    };
    let row = NewOutboxRow { message: serde_json::to_value(job.sealed()?)?, due_at: None };
    Ok(Letter { job: NewJob { id, kind: SendEmail::KIND.to_owned(), owner, caused_by: Some(order.id), at }, row })
}

fn placed_mail(order: &Order, placed: &Placed) -> OrderPlaced {
    let lines = placed.lines.iter().map(|line| OrderedItem {
        name: line.name.clone(),
        quantity: line.quantity,
        unit_price_minor: line.unit_price_minor,
    });
    OrderPlaced {
        order_id: order.id,
        number: placed.number,
        placed_at: placed.placed_at,
        currency: placed.currency.clone(),
        total_minor: placed.total_minor,
        lines: lines.collect(),
    }
}

fn placed_event(order: &Order, placed: &Placed, context: &JobContext) -> Result<NewEventRow, serde_json::Error> {
    let lines = placed.lines.iter().map(|line| PlacedLine {
        product_id: line.product_id,
        quantity: line.quantity,
        unit_price_minor: line.unit_price_minor,
    });
    let body = EventBody::OrderPlaced {
        order: PlacedOrder {
            id: order.id,
            number: placed.number,
            customer: order.customer,
            accepted_at: order.accepted_at,
            placed_at: placed.placed_at,
            currency: placed.currency.clone(),
            total_minor: placed.total_minor,
            lines: lines.collect(),
        },
    };
    let event_type = body.kind().to_owned();
    let event = Event { at: placed.placed_at, ..Event::of_job(context, body) };
    Ok(NewEventRow { id: event.id, event_type, message: serde_json::to_value(event.sealed())? })
}

/// In the microseconds that the database keeps.
fn as_kept(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}
