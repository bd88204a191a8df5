use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::Value;
use service::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use web::Limits;

use crate::harness::{ALICE, BOB, Behind, DEADLINE, Web, november};

/// Times that a test can wait for; the service's own are 5 s and 8 s.
fn short() -> Behind {
    let limits = Limits { body_read: Duration::from_millis(300), ..Limits::default() };
    let http = http::Limits { header_read: Duration::from_millis(300), ..http::Limits::default() };
    Behind { limits, http, ..Behind::nothing() }
}

#[test]
fn a_slow_connection_is_closed_within_ten_seconds() {
    let (http, limits) = (http::Limits::default(), Limits::default());
    let ten = Duration::from_secs(10);
    assert!(http.header_read <= ten && limits.body_read <= ten && limits.answer <= ten);
    assert!(limits.answer < limits.last_wait, "what is answered in time is not cut off by a drain");
    assert!(limits.waiting < http.connections, "who waits leaves room for who asks");
}

/// Sends `start`, then one byte of `drip` every 20 ms, until the server closes; what it said, and after how long.
async fn drip(web: &Web, start: &str, drip: &[u8]) -> (String, Duration) {
    let (mut read, mut write) = TcpStream::connect(web.address).await.unwrap().into_split();
    let begun = Instant::now();
    write.write_all(start.as_bytes()).await.unwrap();
    let dripping = async {
        let mut every = interval(Duration::from_millis(20));
        for byte in drip.iter().cycle() {
            every.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut said = Vec::new();
    let closed = async {
        let mut piece = [0; 4096];
        // A reset is an end as well: the server does not read what it has not asked for.
        while let Ok(count @ 1..) = read.read(&mut piece).await {
            said.extend_from_slice(&piece[..count]);
        }
    };
    tokio::select! {
        () = dripping => {}
        closed = timeout(DEADLINE, closed) => closed.expect("the server closes the connection"),
    }
    (String::from_utf8_lossy(&said).into_owned(), begun.elapsed())
}

#[tokio::test]
async fn silent_half_sent_and_dripping_connections_are_closed() {
    let web = Web::start(short()).await;
    let post = format!(
        "POST /v1/reports HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ALICE}\r\nContent-Type: application/json\r\n"
    );
    let body = format!("{post}Content-Length: 1000\r\n\r\n");
    let chunked = format!("{post}Transfer-Encoding: chunked\r\n\r\n");
    let rows: [(&str, &str, &[u8], &str); 6] = [
        ("silent", "", b"", ""),
        ("half a header", "GET / HTTP/1.1\r\nHost: a\r\nX-Half", b"", ""),
        ("a dripping header", "GET / HTTP/1.1\r\nHost: a\r\nX-Drip: ", b"a", ""),
        ("a body that does not come", &body, b"", "408"),
        ("a dripping body", &body, b" ", "408"),
        ("dripping chunks", &chunked, b"1\r\n \r\n", "408"),
    ];
    for (name, start, bytes, status) in rows {
        let (said, after) =
            if bytes.is_empty() { drip(&web, start, &[]).await } else { drip(&web, start, bytes).await };
        assert!(after < Duration::from_secs(5), "{name}: {after:?}");
        assert_eq!(said.split(' ').nth(1).unwrap_or_default(), status, "{name}: {said}");
        if status == "408" {
            assert!(
                said.contains("application/problem+json") && said.contains("/problems/body-late"),
                "{name}: {said}"
            );
        }
    }
    // A connection that has been of use is closed as well when nothing comes after.
    let (said, after) = drip(&web, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[]).await;
    assert!(said.starts_with("HTTP/1.1 200") && after < Duration::from_secs(5), "{said}: {after:?}");
    web.stop().await;
}

#[tokio::test]
async fn slow_clients_do_not_keep_others_waiting() {
    let web = Web::start(Behind { http: http::Limits { connections: 40, ..short().http }, ..short() }).await;
    let slow: Vec<_> = futures_util::future::join_all((0..200).map(|_| TcpStream::connect(web.address))).await;
    assert_eq!(web.get("/").await.status(), StatusCode::OK);
    drop(slow);
    web.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_not_ready_in_time_is_a_503() {
    let limits = Limits { answer: Duration::from_millis(1), ..Limits::default() };
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let database_url = format!("postgres://a:b@{}/none", silent.local_addr().unwrap());
    let web = Web::start(Behind { limits, database_url, ..Behind::nothing() }).await;
    let response = web.get(&format!("/v1/reports/{}/pdf", uuid::Uuid::now_v7())).await;
    crate::harness::problem(response, 503, "late").await;
    web.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_does_not_hold_up_the_end() {
    let limits = Limits { last_wait: Duration::from_millis(300), ..Limits::default() };
    let web = Web::start(Behind { limits, ..Behind::nothing() }).await;
    let id = uuid::Uuid::now_v7();
    // More than fits into the buffers of a connection.
    web.files.put(&store::files::report_key(id), vec![b' '; 50_000_000].into()).await.unwrap();
    let url = web.links.url_for_report(id, Utc::now() + TimeDelta::days(1));
    let mut stream = TcpStream::connect(web.address).await.unwrap();
    let request = format!("GET {}?{} HTTP/1.1\r\nHost: a\r\n\r\n", url.path(), url.query().unwrap());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    timeout(DEADLINE, stream.read_exact(&mut begun)).await.unwrap().unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let asked = Instant::now();
    web.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_request_that_has_begun_is_answered_through_a_drain() {
    let web = Web::start(Behind::nothing()).await;
    let body = november().to_string();
    let mut stream = TcpStream::connect(web.address).await.unwrap();
    let head = format!(
        "POST /v1/reports HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {BOB}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // It is asked for its body: it has begun.
    let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    timeout(DEADLINE, stream.read_exact(&mut go_on)).await.unwrap().unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100"));
    web.drain.cancel();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["type"], "/problems/broker-unavailable");
    assert!(TcpStream::connect(web.address).await.is_err(), "nothing new is taken");
    web.stop().await;
}
