//! How an order is shown: as it was decided on, or as the job that places it stands.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use store::jobs::{JobRow, JobState};
use store::orders::{NewLine, Order, OrderStatus, Outcome, Placed, PricedLine, Refused};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::routes::jobs::is_cancelling;

/// An order, as its customer sees it.
#[derive(Serialize, ToSchema)]
#[schema(as = Order)]
pub(crate) struct OrderView {
    /// Its id, which is its job's.
    id: Uuid,
    /// How far it is.
    state: OrderState,
    /// Whether it is to be cancelled, which is not settled yet. Only of one that is `queued`.
    cancelling: bool,
    /// Whether the database could not be asked: an order that is shown as `placed` may be cancelled or shipped by now.
    perhaps_outdated: bool,
    /// Its number, for people; null until it is placed, like everything that is settled then.
    number: Option<i64>,
    /// When it was taken.
    accepted_at: DateTime<Utc>,
    /// When it was placed. What it costs was settled by the prices of this moment.
    placed_at: Option<DateTime<Utc>>,
    /// Where it goes, ISO 3166 alpha-2.
    #[schema(example = "DE")]
    country: Option<String>,
    /// ISO 4217, of every amount here.
    #[schema(example = "EUR")]
    currency: Option<String>,
    /// What it costs in all, in the currency's smallest unit.
    total_minor: Option<i64>,
    /// What was ordered, once it was placed or refused.
    items: Option<Vec<ItemView>>,
    /// Why it cannot be, if it was refused.
    refusal: Option<RefusalView>,
    /// Where to go from here.
    links: OrderLinks,
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OrderState {
    /// It was taken, and waits to be placed.
    Queued,
    /// It could not be placed for a fault of the shop's, which looks at it.
    Failed,
    /// It cannot be; `refusal` says why.
    Refused,
    /// It stands.
    Placed,
    /// And is paid for.
    Paid,
    /// It is on its way.
    Shipped,
    /// It has arrived.
    Delivered,
    /// Its customer wanted it no more.
    Cancelled,
}

/// Some pieces of a product.
#[derive(Serialize, ToSchema)]
#[schema(as = OrderItem)]
struct ItemView {
    /// The product's id.
    product_id: Uuid,
    /// The product's name today; absent where the order was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// How many pieces.
    quantity: u32,
    /// What one of them costs, in the currency's smallest unit; absent where the order was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    unit_price_minor: Option<i64>,
}

/// Why an order cannot be.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Refusal)]
struct RefusalView {
    /// For a program: `unknown-product`, `out-of-stock`, `several-currencies`, `total-too-large` or `unknown-customer`.
    #[schema(example = "out-of-stock")]
    code: String,
    /// For the customer, a sentence.
    #[schema(example = "\"Green tea\" is out of stock.")]
    reason: String,
}

/// Where to go from an order.
#[derive(Serialize, ToSchema)]
struct OrderLinks {
    /// The order itself.
    #[serde(rename = "self")]
    own: String,
    /// The job that places it; absent once that is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
}

impl OrderState {
    /// The name on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Placed => "placed",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
        }
    }

    /// Of the order that this job places.
    pub(super) fn of_job(state: JobState) -> Self {
        match state {
            JobState::Queued | JobState::Running | JobState::Retrying => Self::Queued,
            JobState::Succeeded => Self::Placed,
            JobState::Refused => Self::Refused,
            JobState::Cancelled => Self::Cancelled,
            JobState::Dead => Self::Failed,
        }
    }
}

impl From<OrderStatus> for OrderState {
    fn from(status: OrderStatus) -> Self {
        match status {
            OrderStatus::Placed => Self::Placed,
            OrderStatus::Paid => Self::Paid,
            OrderStatus::Shipped => Self::Shipped,
            OrderStatus::Delivered => Self::Delivered,
            OrderStatus::Cancelled => Self::Cancelled,
        }
    }
}

impl OrderView {
    /// How far it is.
    pub(super) fn state(&self) -> OrderState {
        self.state
    }

    /// Of which nothing is settled.
    fn unsettled(id: Uuid, state: OrderState, accepted_at: DateTime<Utc>) -> Self {
        Self {
            id,
            state,
            cancelling: false,
            perhaps_outdated: false,
            number: None,
            accepted_at,
            placed_at: None,
            country: None,
            currency: None,
            total_minor: None,
            items: None,
            refusal: None,
            links: OrderLinks { own: format!("/v1/orders/{id}"), job: None },
        }
    }
}

/// What was decided.
impl From<Order> for OrderView {
    fn from(Order { id, customer: _, accepted_at, outcome }: Order) -> Self {
        match outcome {
            Outcome::Placed(Placed { number, status, placed_at, country, currency, total_minor, lines }) => Self {
                number: Some(number),
                placed_at: Some(placed_at),
                country: Some(country),
                currency: Some(currency),
                total_minor: Some(total_minor),
                items: Some(lines.into_iter().map(ItemView::from).collect()),
                ..Self::unsettled(id, status.into(), accepted_at)
            },
            Outcome::Refused(Refused { code, reason, refused_at: _, lines }) => Self {
                items: Some(lines.into_iter().map(ItemView::from).collect()),
                refusal: Some(RefusalView { code, reason }),
                ..Self::unsettled(id, OrderState::Refused, accepted_at)
            },
        }
    }
}

/// As far as its job tells.
impl From<JobRow> for OrderView {
    fn from(job: JobRow) -> Self {
        let (state, cancelling) = (OrderState::of_job(job.state), is_cancelling(&job));
        let told = job.result.and_then(read::<Told>).unwrap_or_default();
        let order = Self {
            cancelling,
            perhaps_outdated: state == OrderState::Placed,
            number: told.number,
            placed_at: told.placed_at,
            currency: told.currency,
            total_minor: told.total_minor,
            refusal: job.error.filter(|_| state == OrderState::Refused).and_then(read),
            ..Self::unsettled(job.id, state, job.created_at)
        };
        Self { links: OrderLinks { job: Some(format!("/v1/jobs/{}", job.id)), ..order.links }, ..order }
    }
}

/// What the result of a job tells of the order that it placed.
#[derive(Default, Deserialize)]
struct Told {
    number: Option<i64>,
    placed_at: Option<DateTime<Utc>>,
    currency: Option<String>,
    total_minor: Option<i64>,
}

/// What a worker has told; nothing where it is of another form.
fn read<T: DeserializeOwned>(told: Value) -> Option<T> {
    serde_json::from_value(told).ok()
}

impl From<PricedLine> for ItemView {
    fn from(PricedLine { product_id, name, quantity, unit_price_minor }: PricedLine) -> Self {
        Self { product_id, name: Some(name), quantity, unit_price_minor: Some(unit_price_minor) }
    }
}

impl From<NewLine> for ItemView {
    fn from(NewLine { product_id, quantity }: NewLine) -> Self {
        Self { product_id, name: None, quantity, unit_price_minor: None }
    }
}
