//! What is in a document, read back by another library.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, Utc};
use lopdf::{Dictionary, Document, Object};
use pdf_report::protocol::{FileContent, Request};
use pdf_report::sales_report::SalesReport;
use store::sales::{Grouping, KeyFigures, OrderLine, RevenuePoint, TopProduct};

use super::{render, request, standard_request};

const NAMES: [&str; 6] = ["Łukasz Żółć", "Ελένη Παπαδοπούλου", "محمد العربي", "שרה כהן", "王小明", "Ann 🎉\u{0} Lee"];

/// A sales report of a month.
fn sales_report(orders: usize) -> Request {
    let from: NaiveDate = "2025-03-01".parse().unwrap();
    let days = 31;
    let revenue: Vec<_> = (0..days)
        .map(|day| RevenuePoint {
            start: from + Days::new(day),
            orders: 3,
            revenue_minor: 100_000 + 7_000 * (day as i64 % 5),
        })
        .collect();
    let noon: DateTime<Utc> = "2025-03-01T12:00:00Z".parse().unwrap();
    let orders: Vec<_> = (0..orders)
        .map(|index| OrderLine {
            number: 100_000 + index as i64,
            placed_at: noon + Days::new(index as u64 % days),
            customer: NAMES[index % NAMES.len()].to_owned(),
            country: "DE".to_owned(),
            items: 2,
            status: "paid".to_owned(),
            total_minor: 1_234_500 + index as i64,
        })
        .collect();
    let product = TopProduct { sku: "A-1".to_owned(), name: "Lamp".to_owned(), quantity: 5, revenue_minor: 10_000 };
    let report = SalesReport {
        shop: "Corner Shop",
        currency: "EUR",
        from,
        to: from + Days::new(days - 1),
        grouping: Grouping::Day,
        made_at: "2025-04-01T09:30:12Z".parse().unwrap(),
        figures: KeyFigures { orders: 93, revenue_minor: 3_500_000, customers: 60, new_customers: 5, items: 200 },
        figures_before: KeyFigures::default(),
        revenue: &revenue,
        products: &[product],
        orders: &orders,
        orders_placed: orders.len() as i64,
    };
    report.request()
}

async fn document(request: &Request) -> Document {
    Document::load_mem(&render(request).await.unwrap().pdf).unwrap()
}

/// The dictionaries of all objects with this entry.
fn with_entry<'a>(document: &'a Document, key: &[u8], name: &[u8]) -> Vec<&'a Dictionary> {
    let dictionaries = document.objects.values().filter_map(|object| match object {
        Object::Dictionary(dictionary) => Some(dictionary),
        Object::Stream(stream) => Some(&stream.dict),
        _ => None,
    });
    dictionaries.filter(|dictionary| dictionary.get(key).and_then(Object::as_name).is_ok_and(|is| is == name)).collect()
}

#[tokio::test]
async fn the_same_request_gives_the_same_bytes() {
    let request = sales_report(20);
    let (first, second) = (render(&request).await.unwrap(), render(&request).await.unwrap());
    assert!(first.pdf == second.pdf, "two renders differ");
}

#[tokio::test]
async fn the_time_is_the_requests_own() {
    let clock = "#assert.eq(datetime.today(), datetime(year: 2025, month: 4, day: 1))";
    let document = document(&request(clock)).await;
    let information = document.trailer.get(b"Info").and_then(|info| document.dereference(info)).unwrap().1;
    let created = information.as_dict().unwrap().get(b"CreationDate").unwrap();
    assert_eq!(created.as_str().unwrap(), b"D:20250401093012Z");
}

#[tokio::test]
async fn a_template_reads_its_data_and_its_files() {
    // One white pixel.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg==";
    let template = "#assert.eq(json(\"/data.json\").rows.at(1), \"b\")\n#image(\"/logo.png\", alt: \"logo\")";
    let files = BTreeMap::from([
        ("/main.typ".to_owned(), FileContent::Text(template.to_owned())),
        ("/logo.png".to_owned(), FileContent::Base64(png.to_owned())),
    ]);
    let data = serde_json::json!({ "rows": ["a", "b"] });
    let document = document(&Request { files, data, ..request("") }).await;
    assert_eq!(with_entry(&document, b"Subtype", b"Image").len(), 1);
}

#[tokio::test]
async fn a_sales_report_conforms_to_what_it_promises() {
    let document = document(&sales_report(20)).await;
    let metadata = with_entry(&document, b"Type", b"Metadata");
    assert_eq!(metadata.len(), 1);
    let catalog = document.catalog().unwrap();
    let metadata = document.get_object(catalog.get(b"Metadata").and_then(Object::as_reference).unwrap()).unwrap();
    // PDF/A wants it readable by whoever cannot unpack a PDF.
    let metadata = String::from_utf8_lossy(&metadata.as_stream().unwrap().content).into_owned();
    for promise in ["<pdfaid:part>3</", "<pdfaid:conformance>B</", "<pdfuaid:part>1</"] {
        assert!(metadata.contains(promise), "{promise} in {metadata}");
    }
    assert!(catalog.has(b"StructTreeRoot") && catalog.has(b"OutputIntents"), "{catalog:?}");
    assert_eq!(catalog.get(b"Lang").and_then(Object::as_str).unwrap(), b"en");
    let fonts = with_entry(&document, b"Type", b"FontDescriptor");
    assert!(fonts.len() >= 5, "a font of each script and weight: {}", fonts.len());
    assert!(fonts.iter().all(|font| font.has(b"FontFile2") || font.has(b"FontFile3")), "a font is not embedded");
}

#[tokio::test]
async fn the_tables_of_a_sales_report_are_tables_for_a_screen_reader_too() {
    let document = document(&sales_report(100)).await;
    assert_eq!(with_entry(&document, b"S", b"Table").len(), 2);
    // Two headers, one product, 100 orders.
    assert_eq!(with_entry(&document, b"S", b"TR").len(), 103);
    assert_eq!(with_entry(&document, b"S", b"TH").len(), 6 + 7);
    let figures = with_entry(&document, b"S", b"Figure");
    assert_eq!(figures.len(), 1, "the chart");
    assert!(figures[0].has(b"Alt"));
}

#[tokio::test]
async fn a_long_sales_report_stays_small() {
    let rendered = render(&sales_report(600)).await.unwrap();
    // Unpacked it is 800 KB.
    assert!(rendered.pdf.len() < 250_000, "{} bytes", rendered.pdf.len());
    assert!(rendered.pages > 10, "{} pages", rendered.pages);
}

#[tokio::test]
async fn data_of_any_script_conforms_and_is_shown() {
    let unusual = "ﷺ لا إلا ﻼ ǅ ʼn Ω\u{301} \u{1F1E9}\u{1F1EA} 👩\u{200D}👧 \u{FEFF}\u{E000}\u{7}\u{85}\u{2028} क्षि ไทย 한국어 ㍿ ½ ﬁ \u{AD} \u{202E}abc";
    let body = "#json(\"/data.json\")";
    let request = Request { data: unusual.into(), ..standard_request(body) };
    render(&request).await.unwrap();
}

#[tokio::test]
async fn a_period_without_orders_has_a_report_of_one_page() {
    let request = sales_report(0);
    assert_eq!(render(&request).await.unwrap().pages, 1);
}
