//! Makes a mail out of a job: its texts, its headers, the file. Sends nothing and reads nothing.

use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use lettre::address::Envelope;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart};
use minijinja::context;
use pipeline::jobs::{
    EmailAddress, Message, OrderPlaced, OrderRefused, OrderedItem, Period, PersonName, ReportReady, SendEmail,
    VideoReady, VideoRefused,
};
use store::SignedLinks;
use store::money::money;
use uuid::Uuid;

use crate::line::Line;
use crate::settings::Sender;
use crate::templates::{Templates, Texts};

/// A file of this many bytes or more is not attached: many servers refuse mails above 10 MB, and a file grows by a
/// third on its way into one.
pub const TOO_LARGE_TO_ATTACH: u64 = 5_000_000;

/// How long the link in a mail works.
const LINK_WORKS: Duration = Duration::from_secs(7 * 24 * 3600);

/// A mail that is ready to be sent.
#[derive(Clone)]
pub struct Mail {
    /// `<job id@domain of the sender>`: the same however often the job is tried.
    pub message_id: String,
    /// From whom and to whom, for the relay.
    pub envelope: Envelope,
    /// Headers and body, in ASCII, its lines ended by CR LF.
    pub content: Vec<u8>,
}

/// The report that a mail is about, as it lies in the store.
#[derive(Clone, Debug)]
pub struct StoredReport {
    /// Its size.
    pub bytes: u64,
    /// Its content, where it is to be attached.
    pub content: Option<Vec<u8>>,
}

/// Makes mails.
pub struct Composer {
    from: Sender,
    links: SignedLinks,
    templates: Templates,
}

impl Composer {
    /// Mails come from `from`, and their links are made by `links`.
    ///
    /// # Errors
    /// A template is none.
    pub fn new(from: Sender, links: SignedLinks) -> anyhow::Result<Self> {
        Ok(Self { from, links, templates: Templates::new().context("read the templates")? })
    }

    /// The mail of the job `id`, dated `now`; `report` is the one that it is about, if it is about one.
    ///
    /// Its date is that of the attempt, not that of the job: after an outage, or replayed by an operator, a mail with
    /// the old date would sink in the inbox, count as spam, and bring a link that no longer works. What tells a mail
    /// sent twice from two mails is the `Message-ID`.
    ///
    /// # Errors
    /// A template fails, the relay's protocol cannot express an address, or a mail about a report comes without one. Another attempt would fail
    /// too.
    pub fn compose(
        &self,
        id: Uuid,
        job: &SendEmail,
        report: Option<StoredReport>,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Mail> {
        let name = &job.to.name;
        let (texts, file) = match (&job.message, report) {
            (Message::ReportReady(ready), Some(report)) => {
                let texts = self.report_ready(name, ready, &report, now)?;
                (texts, report.content.map(|content| (&ready.file, content)))
            }
            (Message::ReportReady(_), None) => bail!("there is no report to tell of"),
            (Message::Welcome, _) => (self.to_person("welcome", name)?, None),
            (Message::AddressTaken, _) => (self.to_person("address-taken", name)?, None),
            (Message::OrderPlaced(order), _) => (self.order_placed(name, order)?, None),
            (Message::OrderRefused(order), _) => (self.order_refused(name, order)?, None),
            (Message::VideoReady(video), _) => (self.video_ready(name, video, now)?, None),
            (Message::VideoRefused(video), _) => (self.video_refused(name, video)?, None),
        };
        let domain = self.from.address.as_str().rsplit('@').next().unwrap_or_default();
        let message_id = format!("<{id}@{domain}>");
        let to = mailbox(&job.to.name, &job.to.address).context("address the mail")?;
        let from = mailbox(&self.from.name, &self.from.address).context("address the sender")?;
        let envelope =
            Envelope::new(Some(from.email.clone()), vec![to.email.clone()]).context("address the envelope")?;
        let alternative = MultiPart::alternative_plain_html(texts.text, texts.html);
        let body = match file {
            None => alternative,
            Some((file, content)) => {
                let name = Line::file_name(&file.name).to_string();
                // lettre encodes bytes as base64, whatever they are.
                let content_type = media_type(&file.content_type)?;
                MultiPart::mixed().multipart(alternative).singlepart(Attachment::new(name).body(content, content_type))
            }
        };
        let message = lettre::Message::builder()
            .from(from)
            .to(to)
            .subject(Line::new(&texts.subject).to_string())
            .date(now.into())
            .message_id(Some(message_id.clone()))
            .header(AutoSubmitted)
            .envelope(envelope.clone())
            .multipart(body)
            .context("build the mail")?;
        Ok(Mail { message_id, envelope, content: message.formatted() })
    }

    /// A mail that says nothing but whom it is for.
    fn to_person(&self, template: &'static str, name: &PersonName) -> anyhow::Result<Texts> {
        let values = context! { name => Line::new(name.as_str()).as_str() };
        self.templates.render(template, values).with_context(|| format!("render the template \"{template}\""))
    }

    fn order_placed(&self, name: &PersonName, order: &OrderPlaced) -> anyhow::Result<Texts> {
        let lines = order.lines.iter().map(|line| {
            let OrderedItem { name, quantity, unit_price_minor } = line;
            let each = money(*unit_price_minor, &order.currency);
            let together = money(unit_price_minor.saturating_mul(i64::from(*quantity)), &order.currency);
            context! { name => Line::new(name).as_str(), quantity, each => Line::new(&each).as_str(), together => Line::new(&together).as_str() }
        });
        let values = context! {
            name => Line::new(name.as_str()).as_str(),
            number => order.number,
            placed_at => order.placed_at.format("%-d %B %Y, %H:%M UTC").to_string(),
            lines => lines.collect::<Vec<_>>(),
            total => Line::new(&money(order.total_minor, &order.currency)).as_str(),
        };
        self.templates.render("order-placed", values).context("render the template \"order-placed\"")
    }

    fn order_refused(&self, name: &PersonName, order: &OrderRefused) -> anyhow::Result<Texts> {
        let values = context! {
            name => Line::new(name.as_str()).as_str(),
            reason => Line::sentence(&order.reason).as_str(),
        };
        self.templates.render("order-refused", values).context("render the template \"order-refused\"")
    }

    fn report_ready(
        &self,
        name: &PersonName,
        ready: &ReportReady,
        report: &StoredReport,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Texts> {
        let link_until = now + LINK_WORKS;
        let values = context! {
            name => Line::new(name.as_str()).as_str(),
            title => Line::new(&ready.title).as_str(),
            period => days(&ready.period),
            pages => ready.pages,
            file_name => Line::file_name(&ready.file.name).as_str(),
            size => size(report.bytes),
            attached => report.content.is_some(),
            link => self.links.url_for_report(ready.report_id, link_until).as_str(),
            link_until => link_until.format("%-d %B %Y, %H:%M UTC").to_string(),
        };
        self.templates.render("report-ready", values).context("render the template \"report-ready\"")
    }

    fn video_ready(&self, name: &PersonName, video: &VideoReady, now: DateTime<Utc>) -> anyhow::Result<Texts> {
        let link_until = now + LINK_WORKS;
        let values = context! {
            name => Line::new(name.as_str()).as_str(),
            title => Line::new(video.title.as_str()).as_str(),
            length => length(video.seconds),
            link => self.links.url_for_video(video.video_id, &video.file, link_until).as_str(),
            link_until => link_until.format("%-d %B %Y, %H:%M UTC").to_string(),
        };
        self.templates.render("video-ready", values).context("render the template \"video-ready\"")
    }

    fn video_refused(&self, name: &PersonName, video: &VideoRefused) -> anyhow::Result<Texts> {
        let values = context! {
            name => Line::new(name.as_str()).as_str(),
            title => Line::new(video.title.as_str()).as_str(),
            reason => Line::sentence(&video.reason).as_str(),
        };
        self.templates.render("video-refused", values).context("render the template \"video-refused\"")
    }
}

/// Tells mail programs that nobody wrote this, so that no holiday notice answers it (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Only from what was parsed when the job was read: lettre panics over a name with a line break.
fn mailbox(name: &PersonName, address: &EmailAddress) -> anyhow::Result<Mailbox> {
    Ok(Mailbox::new(Some(Line::new(name.as_str()).to_string()), address.as_str().parse()?))
}

/// What is no media type, or one of mails within mails, is a file like any other.
fn media_type(text: &str) -> anyhow::Result<ContentType> {
    let known =
        ContentType::parse(text).ok().filter(|_| !text.starts_with("multipart/") && !text.starts_with("message/"));
    match known {
        Some(known) => Ok(known),
        None => ContentType::parse("application/octet-stream").context("name the media type"),
    }
}

fn days(period: &Period) -> String {
    let day = |date: chrono::NaiveDate| date.format("%-d %B %Y").to_string();
    if period.from() == period.to() {
        day(period.from())
    } else {
        format!("{} to {}", day(period.from()), day(period.to()))
    }
}

/// In the units of file managers: 1 kB is 1000 bytes.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..999_500 => format!("{} kB", (bytes + 500) / 1_000),
        _ => {
            let tenths = (bytes + 50_000) / 100_000;
            format!("{}.{} MB", tenths / 10, tenths % 10)
        }
    }
}

/// `1 h 2 min 3 s`, without what is zero.
fn length(seconds: u64) -> String {
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "min"), (seconds % 60, "s")];
    let parts: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count} {unit}")).collect();
    if parts.is_empty() { "less than 1 s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests;
