//! Which column is what, and the text that says so.

use super::profile::{Number, Profile};
use super::sample::Sample;
use super::words::{
    ACCOUNT, AMOUNT, COUNTRY, CREDIT, CURRENCY, DEBIT, DESCRIPTION, ID, MERCHANT, MINOR, QUANTITY,
    SIGNS, SYMBOLS, TIME, UNIT_PRICE, Words,
};
use crate::mapping::file::{Encoding, Format};
use crate::mapping::written::Delimiter;
use caudal_core::money::{Currency, MAX_SCALE};
use caudal_core::validate::{MAX_ID, MAX_TEXT};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// An id of so many characters is hardly one of its own in the whole world.
const SHORT_ID: usize = 12;
/// So many columns together tell lines apart; of more, those that a field takes.
const TELLING: usize = 12;
/// Longest name of the file before it.
const STEM: usize = 40;

/// Writes the draft.
pub(super) fn write(file: &str, sample: &Sample, profiles: &[Profile]) -> String {
    let mut draft = Draft { profiles, taken: BTreeSet::new(), out: String::new() };
    draft.head(file, sample);
    // The surest first: a column is one thing.
    let time = draft.event_time();
    let (amount, number) = draft.amount();
    let currency = draft.currency(number.as_ref());
    let account = draft.text("account_id", ACCOUNT, Some(stem(file)));
    let merchant = draft.text("merchant_id", MERCHANT, None);
    let country = draft.country();
    let description = draft.text("description", DESCRIPTION, None);
    let id = draft.id(file);
    let merchant = merchant.or_else(|| description.clone()).unwrap_or_else(|| {
        "constant = \"unknown\"  # guessed: no column looks like a merchant\n".to_owned()
    });
    draft.table("transaction_id", &id);
    draft.table("account_id", &account.unwrap_or_default());
    draft.table("merchant_id", &merchant);
    draft.out.push_str(&amount);
    draft.table("currency", &currency);
    draft.table("kind", "by_sign = true  # guessed: above zero PURCHASE, below REFUND\n");
    draft.table("event_time", &time);
    if let Some(country) = country {
        draft.table("country", &country);
    }
    if let Some(description) = description {
        draft.table("description", &description);
    }
    draft.out
}

struct Draft<'a> {
    profiles: &'a [Profile],
    taken: BTreeSet<usize>,
    out: String,
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn stem(file: &str) -> String {
    let stem = file.split('.').next().unwrap_or_default();
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let stem: String = stem.chars().map(fits).take(STEM).collect();
    if stem.is_empty() { "file".to_owned() } else { stem.to_lowercase() }
}

impl<'a> Draft<'a> {
    fn table(&mut self, name: &str, body: &str) {
        writeln!(self.out, "\n[{name}]\n{}", body.trim_end()).ok();
    }

    fn head(&mut self, file: &str, sample: &Sample) {
        let format = if sample.format == Format::Csv { "csv" } else { "ndjson" };
        writeln!(self.out, "source = {}\nformat = {format:?}", quoted(&stem(file))).ok();
        let csv = &sample.csv;
        let mut lines = Vec::new();
        match csv.delimiter {
            Delimiter::Is(b',') | Delimiter::Auto => {}
            Delimiter::Is(byte) => {
                lines.push(format!("delimiter = {}", quoted(&char::from(byte).to_string())));
            }
        }
        if csv.encoding == Encoding::Windows1252 {
            lines.push("encoding = \"windows-1252\"  # guessed: it is not UTF-8".into());
        }
        if csv.skip_lines > 0 {
            lines.push(format!(
                "skip_lines = {}  # guessed: the table begins after them",
                csv.skip_lines
            ));
        }
        if !csv.header {
            let names: Vec<String> = csv.columns.iter().map(|n| quoted(n)).collect();
            lines.push("header = false  # guessed: the first line has values".into());
            lines.push(format!("columns = [{}]", names.join(", ")));
        }
        let nulls: BTreeSet<&str> = self.profiles.iter().flat_map(|p| p.nulls.clone()).collect();
        if !nulls.is_empty() {
            let nulls: Vec<String> = nulls.into_iter().map(quoted).collect();
            lines.push(format!("null = [{}]  # guessed: they mean no value", nulls.join(", ")));
        }
        if sample.format == Format::Csv {
            self.out.push_str("# Columns that no field takes are kept as attributes.\n");
            self.out.push_str("other_columns = \"attributes\"\n");
        }
        if !lines.is_empty() {
            let table = if sample.format == Format::Csv { "csv" } else { "json" };
            self.table(table, &lines.join("\n"));
        }
    }

    /// The free column whose name says it most surely, of those that fit.
    fn best(&self, words: Words, fits: impl Fn(&Profile) -> bool) -> Option<usize> {
        let all = self.profiles.iter().enumerate();
        let free = all.filter(|(at, p)| !self.taken.contains(at) && p.values > 0 && fits(p));
        free.filter_map(|(at, p)| Some((p.says(words)?, at))).min().map(|(_, at)| at)
    }

    fn take(&mut self, at: usize) -> &'a Profile {
        self.taken.insert(at);
        &self.profiles[at]
    }

    fn event_time(&mut self) -> String {
        let dated = |p: &Profile| !p.times.is_empty();
        let named = self.best(TIME, dated);
        let plain = |p: &Profile| {
            p.times.first().is_some_and(|f| f.starts_with(['%', 'r']) && !f.ends_with("y%m%d"))
        };
        let any = || self.profiles.iter().position(plain);
        let Some(at) = named.or_else(any) else { return self.split_time() };
        let date = self.take(at);
        let format = date.times[0];
        let mut out = String::new();
        let day_only = !["H", "I", "unix", "rfc"].iter().any(|part| format.contains(part));
        let clock = self.best(TIME, |p| p.clock).filter(|_| day_only);
        let mut full = format.to_owned();
        if let Some(clock) = clock {
            let seconds = self.profiles[clock].longest > 5;
            let clock = self.take(clock);
            full = format!("{format} {}", if seconds { "%H:%M:%S" } else { "%H:%M" });
            writeln!(
                out,
                "template = {}",
                quoted(&format!("{{{}}} {{{}}}", date.name, clock.name))
            )
            .ok();
        } else {
            writeln!(out, "column = {}", quoted(&date.name)).ok();
        }
        write!(out, "format = {full:?}").ok();
        let others =
            date.times.iter().skip(1).filter(|f| f.starts_with('%') && f.contains("%m/%d"));
        match others.clone().next() {
            Some(other) => writeln!(out, "  # guessed: {other:?} fits as well").ok(),
            None => writeln!(out).ok(),
        };
        self.zone(&mut out, &full);
        out
    }

    fn zone(&self, out: &mut String, format: &str) {
        if format.contains('%') && !format.contains("%z") {
            writeln!(out, "time_zone = \"UTC\"  # guessed: such as \"Europe/Madrid\"").ok();
        }
    }

    /// Year, month and day in columns of their own.
    fn split_time(&mut self) -> String {
        let part = |words| self.best(words, |p| p.number.as_ref().is_some_and(|n| n.places == 0));
        let all = (
            part(&["year", "año", "jahr"]),
            part(&["month", "mes", "monat"]),
            part(&["day", "día", "dia", "tag"]),
        );
        let (Some(year), Some(month), Some(day)) = all else {
            return "template = \"2000-01-01T00:00:00Z\"  # guessed: NO COLUMN HAS A TIME, say which\n".into();
        };
        let names = [year, month, day].map(|at| self.take(at).name.clone());
        let clock = self.best(TIME, |p| p.clock);
        let mut template = format!("{{{}}}-{{{}}}-{{{}}}", names[0], names[1], names[2]);
        let mut format = "%Y-%m-%d".to_owned();
        if let Some(at) = clock {
            let clock = self.take(at);
            template += &format!(" {{{}}}", clock.name);
            format += if clock.longest > 5 { " %H:%M:%S" } else { " %H:%M" };
        }
        let mut out = format!("template = {}\nformat = {format:?}\n", quoted(&template));
        self.zone(&mut out, &format);
        out
    }

    /// The table, with its heading, and how its numbers are written.
    fn amount(&mut self) -> (String, Option<Number>) {
        let numeric = |p: &Profile| p.number.is_some();
        let pair = (self.best(CREDIT, numeric), self.best(DEBIT, numeric));
        if let (Some(credit), Some(debit)) = pair
            && self.profiles[credit].empty > 0
            && self.profiles[debit].empty > 0
        {
            let (credit, debit) = (self.take(credit), self.take(debit));
            let number = credit.number.clone();
            let body = format!(
                "positive = {}  # guessed: money out is a PURCHASE, above zero\nnegative = {}\n",
                quoted(&debit.name),
                quoted(&credit.name)
            );
            return self.amount_table(body, number);
        }
        if let Some(at) = self.best(AMOUNT, |p| numeric(p) && p.says(UNIT_PRICE).is_none()) {
            let column = self.take(at);
            let mut body = format!("column = {}\n", quoted(&column.name));
            let whole = column.number.as_ref().is_some_and(|n| n.places == 0);
            if whole && column.says(MINOR).is_some() {
                body += "minor_units = true  # guessed: cents, but whole yen\n";
            }
            return self.amount_table(body, column.number.clone());
        }
        if let (Some(quantity), Some(price)) =
            (self.best(QUANTITY, numeric), self.best(UNIT_PRICE, numeric))
        {
            let (quantity, price) = (self.take(quantity), self.take(price));
            let names = [&quantity.name, &price.name].map(|n| quoted(n));
            let body = format!("product = [{}]\n", names.join(", "));
            let places = quantity.number.as_ref().map_or(0, |n| n.places);
            let number = price.number.clone().map(|n| Number { places: n.places + places, ..n });
            return self.amount_table(body, number);
        }
        let any = |p: &Profile| p.number.as_ref().is_some_and(|n| n.places > 0);
        let free = |at: &usize| !self.taken.contains(at);
        let at = (0..self.profiles.len()).find(|at| free(at) && any(&self.profiles[*at]));
        let Some(at) = at.or_else(|| self.best(AMOUNT, numeric)) else {
            let nothing = "[amount]\ncolumn = \"AMOUNT\"  # guessed: NO COLUMN LOOKS LIKE AN AMOUNT\n\n[columns.AMOUNT]\noptional = true\n";
            return (format!("\n{nothing}"), None);
        };
        let column = self.take(at);
        let body = format!("column = {}  # guessed\n", quoted(&column.name));
        self.amount_table(body, column.number.clone())
    }

    fn amount_table(
        &mut self,
        mut body: String,
        number: Option<Number>,
    ) -> (String, Option<Number>) {
        let known = number.clone().unwrap_or_default();
        let doubt = if known.doubtful { "  # guessed: another notation fits as well" } else { "" };
        if known.decimal == ',' {
            writeln!(body, "decimal = \",\"{doubt}").ok();
        }
        if !known.thousands.is_empty() {
            writeln!(body, "thousands = {}{doubt}", quoted(known.thousands)).ok();
        }
        if !known.symbols.is_empty() {
            let symbols: Vec<String> = known.symbols.iter().map(|s| quoted(s)).collect();
            writeln!(body, "symbols = [{}]", symbols.join(", ")).ok();
        }
        if known.places > 2 {
            let why = "most decimals of the sample; nothing is rounded";
            writeln!(body, "scale = {}  # guessed: {why}", known.places.min(MAX_SCALE)).ok();
        }
        if !known.negatives
            && let Some((at, out, into)) = self.sign()
        {
            let name = quoted(&self.take(at).name);
            writeln!(
                body,
                "\n# guessed: money out is a PURCHASE, above zero\n[amount.sign]\ncolumn = \
                 {name}\npositive = [{}]\nnegative = [{}]",
                quoted(&out),
                quoted(&into)
            )
            .ok();
        }
        (format!("\n[amount]\n{body}"), number)
    }

    /// A column with two words that say the sign: money out, money in.
    fn sign(&self) -> Option<(usize, String, String)> {
        for (at, profile) in self.profiles.iter().enumerate() {
            let Some(words) = profile.words.as_ref().filter(|w| w.len() == 2) else { continue };
            let find = |wanted: &str| words.iter().find(|w| w.to_uppercase() == wanted).cloned();
            let found = SIGNS.iter().find_map(|(out, into)| Some((at, find(out)?, find(into)?)));
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn currency(&mut self, number: Option<&Number>) -> String {
        let codes = self.best(CURRENCY, |p| p.currencies);
        let any = || (0..self.profiles.len()).find(|at| self.profiles[*at].currencies);
        if let Some(at) = codes.or_else(any) {
            let column = self.take(at);
            let case = if column.lower { "case = \"upper\"\n" } else { "" };
            return format!("column = {}\n{case}", quoted(&column.name));
        }
        let symbols = number.map(|n| n.symbols.clone()).unwrap_or_default();
        let by_symbol = SYMBOLS.iter().find(|(symbol, _)| symbols.contains(symbol));
        let code = by_symbol.map_or("EUR", |(_, code)| *code);
        debug_assert!(Currency::parse(code).is_some());
        format!("constant = {code:?}  # guessed\n")
    }

    fn country(&mut self) -> Option<String> {
        let at = self.best(COUNTRY, |p| p.number.is_none())?;
        let column = self.take(at);
        let mut out = format!("column = {}\n", quoted(&column.name));
        if !column.countries {
            out += "# Names without a code go to attributes.country; [country.codes] translates them.\n";
        }
        Some(out)
    }

    fn text(&mut self, field: &str, words: Words, constant: Option<String>) -> Option<String> {
        let Some(at) = self.best(words, |p| p.times.is_empty() || p.number.is_some()) else {
            let constant = constant?;
            return Some(format!(
                "constant = {}  # guessed: no column looks like one\n",
                quoted(&constant)
            ));
        };
        let column = self.take(at);
        let mut out = format!("column = {}\n", quoted(&column.name));
        if column.empty > 0 && field != "description" {
            writeln!(out, "if_empty = \"unknown\"  # guessed: {} lines have none", column.empty)
                .ok();
        }
        let limit = if field == "description" { MAX_TEXT } else { 128 };
        if column.longest * 2 > limit {
            writeln!(out, "max_length = {limit}").ok();
        }
        Some(out)
    }

    fn id(&mut self, file: &str) -> String {
        let fits = |p: &Profile| p.unique && p.longest <= MAX_ID && p.times.is_empty();
        let number = |p: &Profile| p.unique && p.number.as_ref().is_some_and(|n| n.places == 0);
        if let Some(at) = self.best(ID, |p| fits(p) || number(p)) {
            let column = self.take(at);
            let mut out = format!("column = {}\n", quoted(&column.name));
            if column.longest <= SHORT_ID {
                let prefix = quoted(&format!("{}-", stem(file)));
                writeln!(out, "prefix = {prefix}  # guessed: other sources may have such ids too")
                    .ok();
            }
            return out;
        }
        // An id is sent as it is, and a plain hash of a card number can be undone by trying.
        let few = self.profiles.len() <= TELLING;
        let all = (0..self.profiles.len()).filter(|at| few || self.taken.contains(at));
        let all = all.map(|at| &self.profiles[at]);
        let names: Vec<String> = all.filter(|p| !p.cards).map(|p| quoted(&p.name)).collect();
        if names.is_empty() {
            return "file_and_line = true  # guessed: no column tells lines apart\n".into();
        }
        format!(
            "# guessed: no column tells lines apart; these together, and how often they came before\n\
             ordinal_of = [{}]\ndigest = true\n",
            names.join(", ")
        )
    }
}
