use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;
use store::sales::{Grouping, KeyFigures, OrderLine, RevenuePoint, TopProduct};

use super::{SalesReport, period_before};

fn date(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn point(start: &str, orders: i64, revenue_minor: i64) -> RevenuePoint {
    RevenuePoint { start: date(start), orders, revenue_minor }
}

fn order(number: i64, customer: &str, total_minor: i64) -> OrderLine {
    OrderLine {
        number,
        placed_at: at("2025-03-04T05:06:07Z"),
        customer: customer.to_owned(),
        country: "DE".to_owned(),
        items: 3,
        status: "paid".to_owned(),
        total_minor,
    }
}

fn empty() -> SalesReport<'static> {
    SalesReport {
        shop: "Corner Shop",
        currency: "EUR",
        from: date("2025-03-01"),
        to: date("2025-03-31"),
        grouping: Grouping::Day,
        made_at: at("2025-04-01T09:30:12Z"),
        figures: KeyFigures::default(),
        figures_before: KeyFigures::default(),
        revenue: &[],
        products: &[],
        orders: &[],
        orders_placed: 0,
    }
}

fn days(from: &str, count: usize, revenue_minor: i64) -> Vec<RevenuePoint> {
    date(from).iter_days().take(count).map(|start| RevenuePoint { start, orders: 1, revenue_minor }).collect()
}

fn labels(report: &SalesReport<'_>) -> Vec<String> {
    let data = report.data();
    let points = data["chart"]["points"].as_array().unwrap();
    points.iter().filter_map(|point| point["label"].as_str().map(str::to_owned)).collect()
}

#[test]
fn the_period_before_has_as_many_days_and_ends_the_day_before() {
    assert_eq!(period_before(date("2025-03-01"), date("2025-03-31")), (date("2025-01-29"), date("2025-02-28")));
    assert_eq!(period_before(date("2025-03-01"), date("2025-03-01")), (date("2025-02-28"), date("2025-02-28")));
}

#[test]
fn the_head_says_what_when_and_against_what() {
    let data = empty().data();
    assert_eq!(data["shop"], "Corner Shop");
    assert_eq!(data["period"], "March 2025");
    assert_eq!(data["compared_with"], "29 January – 28 February 2025");
    assert_eq!(data["made_at"], "1 April 2025, 09:30 UTC");
}

#[test]
fn key_figures_show_their_change() {
    let report = SalesReport {
        figures: KeyFigures { orders: 12, revenue_minor: 150_000, customers: 9, new_customers: 2, items: 30 },
        figures_before: KeyFigures { orders: 10, revenue_minor: 200_000, customers: 9, new_customers: 0, items: 31 },
        ..empty()
    };
    let shown = |figure: &Value| {
        let [label, value, previous] = ["label", "value", "previous"].map(|name| figure[name].as_str().unwrap());
        format!("{label} {value} {} {previous}", figure["change"]["text"].as_str().unwrap())
    };
    let data = report.data();
    let figures: Vec<_> = data["key_figures"].as_array().unwrap().iter().map(shown).collect();
    assert_eq!(
        figures,
        [
            "Revenue €1,500.00 −25.0% from €2,000.00",
            "Orders 12 +20.0% from 10",
            "Average order €125.00 −37.5% from €200.00",
            "Items sold 30 −3.2% from 31",
            "Customers 9 unchanged from 9",
            "New customers 2 new none before",
        ]
    );
}

#[test]
fn an_empty_period_has_every_part_and_no_numbers() {
    let revenue = days("2025-03-01", 31, 0);
    let data = SalesReport { revenue: &revenue, ..empty() }.data();
    assert_eq!(data["key_figures"][2]["value"], "–");
    assert_eq!(data["key_figures"][2]["change"]["text"], "–");
    assert_eq!(data["chart"]["summary"], "Nothing was sold in this period.");
    assert_eq!(data["chart"]["axis"].as_array().unwrap().len(), 1);
    assert_eq!(data["chart"]["points"][30]["at"], 0.0);
    assert_eq!(data["orders"]["note"], "No orders were placed in this period.");
}

#[test]
fn the_summary_names_the_best_group() {
    let revenue = [point("2025-03-01", 4, 5_000), point("2025-03-03", 1, 7_001), point("2025-03-10", 9, 7_001)];
    let report = SalesReport { grouping: Grouping::Week, to: date("2025-03-12"), revenue: &revenue, ..empty() };
    let data = report.data();
    let summary = data["chart"]["summary"].as_str().unwrap();
    assert_eq!(summary, "Best week: 3–9 March 2025 with €70.01 from 1 order. On average €63.34 a week.");
    assert!(data["chart"]["alt"].as_str().unwrap().ends_with(summary));

    let cut_off = [point("2025-03-03", 1, 5), point("2025-03-10", 2, 700)];
    let data = SalesReport { revenue: &cut_off, ..report }.data();
    assert!(
        data["chart"]["summary"].as_str().unwrap().starts_with("Best week: 10–12 March 2025 with €7.00 from 2 orders.")
    );
}

#[test]
fn few_points_are_bars_with_values_and_many_are_an_area() {
    let (few, many) = (days("2025-03-01", 13, 10), days("2025-03-01", 63, 10));
    let few = SalesReport { revenue: &few, ..empty() }.data();
    let many = SalesReport { revenue: &many, ..empty() }.data();
    assert_eq!((&few["chart"]["form"], &few["chart"]["points"][0]["value"]), (&"bars".into(), &"€0.10".into()));
    assert_eq!((&many["chart"]["form"], &many["chart"]["points"][0]["value"]), (&"area".into(), &Value::Null));
}

#[test]
fn labels_never_crowd() {
    for grouping in [Grouping::Day, Grouping::Week, Grouping::Month] {
        for count in 1..=366 {
            let revenue = days("2024-01-01", count, 10);
            let labels = labels(&SalesReport { grouping, revenue: &revenue, ..empty() });
            assert!((1..=13).contains(&labels.len()), "{grouping:?} {count}: {labels:?}");
        }
    }
}

#[test]
fn a_month_is_labelled_by_weeks_and_a_year_by_months() {
    let (month, year) = (days("2025-03-01", 31, 10), days("2025-01-01", 365, 10));
    let month = labels(&SalesReport { revenue: &month, ..empty() });
    let year = labels(&SalesReport { revenue: &year, ..empty() });
    assert_eq!(month, ["1 Mar", "8 Mar", "15 Mar", "22 Mar", "29 Mar"]);
    assert_eq!((year.len(), year[0].as_str(), year[11].as_str()), (12, "Jan 2025", "Dec 2025"));
}

#[test]
fn products_show_their_share_of_all_revenue() {
    let product = |name: &str, revenue_minor| TopProduct {
        sku: "A-1".to_owned(),
        name: name.to_owned(),
        quantity: 1_200,
        revenue_minor,
    };
    let products = [product("Lamp", 40_000), product("Chair", 10_000)];
    let figures = KeyFigures { revenue_minor: 100_000, orders: 5, ..KeyFigures::default() };
    let data = SalesReport { products: &products, figures, ..empty() }.data();
    let second = &data["products"][1];
    assert_eq!((second["rank"].as_str(), second["share"].as_str()), (Some("2"), Some("10.0%")));
    assert_eq!((second["quantity"].as_str(), second["fraction"].as_f64()), (Some("1,200"), Some(0.25)));
}

#[test]
fn an_order_is_a_row_of_text() {
    let orders = [order(100_001, "A customer whose name is far too long for one line", 123_456)];
    let data = SalesReport { orders: &orders, orders_placed: 1, ..empty() }.data();
    let row = ["100001", "4 Mar 2025 05:06", "A customer whose name is far too lo…", "DE", "paid", "3", "1,234.56"];
    assert_eq!(data["orders"]["rows"][0], serde_json::json!(row));
    assert_eq!(data["orders"]["header"][6], "Total (EUR)");
}

#[test]
fn the_note_says_when_only_the_largest_orders_are_listed() {
    let orders = vec![order(1, "Ann", 1); 3];
    let note = |placed| {
        let data = SalesReport { orders: &orders, orders_placed: placed, ..empty() }.data();
        data["orders"]["note"].as_str().unwrap().to_owned()
    };
    assert!(note(1_234).starts_with("The 3 largest of 1,234 orders, "));
    assert!(note(3).starts_with("All 3 orders, "));
}
