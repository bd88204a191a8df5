//! What the sales report says: from the store's numbers to the text, fractions and files that the template needs.
//! Pure; whatever is formatted is formatted here, because Typst would do it slowly once per cell.

mod chart;
mod format;

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde_json::{Value, json};
use store::sales::{Grouping, KeyFigures, OrderLine, RevenuePoint, TopProduct};

use self::format::{Change, amount, count, money, percent, shortened};
use crate::protocol::{FileContent, OutputLimits, Request, Standard};

/// The report's name, also as the title of the document.
pub const TITLE: &str = "Sales report";

/// How many orders are listed; with more, the largest. 5,000 take 90 pages, 1.3 MB, 2.5 s and 470 MB of memory.
pub const MAX_ORDERS: i64 = 5_000;

/// How many products are listed.
pub const MAX_PRODUCTS: i64 = 10;

/// Characters of a name that fit on one line of the table.
const NAME_CHARACTERS: usize = 36;

/// Characters of a product's name that fit on two lines of the table.
const PRODUCT_CHARACTERS: usize = 60;

/// All that is in one report.
#[derive(Clone, Debug)]
pub struct SalesReport<'a> {
    /// Whose report it is.
    pub shop: &'a str,
    /// ISO 4217 code of all money in the report.
    pub currency: &'a str,
    /// The first day.
    pub from: NaiveDate,
    /// The last day, included.
    pub to: NaiveDate,
    /// The steps of the chart.
    pub grouping: Grouping,
    /// When the job was accepted: the same for each attempt, so that each makes the same bytes.
    pub made_at: DateTime<Utc>,
    /// The period in numbers.
    pub figures: KeyFigures,
    /// The same for the [`period_before`].
    pub figures_before: KeyFigures,
    /// One point for each group of the period, in order.
    pub revenue: &'a [RevenuePoint],
    /// The best products, the best first.
    pub products: &'a [TopProduct],
    /// The orders listed, in order, cancelled ones included.
    pub orders: &'a [OrderLine],
    /// How many there are in the period, listed or not, cancelled ones included.
    pub orders_placed: i64,
}

/// The period of the same length that ends the day before; both days are included.
#[must_use]
pub fn period_before(from: NaiveDate, to: NaiveDate) -> (NaiveDate, NaiveDate) {
    let days = Days::new((to - from).num_days().unsigned_abs());
    let last = from.pred_opt().unwrap_or(from);
    (last.checked_sub_days(days).unwrap_or(last), last)
}

/// The days that a report covers, as one reads them: `1–15 March 2025`, `March 2025`.
#[must_use]
pub fn period_label(from: NaiveDate, to: NaiveDate) -> String {
    format::period(from, to)
}

impl SalesReport<'_> {
    /// What the engine needs to make the document.
    #[must_use]
    pub fn request(&self) -> Request {
        let text = |text: &str| FileContent::Text(text.to_owned());
        Request {
            main: "/sales.typ".to_owned(),
            files: BTreeMap::from([
                ("/sales.typ".to_owned(), text(include_str!("../templates/sales.typ"))),
                ("/theme.typ".to_owned(), text(include_str!("../templates/theme.typ"))),
                ("/charts.typ".to_owned(), text(include_str!("../templates/charts.typ"))),
            ]),
            data: self.data(),
            made_at: self.made_at,
            standards: Standard::DEFAULT.to_vec(),
            limits: OutputLimits::default(),
        }
    }

    /// The template's `/data.json`.
    fn data(&self) -> Value {
        let (before_from, before_to) = period_before(self.from, self.to);
        json!({
            "title": TITLE,
            "shop": self.shop,
            "period": format::period(self.from, self.to),
            "compared_with": format::period(before_from, before_to),
            "made_at": format::moment(self.made_at),
            "key_figures": self.key_figures(),
            "chart": chart::data(self),
            "products": self.product_rows(),
            "orders": {
                "note": self.orders_note(),
                "header": [
                    "Number", "Placed (UTC)", "Customer", "Country", "Status", "Items",
                    format!("Total ({})", self.currency),
                ],
                "rows": self.orders.iter().map(|order| self.order_row(order)).collect::<Vec<_>>(),
            },
        })
    }

    fn key_figures(&self) -> Vec<Value> {
        let (now, before) = (&self.figures, &self.figures_before);
        let in_money = |minor| money(minor, self.currency);
        let average = |figures: &KeyFigures| (figures.orders > 0).then(|| figures.revenue_minor / figures.orders);
        let average_shown = |minor: Option<i64>| minor.map_or_else(|| "–".to_owned(), in_money);
        let figure = |label: &str, value: String, previous: String, change: Change| {
            let previous = if change.has_before() { format!("from {previous}") } else { "none before".to_owned() };
            json!({
                "label": label,
                "value": value,
                "previous": previous,
                "change": { "direction": change.direction(), "text": change.to_string() },
            })
        };
        let counted =
            |label: &str, now: i64, before: i64| figure(label, count(now), count(before), Change::between(before, now));
        let (average_now, average_before) = (average(now), average(before));
        vec![
            figure(
                "Revenue",
                in_money(now.revenue_minor),
                in_money(before.revenue_minor),
                Change::between(before.revenue_minor, now.revenue_minor),
            ),
            counted("Orders", now.orders, before.orders),
            figure(
                "Average order",
                average_shown(average_now),
                average_shown(average_before),
                Change::between(average_before.unwrap_or(0), average_now.unwrap_or(0)),
            ),
            counted("Items sold", now.items, before.items),
            counted("Customers", now.customers, before.customers),
            counted("New customers", now.new_customers, before.new_customers),
        ]
    }

    fn product_rows(&self) -> Vec<Value> {
        let best = self.products.iter().map(|product| product.revenue_minor).max().unwrap_or(0);
        let row = |(index, product): (usize, &TopProduct)| {
            json!({
                "rank": (index + 1).to_string(),
                "name": shortened(&product.name, PRODUCT_CHARACTERS),
                "sku": shortened(&product.sku, NAME_CHARACTERS),
                "quantity": count(product.quantity),
                "revenue": money(product.revenue_minor, self.currency),
                "share": percent(product.revenue_minor, self.figures.revenue_minor),
                "fraction": format::fraction(product.revenue_minor, best),
            })
        };
        self.products.iter().enumerate().map(row).collect()
    }

    fn orders_note(&self) -> String {
        let listed = i64::try_from(self.orders.len()).unwrap_or(i64::MAX);
        let sorted = "in the order in which they were placed, cancelled ones included";
        match listed {
            0 => "No orders were placed in this period.".to_owned(),
            1 if self.orders_placed <= 1 => "The only order of the period.".to_owned(),
            _ if listed < self.orders_placed => {
                format!("The {} largest of {} orders, {sorted}.", count(listed), count(self.orders_placed))
            }
            _ => format!("All {} orders, {sorted}.", count(listed)),
        }
    }

    fn order_row(&self, order: &OrderLine) -> [String; 7] {
        [
            order.number.to_string(),
            format::short_moment(order.placed_at),
            shortened(&order.customer, NAME_CHARACTERS),
            order.country.clone(),
            order.status.clone(),
            count(order.items),
            amount(order.total_minor, self.currency),
        ]
    }
}

#[cfg(test)]
mod tests;
