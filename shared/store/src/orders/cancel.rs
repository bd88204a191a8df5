//! What becomes of an order that stands: cancelled by its customer, or shipped. Whichever comes first holds.

use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use super::{Order, OrderStatus, Outcome, find_in};
use crate::cache_invalidations;
use crate::database::{DatabaseError, call};
use crate::products::BEST_SELLERS;

/// What became of the wish to have an order cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// It is cancelled, now or since an earlier wish.
    Cancelled(Order),
    /// It is on its way, or has arrived.
    TooLate(OrderStatus),
    /// It was refused: there is nothing to cancel.
    Refused,
    /// The customer has no order of that id that was decided on. It may still be a job, and be cancelled as one.
    NotFound,
}

/// What became of the wish to have an order shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shipment {
    /// It is shipped, now or since earlier.
    Shipped(Order),
    /// It was cancelled or refused.
    NotStanding(Order),
    /// There is no order of that id that was decided on.
    NotFound,
}

/// Cancels an order that is not shipped, gives its pieces back, and names the cache entry of the best sellers: all or nothing.
///
/// # Errors
/// The database cannot be reached, or fails. Where no answer came the order may be cancelled.
pub async fn cancel(pool: &PgPool, id: Uuid, customer: Uuid) -> Result<Cancellation, DatabaseError> {
    call(pool, "cancel the order", async |connection| {
        let mut transaction = connection.begin().await?;
        let cancellation = cancel_in(&mut transaction, id, customer).await?;
        transaction.commit().await?;
        Ok(cancellation)
    })
    .await
}

async fn cancel_in(connection: &mut PgConnection, id: Uuid, customer: Uuid) -> Result<Cancellation, sqlx::Error> {
    lock(connection, id).await?;
    let Some(mut order) = find_in(connection, id).await?.filter(|order| order.customer == customer) else {
        return Ok(Cancellation::NotFound);
    };
    let Outcome::Placed(placed) = &mut order.outcome else {
        return Ok(Cancellation::Refused);
    };
    match placed.status {
        OrderStatus::Placed | OrderStatus::Paid => {}
        OrderStatus::Cancelled => return Ok(Cancellation::Cancelled(order)),
        late @ (OrderStatus::Shipped | OrderStatus::Delivered) => return Ok(Cancellation::TooLate(late)),
    }
    placed.status = OrderStatus::Cancelled;
    set_status(connection, id, placed.status).await?;
    give_back(connection, id).await?;
    cache_invalidations::put_in(connection, &BEST_SELLERS.entry()).await?;
    Ok(Cancellation::Cancelled(order))
}

/// Notes that an order is on its way.
///
/// # Errors
/// The database cannot be reached, or fails. Where no answer came the note may have been made.
pub async fn ship(pool: &PgPool, id: Uuid) -> Result<Shipment, DatabaseError> {
    call(pool, "ship the order", async |connection| {
        let mut transaction = connection.begin().await?;
        let shipment = ship_in(&mut transaction, id).await?;
        transaction.commit().await?;
        Ok(shipment)
    })
    .await
}

async fn ship_in(connection: &mut PgConnection, id: Uuid) -> Result<Shipment, sqlx::Error> {
    lock(connection, id).await?;
    let Some(mut order) = find_in(connection, id).await? else {
        return Ok(Shipment::NotFound);
    };
    let Outcome::Placed(placed) = &mut order.outcome else {
        return Ok(Shipment::NotStanding(order));
    };
    match placed.status {
        OrderStatus::Placed | OrderStatus::Paid => {}
        OrderStatus::Shipped | OrderStatus::Delivered => return Ok(Shipment::Shipped(order)),
        OrderStatus::Cancelled => return Ok(Shipment::NotStanding(order)),
    }
    placed.status = OrderStatus::Shipped;
    set_status(connection, id, placed.status).await?;
    Ok(Shipment::Shipped(order))
}

/// Waits until the order is ours to change. A statement of its own: the next one sees what others have done to it.
async fn lock(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT FROM orders WHERE id = $1 FOR NO KEY UPDATE").bind(id).execute(connection).await?;
    Ok(())
}

async fn set_status(connection: &mut PgConnection, id: Uuid, status: OrderStatus) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE orders SET status = $2 WHERE id = $1")
        .bind(id)
        .bind(status.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Puts the pieces back on the shelves, which are locked first, in the order in which everybody does.
async fn give_back(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query(
        "SELECT FROM products WHERE id IN (SELECT product_id FROM order_items WHERE order_id = $1)
         ORDER BY id FOR NO KEY UPDATE",
    )
    .bind(id)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE products SET stock = stock + pieces
         FROM (SELECT product_id, sum(quantity)::bigint AS pieces FROM order_items WHERE order_id = $1 GROUP BY product_id)
              AS back
         WHERE id = product_id",
    )
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}
