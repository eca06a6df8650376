//! A small file that looks like Online Retail, with the same quirks and known totals: for tests
//! and trials where the data itself is absent. Mapped by `config/sources/online-retail.toml`.

use crate::generate::{Dice, Zipf};
use std::io::{self, Write};

/// What the file contains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Lines, without the header.
    pub lines: u64,
    /// Exact sum of Quantity × UnitPrice, in thousandths.
    pub sum_thousandths: i128,
    /// Lines without a customer.
    pub anonymous: u64,
    /// Lines that repeat the one before exactly.
    pub repeats: u64,
    /// Lines on "C…" invoices.
    pub cancelled: u64,
    /// Lines whose price is zero.
    pub free: u64,
}

const COUNTRIES: [&str; 8] = [
    "United Kingdom",
    "United Kingdom",
    "EIRE",
    "RSA",
    "Germany",
    "Unspecified",
    "Channel Islands",
    "European Community",
];

const DESCRIPTIONS: [&str; 8] = [
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "AIRLINE LOUNGE,METAL SIGN",
    "RECORD FRAME 7\" SINGLE SIZE ",
    "FANCY FONT BIRTHDAY CARD, ",
    " 4 PURPLE FLOCK DINNER CANDLES",
    "VOUCHER £5 \"GIFT\"",
    "DOTCOM POSTAGE",
    "",
];

struct Invoice {
    number: String,
    customer: String,
    country: &'static str,
    minute: i64,
    left: u64,
}

/// Writes a header and `lines` lines.
///
/// # Errors
/// What `out` says.
pub fn write_csv(lines: u64, seed: u64, out: impl Write) -> io::Result<Totals> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record([
        "InvoiceNo",
        "StockCode",
        "Description",
        "Quantity",
        "InvoiceDate",
        "UnitPrice",
        "CustomerID",
        "Country",
    ])?;
    let mut shop = Shop::new(seed);
    let mut totals = Totals::default();
    let mut last: Option<Line> = None;
    while totals.lines < lines {
        let line = match last.take() {
            Some(line) if shop.dice.one_in(100) => {
                totals.repeats += 1;
                line
            }
            _ => shop.line(),
        };
        line.count(&mut totals);
        csv.write_record(&line.fields)?;
        last = Some(line);
    }
    csv.flush()?;
    Ok(totals)
}

struct Line {
    fields: [String; 8],
    amount_thousandths: i128,
    free: bool,
}

impl Line {
    fn count(&self, totals: &mut Totals) {
        totals.lines += 1;
        totals.sum_thousandths += self.amount_thousandths;
        totals.anonymous += u64::from(self.fields[6].is_empty());
        totals.cancelled += u64::from(self.fields[0].starts_with('C'));
        totals.free += u64::from(self.free);
    }
}

struct Shop {
    dice: Dice,
    articles: Zipf,
    invoices: u64,
    minute: i64,
    invoice: Invoice,
    /// Some invoices come back later.
    reserve: Vec<Invoice>,
}

impl Shop {
    fn new(seed: u64) -> Shop {
        let mut dice = Dice::new(seed);
        let invoice = open_invoice(&mut dice, 0, 0);
        Shop {
            dice,
            articles: Zipf::new(500, 100),
            invoices: 0,
            minute: 0,
            invoice,
            reserve: Vec::new(),
        }
    }

    fn line(&mut self) -> Line {
        if self.invoice.left == 0 {
            self.turn_page();
        }
        self.invoice.left -= 1;
        let article = self.articles.draw(&mut self.dice);
        let (quantity, price) = self.quantity_and_price();
        let amount_thousandths = i128::from(quantity) * i128::from(price);
        let description = self.dice.pick(&DESCRIPTIONS);
        let invoice = &self.invoice;
        let fields = [
            invoice.number.clone(),
            if article == 7 { "POST".into() } else { format!("{}A", 20_000 + article) },
            description.into(),
            quantity.to_string(),
            date(invoice.minute),
            price_text(price),
            invoice.customer.clone(),
            invoice.country.into(),
        ];
        Line { fields, amount_thousandths, free: price == 0 }
    }

    /// Quantity, and price in thousandths.
    fn quantity_and_price(&mut self) -> (i64, i64) {
        let quantity = self.dice.magnitude(0, 6);
        let price = self.dice.between(10, 2_000) * 10;
        match self.invoice.number.as_bytes().first() {
            Some(b'C') => (-quantity, price),
            // Bad debt: one piece, of a large and at times negative price.
            Some(b'A') => (1, price * if self.dice.one_in(3) { 100 } else { -100 }),
            _ => match self.dice.below(1_000) {
                0..=4 => (quantity, 0),
                5..=7 => (-quantity, 0),
                8 => (quantity, price + 1),
                _ => (quantity, price),
            },
        }
    }

    fn turn_page(&mut self) {
        self.minute += self.dice.between(0, 9);
        if self.reserve.len() > 20 {
            self.invoice = self.reserve.remove(0);
            return;
        }
        self.invoices += 1;
        self.invoice = open_invoice(&mut self.dice, self.invoices, self.minute);
        if self.dice.one_in(10) {
            let later = Invoice {
                number: self.invoice.number.clone(),
                customer: self.invoice.customer.clone(),
                left: 2,
                ..self.invoice
            };
            self.reserve.push(later);
        }
    }
}

fn open_invoice(dice: &mut Dice, index: u64, minute: i64) -> Invoice {
    let prefix = match dice.below(200) {
        0..=3 => "C",
        4 => "A",
        _ => "",
    };
    let customer = dice.between(12_346, 18_287);
    Invoice {
        number: format!("{prefix}{}", 536_365 + index),
        customer: if dice.one_in(4) { String::new() } else { format!("{customer}.0") },
        country: dice.pick(&COUNTRIES),
        minute,
        left: 1 + dice.below(20),
    }
}

/// Thousandths as the file writes them: `2.55`, `15.0`, `0.001`.
fn price_text(thousandths: i64) -> String {
    let sign = if thousandths < 0 { "-" } else { "" };
    let (whole, rest) = (thousandths.abs() / 1_000, thousandths.abs() % 1_000);
    let digits = format!("{rest:03}");
    let digits = digits.trim_end_matches('0');
    format!("{sign}{whole}.{}", if digits.is_empty() { "0" } else { digits })
}

fn date(minute: i64) -> String {
    let start = jiff::civil::date(2010, 12, 1).at(8, 26, 0, 0);
    let at = start.saturating_add(jiff::SignedDuration::from_mins(minute));
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
