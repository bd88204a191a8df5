//! What a child gave up before it read anything.

use std::io::Read;
use std::process::{Command, Stdio};

use pdf_report::renderer::Renderer;
use rustix::process::{Pid, Signal, kill_process};

use super::by_hand::Child;
use super::{ENGINE, children, own_limits, until};

#[test]
fn a_waiting_child_is_limited_in_everything() {
    let child = Child::start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.pid())).unwrap();
    let row = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[name.len()..].split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("Max address space"), "1073741824 1073741824");
    assert_eq!(row("Max cpu time"), "60 61");
    assert_eq!(row("Max core file size"), "0 0");
    assert_eq!(row("Max file size"), "0 0");
    assert_eq!(row("Max open files"), "3 3");
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
    assert!(status.contains("Threads:\t1\n"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_of_the_renderer_sees_no_environment() {
    let limits = own_limits();
    let renderer = Renderer::new(ENGINE, 1, limits);
    until("a child waits", || renderer.idle() == 1).await;
    let pid = children(&limits)[0].as_raw_nonzero();
    assert_eq!(std::fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
}

#[test]
fn a_child_dies_with_its_parent() {
    // The shell is the parent. The test keeps the child's standard input open, so that its end does not tell the child.
    let script = format!("{ENGINE} --memory-bytes=1073741824 --cpu-seconds=60 <&3 & wait");
    let (stdin, _keep_open) = std::io::pipe().unwrap();
    let mut shell = Command::new("/bin/sh")
        .args(["-c", &format!("exec 3<&0; {script}")])
        .stdin(stdin)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = shell.stdout.take().unwrap();
    let mut ready = [0; 5];
    stdout.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"R\0\0\0\0");
    kill_process(Pid::from_child(&shell), Signal::KILL).unwrap();
    shell.wait().unwrap();
    // Ends when the last process that holds the other end is gone.
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(stdout.read_to_end(&mut Vec::new()).unwrap()));
    assert_eq!(ended.recv_timeout(super::DEADLINE), Ok(0), "the child outlived its parent");
}
