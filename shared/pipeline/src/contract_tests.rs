//! The published contract, `docs/contract/`: a JSON Schema and a golden example for every message. Both are checked here, so
//! that a change of the wire is seen in review, and a message written by an older release can still be read.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use schemars::{JsonSchema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::events::{
    Event, EventBody, FailureReport, JobReference, PlacedLine, PlacedOrder, Progress, ReadyRendition, ReadyReport,
    ReadyVideo, Refusal, RunReference,
};
use crate::jobs::{
    FileReference, Grouping, Job, Message, Noop, OrderLine, OrderPlaced, OrderRefused, OrderedItem, Period, PlaceOrder,
    Recipient, RenderReport, ReportKind, ReportReady, SendEmail, TranscodeVideo, VideoReady, VideoRefused, VideoSource,
    VideoTitle,
};
use crate::topology;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/contract"))
}

/// Fails, and writes what it should be, when a file of the contract is not what the types say.
fn must_be(name: &str, wanted: &Value) {
    let path = folder().join(name);
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let wanted = format!("{wanted:#}\n");
    if found != wanted {
        std::fs::write(&path, wanted).unwrap();
        panic!("docs/contract/{name} was not what the types say; it is now: is it a change that others can live with?");
    }
}

/// The example in the file is read as `value`, and `value` is written as the example.
fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, value: &T) {
    let path = folder().join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        std::fs::write(&path, format!("{:#}\n", serde_json::to_value(value).unwrap())).unwrap();
        panic!("docs/contract/{name} was missing; look at what was written");
    };
    assert_eq!(&serde_json::from_str::<T>(&text).unwrap(), value, "{name} is read as something else");
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        serde_json::to_value(value).unwrap(),
        "{name} is written differently"
    );
}

fn schema<T: JsonSchema>(name: &str) {
    must_be(name, &schema_for!(T).to_value());
}

fn november() -> Period {
    Period::new("2025-11-01".parse().unwrap(), "2025-11-30".parse().unwrap()).unwrap()
}

fn alice() -> Recipient {
    Recipient {
        name: "Alice Example".to_owned().try_into().unwrap(),
        address: "alice@shop.example".to_owned().try_into().unwrap(),
    }
}

fn holiday() -> VideoTitle {
    "A week on Föhr".to_owned().try_into().unwrap()
}

const VIDEO: Uuid = Uuid::from_u128(0x0193_5a7c_1c00_7000_8000_0000_0000_0006);
const REPORT: Uuid = Uuid::from_u128(0x0193_5a7c_1c00_7000_8000_0000_0000_0001);
const ORDER: Uuid = Uuid::from_u128(0x0193_5a7c_1c00_7000_8000_0000_0000_0003);
const CUSTOMER: Uuid = Uuid::from_u128(0x0193_5a7c_1c00_7000_8000_0000_0000_0004);
const LAMP: Uuid = Uuid::from_u128(0x0193_5a7c_1c00_7000_8000_0000_0000_0005);

fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

#[test]
fn every_kind_of_job_has_its_schema_and_its_example() {
    let render =
        RenderReport { report: ReportKind::Sales, period: november(), group_by: Grouping::Day, recipient: alice() };
    schema::<RenderReport>("report.render.schema.json");
    golden("report.render.example.json", &render);

    let file = FileReference {
        key: format!("reports/{REPORT}.pdf"),
        name: "sales-2025-11-01--2025-11-30.pdf".to_owned(),
        content_type: "application/pdf".to_owned(),
        bytes: 412_345,
    };
    let ready = ReportReady {
        report_id: REPORT,
        title: "Sales report November 2025".to_owned(),
        period: november(),
        pages: 98,
        file,
    };
    schema::<SendEmail>("email.send.schema.json");
    golden("email.send.example.json", &SendEmail { to: alice(), message: Message::ReportReady(ready) });

    golden("email.send.welcome.example.json", &SendEmail { to: alice(), message: Message::Welcome });
    golden("email.send.address-taken.example.json", &SendEmail { to: alice(), message: Message::AddressTaken });

    let placed = OrderPlaced {
        order_id: ORDER,
        number: 150_001,
        placed_at: at("2025-12-01T08:00:01.500Z"),
        currency: "EUR".to_owned(),
        total_minor: 12_980,
        lines: vec![OrderedItem { name: "Desk lamp, dimmable".to_owned(), quantity: 2, unit_price_minor: 6490 }],
    };
    golden("email.send.order-placed.example.json", &SendEmail { to: alice(), message: Message::OrderPlaced(placed) });
    let refused = OrderRefused { order_id: ORDER, reason: "\"Desk lamp, dimmable\" is out of stock.".to_owned() };
    golden(
        "email.send.order-refused.example.json",
        &SendEmail { to: alice(), message: Message::OrderRefused(refused) },
    );

    let ready = VideoReady { video_id: VIDEO, title: holiday(), seconds: 754, file: "720p.mp4".to_owned() };
    golden("email.send.video-ready.example.json", &SendEmail { to: alice(), message: Message::VideoReady(ready) });
    let reason = "This file is no video that can be read.".to_owned();
    let refused = VideoRefused { video_id: VIDEO, title: holiday(), reason };
    golden(
        "email.send.video-refused.example.json",
        &SendEmail { to: alice(), message: Message::VideoRefused(refused) },
    );

    let source = VideoSource {
        key: format!("videos/{VIDEO}/source"),
        bytes: 73_400_320,
        sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
    };
    schema::<TranscodeVideo>("video.transcode.schema.json");
    golden("video.transcode.example.json", &TranscodeVideo { title: holiday(), source, recipient: alice() });

    let line = OrderLine { product_id: LAMP, quantity: 2.try_into().unwrap() };
    let items = vec![line].try_into().unwrap();
    schema::<PlaceOrder>("order.place.schema.json");
    golden(
        "order.place.example.json",
        &PlaceOrder { customer: CUSTOMER, items, accepted_at: at("2025-12-01T08:00:00.250Z") },
    );

    schema::<Noop>("noop.run.schema.json");
    golden("noop.run.example.json", &Noop { note: "hello".to_owned() });

    let described = [RenderReport::KIND, SendEmail::KIND, PlaceOrder::KIND, TranscodeVideo::KIND, Noop::KIND];
    for kind in topology::WORKERS.iter().flat_map(|row| row.kinds) {
        assert!(described.contains(kind), "{kind} is not part of the published contract");
    }
}

#[test]
fn every_event_has_its_example() {
    let happened = at("2025-12-01T08:00:00.250Z");
    let job =
        JobReference { id: REPORT, kind: "report.render".to_owned(), owner: Some("alice".to_owned()), caused_by: None };
    let run = RunReference {
        id: Uuid::from_u128(0x0193_5a7c_1c00_7000_8000_0000_0000_0002),
        worker: "pdf-report@host:1".to_owned(),
        replays: 0,
        attempt: 1,
        redeliveries: 0,
        sequence: 1,
    };
    let failure =
        || FailureReport { kind: "error".to_owned(), reason: "read the sales: no answer from the database".to_owned() };
    let ready = ReadyReport {
        id: REPORT,
        title: "Sales report November 2025".to_owned(),
        period: november(),
        key: format!("reports/{REPORT}.pdf"),
        pages: 98,
        bytes: 412_345,
    };
    let progress = Progress { phase: "reading orders".to_owned(), done: 1200, total: 4200 };
    let refusal = Refusal { code: "out-of-stock".to_owned(), reason: "The lamp is sold out.".to_owned() };
    let order_job =
        JobReference { id: ORDER, kind: "order.place".to_owned(), owner: Some(CUSTOMER.to_string()), caused_by: None };
    let order = PlacedOrder {
        id: ORDER,
        number: 150_001,
        customer: CUSTOMER,
        accepted_at: at("2025-12-01T08:00:00.250Z"),
        placed_at: at("2025-12-01T08:00:01.500Z"),
        currency: "EUR".to_owned(),
        total_minor: 12_980,
        lines: vec![PlacedLine { product_id: LAMP, quantity: 2, unit_price_minor: 6490 }],
    };
    let video_job = JobReference {
        id: VIDEO,
        kind: "video.transcode".to_owned(),
        owner: Some(CUSTOMER.to_string()),
        caused_by: None,
    };
    let rendition = |name: &str, width, height, bytes| ReadyRendition { name: name.to_owned(), width, height, bytes };
    let video = ReadyVideo {
        id: VIDEO,
        title: holiday(),
        millis: 754_320,
        folder: format!("videos/{VIDEO}"),
        renditions: vec![rendition("720p", 1280, 720, 231_004_112), rendition("480p", 854, 480, 98_220_800)],
    };
    let bodies = [
        (false, EventBody::Queued {}),
        (true, EventBody::Started {}),
        (true, EventBody::Progressed { progress }),
        (true, EventBody::Retrying { failure: failure(), delay_seconds: 5.0, next_attempt: 2 }),
        (true, EventBody::Succeeded { result: json!({"pages": 98}) }),
        (true, EventBody::Refused { refusal }),
        (true, EventBody::Cancelled {}),
        (true, EventBody::Dead { failure: failure() }),
        (false, EventBody::ReportReady { report: ready }),
        (false, EventBody::OrderPlaced { order }),
        (false, EventBody::VideoReady { video }),
    ];
    schema::<Event>("events.schema.json");
    for (from_a_run, body) in bodies {
        let name = format!("{}.example.json", body.kind());
        golden(
            &name,
            &Event {
                id: Uuid::nil(),
                trace: None,
                payload_hash: None,
                job: match body {
                    EventBody::OrderPlaced { .. } => order_job.clone(),
                    EventBody::VideoReady { .. } => video_job.clone(),
                    _ => job.clone(),
                },
                run: from_a_run.then(|| run.clone()),
                at: happened,
                body,
            },
        );
    }

    let mail = Uuid::new_v5(&REPORT, SendEmail::KIND.as_bytes());
    let mail_job = JobReference { id: mail, kind: SendEmail::KIND.to_owned(), caused_by: Some(REPORT), ..job };
    let result = json!({"message_id": format!("<{mail}@shop.example>")});
    let run = Some(RunReference { worker: "email-worker@host:1".to_owned(), ..run });
    let sent = Event { id: Uuid::nil(), at: happened, ..Event::new(mail_job, run, EventBody::Succeeded { result }) };
    golden("job.succeeded.caused.example.json", &sent);
}
