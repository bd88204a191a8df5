//! `order-worker`: does `order.place` in PostgreSQL. A library too, so that its tests can use the parts.

pub mod place_order;
pub mod settings;
