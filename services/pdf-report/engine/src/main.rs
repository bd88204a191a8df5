//! A process that makes one PDF and ends; see the library's documentation.

use std::process::ExitCode;

fn main() -> ExitCode {
    pdf_engine::run(std::env::args().skip(1))
}
