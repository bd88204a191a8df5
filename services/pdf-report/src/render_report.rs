//! `report.render`: read the rows, make the PDF, store it, tell that it is ready, have it mailed.

use std::sync::Arc;

use futures_util::TryStreamExt;
use pipeline::events::{EventBody, ReadyReport};
use pipeline::jobs::{FileReference, Grouping, Job, Message, Period, RenderReport, ReportKind, ReportReady, SendEmail};
use pipeline::{Done, Event, Failure, Handler, JobContext, OrFail, OutgoingJob, PublishError, Publisher};
use serde_json::json;
use sqlx::PgPool;
use store::files::report_key;
use store::sales::{self, OrderLine};
use store::{DatabaseError, Files};
use worker::POSTGRES;

use crate::renderer::{Progress, RenderError, Rendered, Renderer};
use crate::sales_report::{MAX_ORDERS, MAX_PRODUCTS, SalesReport, TITLE, period_before, period_label};
use crate::settings::ShopSettings;

/// A row's progress is told once in so many rows.
const ROWS_A_STEP: usize = 100;

/// Makes reports. The file's name is the job's id: a report that is made twice is one file.
pub struct RenderReportHandler {
    /// Where the rows are.
    pub pool: PgPool,
    /// Where the file goes.
    pub files: Files,
    /// What makes the PDF.
    pub renderer: Arc<Renderer>,
    /// Where the mail is asked for.
    pub publisher: Publisher,
    /// Whose report it is.
    pub shop: ShopSettings,
}

impl Handler for RenderReportHandler {
    type Job = RenderReport;

    async fn run(&self, job: RenderReport, context: &JobContext) -> Result<Done, Failure> {
        let stopped = context.cancelled().cancelled();
        let rendered = tokio::select! {
            rendered = self.make(&job, context) => rendered?,
            // Later it is too late: a file that is stored is mailed.
            () = stopped => return Err(Failure::retry("told to stop")),
        };
        let title = format!("{TITLE} {}", period_label(job.period.from(), job.period.to()));
        let report = ReadyReport {
            id: context.id(),
            title,
            period: job.period,
            key: report_key(context.id()),
            pages: rendered.pages,
            bytes: rendered.pdf.len() as u64,
        };
        store_file(&self.files, &report.key, rendered).await?;
        let result = json!({
            "title": report.title, "period": report.period, "pages": report.pages, "bytes": report.bytes, "name": file_name(job.period),
        });
        // The mail is asked for before the report is told to be ready: whoever hears of the one may count on the other.
        self.ask_for_mail(&job, &report, context).await.or_retry("ask for the mail")?;
        let ready = Event::of_job(context, EventBody::ReportReady { report });
        self.publisher.publish_event(&ready).await.or_retry("tell that the report is ready")?;
        Ok(Done::with_result(result))
    }
}

impl RenderReportHandler {
    async fn make(&self, job: &RenderReport, context: &JobContext) -> Result<Rendered, Failure> {
        let request = match job.report {
            ReportKind::Sales => self.sales_request(job, context).await?,
        };
        self.render(request, context).await
    }

    /// Reads everything in one snapshot, so that the figures, the chart and the table agree.
    async fn sales_request(
        &self,
        job: &RenderReport,
        context: &JobContext,
    ) -> Result<crate::protocol::Request, Failure> {
        let (from, to) = (job.period.from(), job.period.to());
        let (before_from, before_to) = period_before(from, to);
        let currency = self.shop.currency.as_str();
        let grouping = grouping(job.group_by);
        let read = async {
            let mut snapshot = sales::begin_report_snapshot(&self.pool).await?;
            let orders_placed = sales::orders_placed(&mut snapshot, from, to, currency).await?;
            let figures = sales::key_figures(&mut snapshot, from, to, currency).await?;
            let figures_before = sales::key_figures(&mut snapshot, before_from, before_to, currency).await?;
            let revenue = sales::revenue_by(&mut snapshot, from, to, grouping, currency).await?;
            let products = sales::top_products(&mut snapshot, from, to, currency, MAX_PRODUCTS).await?;
            let listed = u64::try_from(orders_placed.min(MAX_ORDERS)).unwrap_or_default();
            let mut orders: Vec<OrderLine> = Vec::new();
            {
                let mut rows = std::pin::pin!(sales::orders(&mut snapshot, from, to, currency, MAX_ORDERS));
                while let Some(row) = rows.try_next().await? {
                    orders.push(row);
                    if orders.len().is_multiple_of(ROWS_A_STEP) {
                        context.progress("reading orders", orders.len() as u64, listed);
                    }
                }
            }
            let report = SalesReport {
                shop: &self.shop.name,
                currency,
                from,
                to,
                grouping,
                made_at: context.accepted_at(),
                figures,
                figures_before,
                revenue: &revenue,
                products: &products,
                orders: &orders,
                orders_placed,
            };
            Ok::<_, DatabaseError>(report.request())
        };
        read.await.or_unavailable(POSTGRES, "read the sales")
    }

    async fn render(&self, request: crate::protocol::Request, context: &JobContext) -> Result<Rendered, Failure> {
        let tell = |progress| match progress {
            Progress::Started => context.progress("laying out pages", 0, 0),
            Progress::LaidOut { pages } => context.progress("writing pages", 0, u64::from(pages)),
        };
        self.renderer.render(&request, tell).await.map_err(|error| classify(&error, context.attempt()))
    }

    /// Its id derives from the report's job: however often that runs, it is one mail.
    async fn ask_for_mail(
        &self,
        job: &RenderReport,
        report: &ReadyReport,
        context: &JobContext,
    ) -> Result<(), PublishError> {
        let file = FileReference {
            key: report.key.clone(),
            name: file_name(job.period),
            content_type: "application/pdf".to_owned(),
            bytes: report.bytes,
        };
        let ready = ReportReady {
            report_id: report.id,
            title: report.title.clone(),
            period: report.period,
            pages: report.pages,
            file,
        };
        let mail = OutgoingJob {
            owner: context.owner().map(ToOwned::to_owned),
            correlation_id: Some(context.id()),
            accepted_at: context.accepted_at(),
            trace: Some(context.trace().clone()),
            ..OutgoingJob::new(
                context.child_id(SendEmail::KIND),
                SendEmail { to: job.recipient.clone(), message: Message::ReportReady(ready) },
            )
        };
        self.publisher.publish_job(&mail).await
    }
}

async fn store_file(files: &Files, key: &str, rendered: Rendered) -> Result<(), Failure> {
    files.put(key, rendered.pdf).await.or_retry("store the report")
}

/// What is wrong with the document will be wrong again; what may have been the machine's bad moment gets one more try.
fn classify(error: &RenderError, attempt: u32) -> Failure {
    let reason = format!("make the PDF: {error}");
    match error {
        RenderError::Template { .. } | RenderError::TooLarge(_) => Failure::reject(reason),
        RenderError::OutOfMemory { .. } | RenderError::TimedOut { .. } if attempt > 1 => Failure::reject(reason),
        RenderError::OutOfMemory { .. } | RenderError::TimedOut { .. } => Failure::retry(reason),
        RenderError::Crashed { .. } | RenderError::Unavailable(_) => Failure::retry(reason),
    }
}

/// The name under which a person keeps it.
fn file_name(period: Period) -> String {
    format!("sales-{}--{}.pdf", period.from(), period.to())
}

fn grouping(group_by: Grouping) -> sales::Grouping {
    match group_by {
        Grouping::Day => sales::Grouping::Day,
        Grouping::Week => sales::Grouping::Week,
        Grouping::Month => sales::Grouping::Month,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bad_template_is_a_defect_and_a_bad_moment_gets_one_more_try() {
        let slow = || RenderError::TimedOut { clock: "wall", limit: Duration::from_secs(1) };
        let crashed = || RenderError::Crashed { status: "signal 9".to_owned(), stderr: String::new() };
        assert!(matches!(classify(&RenderError::Template { diagnostics: Vec::new() }, 1), Failure::Reject { .. }));
        assert!(matches!(classify(&slow(), 1), Failure::Retry { .. }));
        assert!(matches!(classify(&slow(), 2), Failure::Reject { .. }));
        assert!(matches!(classify(&crashed(), 4), Failure::Retry { .. }));
    }

    #[test]
    fn a_report_is_kept_under_its_period() {
        let period = Period::new("2025-11-01".parse().unwrap(), "2025-11-30".parse().unwrap()).unwrap();
        assert_eq!(file_name(period), "sales-2025-11-01--2025-11-30.pdf");
    }
}
