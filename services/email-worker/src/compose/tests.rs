use chrono::{DateTime, Utc};
use mail_parser::{MessageParser, MimeHeaders};
use pipeline::jobs::{
    FileReference, Message, OrderPlaced, OrderRefused, OrderedItem, Period, ReportReady, SendEmail, VideoReady,
    VideoRefused,
};
use proptest::prelude::*;
use store::{LinkSettings, SignedLinks};
use uuid::Uuid;

use super::{Composer, Mail, StoredReport, length, size};
use crate::settings::Sender;

const JOB: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0007);
const REPORT: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001);
const VIDEO: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0009);

fn composer() -> Composer {
    let settings = LinkSettings {
        base_url: "https://shop.example".parse().unwrap(),
        secret: "an example secret of 32 bytes ok".into(),
    };
    let from = Sender::try_from("Postroom <postroom@shop.example>".to_owned()).unwrap();
    Composer::new(from, SignedLinks::new(&settings).unwrap()).unwrap()
}

fn ready() -> ReportReady {
    ReportReady {
        report_id: REPORT,
        title: "Sales report".to_owned(),
        period: Period::new("2025-01-01".parse().unwrap(), "2025-03-31".parse().unwrap()).unwrap(),
        pages: 12,
        file: FileReference {
            key: format!("reports/{REPORT}.pdf"),
            name: "sales 2025-01-01 to 2025-03-31.pdf".to_owned(),
            content_type: "application/pdf".to_owned(),
            bytes: 1,
        },
    }
}

fn job(ready: ReportReady) -> SendEmail {
    let to = serde_json::from_str(r#"{"name": "Alice Müller", "address": "alice@shop.example"}"#).unwrap();
    SendEmail { to, message: Message::ReportReady(ready) }
}

fn now() -> DateTime<Utc> {
    "2026-01-15T12:00:00Z".parse().unwrap()
}

fn attached(content: &[u8]) -> StoredReport {
    StoredReport { bytes: content.len() as u64, content: Some(content.to_vec()) }
}

fn link_only() -> StoredReport {
    StoredReport { bytes: 12_345_678, content: None }
}

fn compose(job: &SendEmail, report: StoredReport) -> Mail {
    composer().compose(JOB, job, Some(report), now()).unwrap()
}

fn parse(mail: &Mail) -> mail_parser::Message<'_> {
    MessageParser::default().parse(&mail.content).unwrap()
}

/// The names of the header fields that stand before the first empty line, unfolded as every mail program does.
fn field_names(content: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(content).unwrap();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    let fields = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
    fields.map(|line| line.split_once(':').unwrap().0.to_owned()).collect()
}

const FIELDS: [&str; 8] =
    ["From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"];

fn hostile() -> ReportReady {
    let mut ready = ready();
    ready.title =
        "{{ 7*7 }} <script>alert(1)</script> & \"so\"\r\nBcc: eve@evil.example\r\n\r\nPay here: http://evil.example"
            .to_owned();
    ready.file.name = "../{{ 7*7 }}<b>\r\nContent-Type: text/html\r\n\r\n.pdf".to_owned();
    ready.file.content_type = "application/pdf\r\nBcc: eve@evil.example".to_owned();
    ready
}

#[test]
fn the_texts_of_a_mail_with_its_file() {
    let mail = compose(&job(ready()), attached(&[7; 312_000]));
    let parsed = parse(&mail);
    insta::assert_snapshot!("subject", parsed.subject().unwrap());
    insta::assert_snapshot!("text", parsed.body_text(0).unwrap());
    insta::assert_snapshot!("html", parsed.body_html(0).unwrap());
}

#[test]
fn the_texts_of_the_mails_about_an_account() {
    for (name, message) in [("welcome", Message::Welcome), ("address_taken", Message::AddressTaken)] {
        let job = SendEmail { message, ..job(ready()) };
        let mail = composer().compose(JOB, &job, None, now()).unwrap();
        let parsed = parse(&mail);
        assert_eq!(field_names(&mail.content), FIELDS);
        insta::assert_snapshot!(format!("{name}_subject"), parsed.subject().unwrap());
        insta::assert_snapshot!(format!("{name}_text"), parsed.body_text(0).unwrap());
        insta::assert_snapshot!(format!("{name}_html"), parsed.body_html(0).unwrap());
    }
}

fn item(name: &str, quantity: u32, unit_price_minor: i64) -> OrderedItem {
    OrderedItem { name: name.to_owned(), quantity, unit_price_minor }
}

fn placed(lines: Vec<OrderedItem>) -> OrderPlaced {
    let placed_at = "2026-01-15T11:59:58Z".parse().unwrap();
    OrderPlaced {
        order_id: REPORT,
        number: 150_001,
        placed_at,
        currency: "EUR".to_owned(),
        total_minor: 132_470,
        lines,
    }
}

#[test]
fn the_texts_of_the_mails_about_an_order() {
    let lines = vec![item("Desk lamp, dimmable", 2, 6490), item("Tea & <b>biscuits</b>", 10, 11_949)];
    let reason = "\"Music box\" is out of stock.".to_owned();
    let messages = [
        ("order_placed", Message::OrderPlaced(placed(lines))),
        ("order_refused", Message::OrderRefused(OrderRefused { order_id: REPORT, reason })),
    ];
    for (name, message) in messages {
        let job = SendEmail { message, ..job(ready()) };
        let mail = composer().compose(JOB, &job, None, now()).unwrap();
        let parsed = parse(&mail);
        assert_eq!(field_names(&mail.content), FIELDS);
        insta::assert_snapshot!(format!("{name}_subject"), parsed.subject().unwrap());
        insta::assert_snapshot!(format!("{name}_text"), parsed.body_text(0).unwrap());
        insta::assert_snapshot!(format!("{name}_html"), parsed.body_html(0).unwrap());
    }
}

fn video_ready(title: &str, file: &str) -> Message {
    let title = title.to_owned().try_into().unwrap();
    Message::VideoReady(VideoReady { video_id: VIDEO, title, seconds: 754, file: file.to_owned() })
}

fn video_refused(title: &str, reason: &str) -> Message {
    let title = title.to_owned().try_into().unwrap();
    Message::VideoRefused(VideoRefused { video_id: VIDEO, title, reason: reason.to_owned() })
}

#[test]
fn the_texts_of_the_mails_about_a_video() {
    let hostile = "{{ 7*7 }} <script>alert(1)</script> & \"so\" \u{202e}4pm.exe";
    let injected = "No video.\r\nBcc: eve@evil.example\r\n\r\n<b>Pay here: http://evil.example</b>";
    let messages = [
        ("video_ready", video_ready("Holiday in Żywiec", "720p.mp4")),
        ("video_refused", video_refused("Holiday in Żywiec", "The file is no video that can be read.")),
        ("hostile_video_ready", video_ready(hostile, "../a?\"><script>\r\nBcc: eve@evil.example\r\n\r\n&amp;")),
        ("hostile_video_refused", video_refused(hostile, injected)),
    ];
    for (name, message) in messages {
        let job = SendEmail { message, ..job(ready()) };
        let mail = composer().compose(JOB, &job, None, now()).unwrap();
        let parsed = parse(&mail);
        assert_eq!(field_names(&mail.content), FIELDS);
        insta::assert_snapshot!(format!("{name}_subject"), parsed.subject().unwrap());
        insta::assert_snapshot!(format!("{name}_text"), parsed.body_text(0).unwrap());
        insta::assert_snapshot!(format!("{name}_html"), parsed.body_html(0).unwrap());
    }
}

#[test]
fn the_mail_of_the_longest_order_is_made() {
    let lines = (0..50).map(|_| item(&"ü".repeat(200), 1000, i64::MAX / 50_000)).collect();
    let job = SendEmail { message: Message::OrderPlaced(placed(lines)), ..job(ready()) };
    let mail = composer().compose(JOB, &job, None, now()).unwrap();
    assert_eq!(parse(&mail).body_text(0).unwrap().matches("1000 x ").count(), 50);
}

#[test]
fn a_mail_about_a_report_is_not_made_without_it() {
    assert!(composer().compose(JOB, &job(ready()), None, now()).is_err());
}

#[test]
fn the_texts_of_a_mail_with_a_link_alone() {
    let mail = compose(&job(ready()), link_only());
    let parsed = parse(&mail);
    insta::assert_snapshot!("text_link_only", parsed.body_text(0).unwrap());
    let html = parsed.body_html(0).unwrap();
    assert!(html.contains("too large to attach") && !html.contains("also attached"), "{html}");
}

#[test]
fn hostile_values_are_shown_and_do_nothing() {
    let mail = compose(&job(hostile()), attached(b"%PDF"));
    let parsed = parse(&mail);
    insta::assert_snapshot!("hostile_subject", parsed.subject().unwrap());
    insta::assert_snapshot!("hostile_text", parsed.body_text(0).unwrap());
    insta::assert_snapshot!("hostile_html", parsed.body_html(0).unwrap());
    assert_eq!(field_names(&mail.content), FIELDS);
    assert_eq!(parsed.attachment_count(), 1);
    let file = parsed.attachment(0).unwrap();
    assert_eq!(file.attachment_name(), Some("..-{{ 7*7 }}<b> Content-Type: text-html .pdf"));
    assert_eq!(file.content_type().unwrap().ctype(), "application");
    assert_eq!(file.content_type().unwrap().subtype(), Some("octet-stream"));
}

#[test]
fn the_headers_name_sender_reader_time_job_and_machine() {
    let mail = compose(&job(ready()), attached(b"%PDF"));
    assert_eq!(field_names(&mail.content), FIELDS);
    let parsed = parse(&mail);
    let from = parsed.from().unwrap().first().unwrap();
    assert_eq!((from.name(), from.address()), (Some("Postroom"), Some("postroom@shop.example")));
    let to = parsed.to().unwrap().first().unwrap();
    assert_eq!((to.name(), to.address()), (Some("Alice Müller"), Some("alice@shop.example")));
    assert_eq!(parsed.date().unwrap().to_timestamp(), now().timestamp());
    assert_eq!(parsed.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
    assert_eq!(mail.message_id, "<01920000-0000-7000-8000-000000000007@shop.example>");
    assert_eq!(parsed.header_raw("Message-ID").unwrap().trim(), mail.message_id);
    assert_eq!(AsRef::<str>::as_ref(mail.envelope.from().unwrap()), "postroom@shop.example");
    assert_eq!(mail.envelope.to().iter().map(ToString::to_string).collect::<Vec<_>>(), ["alice@shop.example"]);
}

#[test]
fn the_message_id_is_the_jobs_at_every_attempt_and_no_other_jobs() {
    let (composer, job) = (composer(), job(ready()));
    let id = |id, now| composer.compose(id, &job, Some(link_only()), now).unwrap().message_id;
    assert_eq!(id(JOB, now()), id(JOB, now() + chrono::TimeDelta::days(30)));
    assert_ne!(id(JOB, now()), id(REPORT, now()));
}

#[test]
fn the_link_opens_the_report_for_7_days_from_the_attempt() {
    let mail = compose(&job(ready()), link_only());
    let text = parse(&mail).body_text(0).unwrap().into_owned();
    let link: url::Url = text.lines().find(|line| line.starts_with("https://")).unwrap().trim().parse().unwrap();
    assert_eq!(link.path(), format!("/v1/reports/{REPORT}/pdf"));
    let expires = link.query_pairs().find(|(name, _)| name == "expires").unwrap().1.parse::<i64>().unwrap();
    assert_eq!(expires - now().timestamp(), 7 * 24 * 3600);
    assert!(text.contains("until 22 January 2026, 12:00 UTC"), "{text}");
}

#[test]
fn the_link_opens_the_video_for_7_days_from_the_attempt() {
    let job = SendEmail { message: video_ready("Holiday", "720p.mp4"), ..job(ready()) };
    let composer = composer();
    let mail = composer.compose(JOB, &job, None, now()).unwrap();
    let text = parse(&mail).body_text(0).unwrap().into_owned();
    let link: url::Url = text.lines().find(|line| line.starts_with("https://")).unwrap().trim().parse().unwrap();
    assert_eq!(link.path(), format!("/v1/videos/{VIDEO}/files/720p.mp4"));
    let find = |name: &str| link.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    let until = now() + chrono::TimeDelta::days(7);
    assert_eq!(find("expires"), until.timestamp().to_string());
    let check = |moment| composer.links.verify_video(VIDEO, until.timestamp(), &find("signature"), moment);
    assert_eq!(check(until - chrono::TimeDelta::seconds(1)), Ok(()));
    assert!(check(until).is_err());
    assert!(text.contains("until 22 January 2026, 12:00 UTC"), "{text}");
    let html = parse(&mail).body_html(0).unwrap().into_owned();
    assert_eq!(html.matches(&find("signature")).count(), 3, "behind the button, and to copy: {html}");
}

#[test]
fn an_attached_file_arrives_byte_for_byte() {
    // Every byte, dots that begin lines, and line ends of all kinds.
    let mut file: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    file.extend(b"\r\n.\r\n.\n..\r\r\n");
    let mail = compose(&job(ready()), attached(&file));
    let parsed = parse(&mail);
    let part = parsed.attachment(0).unwrap();
    assert_eq!(part.contents(), file);
    assert_eq!(part.attachment_name(), Some("sales 2025-01-01 to 2025-03-31.pdf"));
    assert_eq!(part.content_type().unwrap().subtype(), Some("pdf"));
    // Also one that is nothing but text, and has a name that is not.
    let mut ready = ready();
    ready.file.name = "Umsätze „2025“.pdf".to_owned();
    let mail = compose(&job(ready), attached(b"one\ntwo\rthree\r\nfour"));
    let parsed = parse(&mail);
    let part = parsed.attachment(0).unwrap();
    assert_eq!(part.contents(), b"one\ntwo\rthree\r\nfour");
    assert_eq!(part.attachment_name(), Some("Umsätze „2025“.pdf"));
}

#[test]
fn a_mail_is_ascii_and_of_short_lines() {
    let mut ready = ready();
    ready.title = "Übersicht ☃ ".repeat(300);
    let mail = compose(&job(ready), attached(&[200; 10_000]));
    assert!(mail.content.is_ascii());
    let longest = std::str::from_utf8(&mail.content).unwrap().split("\r\n").map(str::len).max().unwrap();
    assert!(longest <= 998, "a line of {longest}");
    assert!(!mail.content.windows(2).any(|pair| (pair[0] == b'\r') != (pair[1] == b'\n')), "a bare CR or LF");
}

#[test]
fn a_size_is_told_as_file_managers_do() {
    let sizes = [0, 999, 1_000, 312_499, 312_500, 999_499, 999_500, 1_000_000, 4_999_999, 12_345_678].map(size);
    let shown = ["0 bytes", "999 bytes", "1 kB", "312 kB", "313 kB", "999 kB", "1.0 MB", "1.0 MB", "5.0 MB", "12.3 MB"];
    assert_eq!(sizes, shown);
}

#[test]
fn the_length_of_a_video_is_told_without_what_is_zero() {
    let lengths = [0, 1, 59, 60, 61, 754, 3600, 3601, 3660, 36_754].map(length);
    let shown = ["less than 1 s", "1 s", "59 s", "1 min", "1 min 1 s", "12 min 34 s", "1 h", "1 h 1 s", "1 h 1 min"];
    assert_eq!(lengths[..9], shown);
    assert_eq!(lengths[9], "10 h 12 min 34 s");
}

proptest! {
    /// The same for a video.
    #[test]
    fn no_value_of_a_video_adds_a_header(
        title in "\\PC{1,200}",
        text in "(\\PC|\r|\n|:|\0|/|\"){0,300}",
        seconds in any::<u64>(),
    ) {
        let Ok(title) = title.try_into() else { return Ok(()) }; // Spaces alone: such a job is not even decoded.
        let refused = VideoRefused { video_id: VIDEO, title, reason: text.clone() };
        let ready = VideoReady { video_id: VIDEO, title: refused.title.clone(), seconds, file: text };
        for message in [Message::VideoReady(ready), Message::VideoRefused(refused)] {
            let mail = composer().compose(JOB, &SendEmail { message, ..job(self::ready()) }, None, now());
            let mail = mail.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
            prop_assert_eq!(field_names(&mail.content), FIELDS);
            prop_assert_eq!(mail.envelope.to().len(), 1);
            prop_assert!(mail.content.is_ascii());
        }
    }

    /// Whatever a job may carry, the mail has the fields that it should have, and one recipient.
    #[test]
    fn no_value_of_a_job_adds_a_header(
        name in any::<String>(),
        local in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}",
        domain in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,9}){0,3}",
        title in "(\\PC|\r|\n|:|\0){0,300}",
        file in "(\\PC|\r|\n|\"|;){0,300}",
        content_type in "([a-z]{1,9}/[a-z]{1,9}|\\PC*)(;|\r|\n|:|[a-z]|\"){0,30}",
    ) {
        let to = serde_json::from_value(serde_json::json!({ "name": name, "address": format!("{local}@{domain}") }));
        let Ok(to) = to else { return Ok(()) }; // No name or no address: such a job is not even decoded.
        let mut ready = ready();
        ready.title = title;
        ready.file.name = file;
        ready.file.content_type = content_type;
        let job = SendEmail { to, message: Message::ReportReady(ready) };
        let mail = composer().compose(JOB, &job, Some(attached(b"%PDF")), now());
        let mail = mail.map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        prop_assert_eq!(field_names(&mail.content), FIELDS);
        prop_assert_eq!(mail.envelope.to().len(), 1);
        prop_assert!(mail.content.is_ascii());
        prop_assert_eq!(parse(&mail).attachment(0).map(|part| part.contents().to_vec()), Some(b"%PDF".to_vec()));
    }
}
