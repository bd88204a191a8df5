//! A child without the renderer: every byte of the conversation.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

use pdf_engine::protocol::{self, Failure, Frame};

use super::{ENGINE, request};

/// A booted child.
pub(super) struct Child(std::process::Child);

impl Child {
    pub(super) fn start() -> Self {
        let mut process = Command::new(ENGINE)
            .args(["--memory-bytes=1073741824", "--cpu-seconds=60"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut header = [0; protocol::HEADER_BYTES];
        process.stdout.as_mut().unwrap().read_exact(&mut header).unwrap();
        assert_eq!(&header, b"R\0\0\0\0");
        Self(process)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends some bytes and nothing more, and waits for the child's end.
    fn say(mut self, bytes: &[u8]) -> Output {
        let mut stdin = self.0.stdin.take().unwrap();
        // A child that dislikes the beginning may not read the rest.
        drop(stdin.write_all(bytes));
        drop(stdin);
        self.0.wait_with_output().unwrap()
    }
}

/// All frames in some bytes.
fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let (kind, length) = protocol::parse_header(*header);
        let (payload, rest) = rest.split_at(length as usize);
        frames.push(Frame::from_parts(kind, payload.to_vec()).unwrap());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a header");
    frames
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&protocol::header(protocol::REQUEST, payload)[..], payload].concat()
}

#[test]
fn a_request_is_answered_by_its_pages_and_its_document() {
    let payload = serde_json::to_vec(&request("a #pagebreak() b")).unwrap();
    let output = Child::start().say(&framed(&payload));
    assert!(output.status.success(), "{output:?}");
    let frames = frames(&output.stdout);
    let [Frame::LaidOut { pages: 2 }, Frame::Document(pdf)] = &frames[..] else { panic!("{frames:?}") };
    assert!(pdf.starts_with(b"%PDF-1.7"));
}

#[test]
fn a_child_without_a_request_ends_well() {
    let output = Child::start().say(b"");
    assert!(output.status.success(), "{output:?}");
    assert_eq!((output.stdout.len(), output.stderr.len()), (0, 0));
}

#[test]
fn a_request_that_is_no_json_is_answered_with_what_is_wrong() {
    let output = Child::start().say(&framed(br#"{"main": 1}"#));
    let frames = frames(&output.stdout);
    let [Frame::Failed(Failure::Template { diagnostics })] = &frames[..] else { panic!("{frames:?}") };
    assert!(diagnostics[0].message.contains("expected a string"), "{diagnostics:?}");
}

#[test]
fn what_is_no_request_or_ends_early_is_not_answered() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"Q\xFF\xFF\xFF\xFF", b"Q\0\0\0\x09{}", b"Q\0"] {
        let output = Child::start().say(bytes);
        assert!(output.stdout.is_empty(), "{bytes:?}: {output:?}");
        if bytes != b"Q\0" {
            assert_eq!(output.status.code(), Some(2), "{bytes:?}: {output:?}");
        }
    }
}

#[test]
fn a_child_without_limits_does_not_start() {
    let output = Command::new(ENGINE).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("usage: "), "{output:?}");
}
