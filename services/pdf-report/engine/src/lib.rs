//! Makes one PDF document from a Typst template and its data, in a process that then ends.
//!
//! Nothing inside Typst can stop a template that wants all memory or all time, so each document has a process of its
//! own: it confines itself, parses the fonts, says that it is ready, reads one request from its standard input, answers
//! on its standard output, and is gone. [`protocol`] tells what is said. Nothing else links Typst, and the parent does
//! not link this library: the tests do.

mod confine;
mod fonts;
mod pack;
pub mod protocol;
mod render;
mod world;

use std::io::{self, Read, Write};
use std::process::ExitCode;

use self::confine::ProcessLimits;
use self::protocol::{Diagnostic, Failure, Frame, HEADER_BYTES, MAX_REQUEST_BYTES, Request};
use self::render::Engine;

/// The whole life of the process, given its arguments.
#[must_use]
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With its standard error gone as well there is nobody left to tell.
            drop(writeln!(io::stderr(), "pdf-engine: {error}"));
            ExitCode::from(2)
        }
    }
}

fn serve(arguments: impl Iterator<Item = String>) -> io::Result<()> {
    ProcessLimits::parse(arguments).map_err(io::Error::other)?.confine()?;
    let engine = Engine::boot();
    send(Frame::Ready)?;
    let Some(request) = receive()? else { return Ok(()) };
    let document = match serde_json::from_slice::<Request>(&request) {
        Ok(request) => engine.render(request, |pages| send(Frame::LaidOut { pages }))?,
        Err(error) => {
            let diagnostics = vec![Diagnostic::general(format!("the request cannot be read: {error}"))];
            Err(Failure::Template { diagnostics })
        }
    };
    send(document.map_or_else(Frame::Failed, Frame::Document))
}

/// The payload of the request, or `None` where the parent went away without one.
fn receive() -> io::Result<Option<Vec<u8>>> {
    let mut stdin = io::stdin().lock();
    let mut header = [0; HEADER_BYTES];
    match stdin.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let (kind, length) = protocol::parse_header(header);
    if kind != protocol::REQUEST || length > MAX_REQUEST_BYTES {
        return Err(io::Error::other("the first frame is no request, or too large"));
    }
    let mut payload = vec![0; length as usize];
    stdin.read_exact(&mut payload)?;
    Ok(Some(payload))
}

fn send(frame: Frame) -> io::Result<()> {
    let (kind, payload) = frame.into_parts();
    let mut stdout = io::stdout().lock();
    stdout.write_all(&protocol::header(kind, &payload))?;
    stdout.write_all(&payload)?;
    stdout.flush()
}
