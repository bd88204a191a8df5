//! The report worker's parts: what a report says, and the renderer that makes a PDF of it.

#[path = "../engine/src/protocol.rs"]
pub mod protocol;
pub mod render_report;
pub mod renderer;
pub mod sales_report;
pub mod settings;
