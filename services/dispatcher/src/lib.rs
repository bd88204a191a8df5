//! `dispatcher`: sends what is due, ends what is cached of what was changed, sweeps what is old. A library too, so that its tests can use the parts.

pub mod due;
pub mod invalidator;
pub mod schedules;
pub mod sender;
pub mod settings;
pub mod sweeper;
