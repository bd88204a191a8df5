//! `dispatcher`: sends what is due and sweeps what is old. A library too, so that its tests can use the parts.

pub mod due;
pub mod schedules;
pub mod sender;
pub mod settings;
pub mod sweeper;
