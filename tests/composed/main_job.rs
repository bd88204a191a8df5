use std::collections::BTreeSet;

use reqwest::{Client, StatusCode};
use sqlx::Row;

use crate::harness::{alice, attachment, database, mail_arrived, mails_about, sales, url};
use backing::containers::run;

/// One report from the POST to the inbox, looked at from every side.
#[tokio::test]
async fn a_report_is_accepted_at_once_made_of_the_real_rows_and_mailed() {
    let caller = alice();
    let response = caller.post("/v1/reports", &sales("2025-11-01", "2025-11-30")).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert!(response.headers().contains_key("retry-after"));
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let id = location.strip_prefix("/v1/jobs/").expect("the Location is the job").to_owned();

    // Its life as it happens, in order; the stream ends by itself.
    let events = caller.events(&id, None).await;
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    let names: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"job.queued"), Some(&"job.succeeded")), "{names:?}");
    assert!(names.contains(&"job.started"), "{names:?}");
    // Whoever was cut off goes on after what was heard last.
    let resumed = caller.events(&id, Some(ids[0])).await;
    assert_eq!(resumed.last().unwrap().id, *ids.last().unwrap());
    assert!(resumed.iter().all(|event| event.id > ids[0]));

    let job = caller.job(&id).await;
    assert_eq!((job["state"].as_str(), job["attempt"].as_u64()), (Some("succeeded"), Some(1)), "{job:#}");

    // The file: what it says is what the database says.
    let pdf = caller.pdf(&id).await;
    let path = std::env::temp_dir().join(format!("{id}.pdf"));
    std::fs::write(&path, &pdf).unwrap();
    let path = path.to_str().unwrap();
    let text = String::from_utf8(run("pdftotext", &["-layout", path, "-"]).stdout).unwrap();
    let figures = sqlx::query(
        "SELECT count(*) AS orders, sum(total_minor)::bigint AS revenue FROM orders
         WHERE status <> 'cancelled' AND placed_at >= '2025-11-01T00:00Z' AND placed_at < '2025-12-01T00:00Z'",
    );
    let mut database = database().await;
    let figures = figures.fetch_one(&mut database).await.unwrap();
    let (orders, revenue): (i64, i64) = (figures.get("orders"), figures.get("revenue"));
    assert!(orders > 1000, "the sample data is there");
    assert!(text.contains(&money(revenue)), "{} is not in the report:\n{text}", money(revenue));
    assert!(text.contains(&thousands(orders)), "{orders} is not in the report");
    let best: String = sqlx::query_scalar(
        "SELECT sku FROM orders JOIN order_items ON order_id = orders.id JOIN products ON products.id = product_id
         WHERE status <> 'cancelled' AND placed_at >= '2025-11-01T00:00Z' AND placed_at < '2025-12-01T00:00Z'
         GROUP BY sku ORDER BY sum(quantity * unit_price_minor) DESC LIMIT 1",
    )
    .fetch_one(&mut database)
    .await
    .unwrap();
    assert!(text.contains(&best), "the best product {best} is not in the report");

    // Every order of the period stands in the table, once; each page repeats its header and counts itself.
    let numbers: Vec<i64> = sqlx::query_scalar(
        "SELECT number FROM orders WHERE placed_at >= '2025-11-01T00:00Z' AND placed_at < '2025-12-01T00:00Z'
         ORDER BY total_minor DESC, number LIMIT 5000",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    let listed: Vec<i64> = text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    let listed: BTreeSet<i64> = listed.into_iter().filter(|number| *number > 1000).collect();
    assert_eq!(listed, numbers.into_iter().collect::<BTreeSet<_>>());
    let pages: Vec<&str> = text.split('\u{c}').filter(|page| !page.trim().is_empty()).collect();
    assert_eq!(job["result"]["pages"], pages.len());
    for (index, page) in pages.iter().enumerate() {
        assert!(page.contains(&format!("Page {} of {}", index + 1, pages.len())), "page {}", index + 1);
        assert!(index < 2 || page.contains("Customer"), "page {} has no table header", index + 1);
    }

    // The file keeps its promises: tagged, valid, every font in it.
    let info = String::from_utf8(run("pdfinfo", &[path]).stdout).unwrap();
    assert!(info.contains("Tagged:          yes"), "{info}");
    run("qpdf", &["--check", path]);
    let fonts = String::from_utf8(run("pdffonts", &[path]).stdout).unwrap();
    for font in fonts.lines().skip(2) {
        assert!(font.contains(" yes yes yes "), "not embedded, subset and mapped: {font}");
        assert!(!font.contains("Type 3"), "{font}");
    }

    // The mail: one, to the caller's own address, with the very file, and a link that works for whoever has it.
    let mails = mail_arrived(&id).await;
    assert_eq!(mails.len(), 1);
    let mail = &mails[0];
    assert_eq!(mail["to"][0]["address"], "alice@shop.example");
    assert_eq!(mail["attachments"][0]["contentType"], "application/pdf");
    assert!(attachment(mail).await == pdf, "the attachment is the file that can be downloaded");
    let words = mail["text"].as_str().unwrap().split_whitespace().map(|word| word.trim_matches(['<', '>']));
    let link = words.clone().find(|word| word.contains(&format!("/v1/reports/{id}/pdf?"))).expect("a link in the text");
    let linked = Client::new().get(link).send().await.unwrap();
    assert_eq!(linked.status(), StatusCode::OK);
    assert!(linked.bytes().await.unwrap() == pdf);
    let forged = Client::new().get(link.replace("signature=", "signature=0")).send().await.unwrap();
    assert_ne!(forged.status(), StatusCode::OK);
    let bare = Client::new().get(url(&format!("/v1/reports/{id}/pdf"))).send().await.unwrap();
    assert_eq!(bare.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(mails_about(&id).await.len(), 1);
    std::fs::remove_file(path).unwrap();
}

/// `€1,234,567.89`
fn money(minor: i64) -> String {
    format!("€{}.{:02}", thousands(minor / 100), minor % 100)
}

fn thousands(number: i64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}
