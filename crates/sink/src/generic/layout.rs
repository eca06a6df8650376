//! From the fields of a schema to columns: which there are, what they are called, and the way through
//! a value that meets each of them.

use super::target::Target;
use super::value::{self, Unfit};
use crate::columns::Cell;
use caudal_core::avro::Reader;
use caudal_core::avro_schema::Type;
use caudal_core::reject::{Reason, Rejection};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How columns are called, as Debezium's `column.naming.style`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// As the fields are.
    #[default]
    Default,
    /// In lower case.
    LowerCase,
    /// Words in lower case with underscores between: `orderId` is `order_id`.
    SnakeCase,
}

/// What becomes of records within a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nested {
    /// A column for each of their fields: `field_inner`.
    #[default]
    Flatten,
    /// One column of type jsonb.
    Jsonb,
}

/// How columns are made of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Naming {
    /// Letters.
    pub style: Style,
    /// Records within records.
    pub nested: Nested,
    /// Other names: of fields, or of `field.inner`.
    pub renames: BTreeMap<String, String>,
}

impl Naming {
    fn column(&self, path: &[&str]) -> Result<String, String> {
        let whole = path.join(".");
        let name = match self.renames.get(&whole) {
            Some(name) => name.clone(),
            None => match self.style {
                Style::Default => path.join("_"),
                Style::LowerCase => path.join("_").to_lowercase(),
                Style::SnakeCase => snake_case(&path.join("_")),
            },
        };
        match name.len() {
            1..=63 if !name.contains(['"', '\0']) => Ok(name),
            _ => Err(format!(
                "field {whole}: {name:?} is no name of a column of 1 to 63 bytes; name another \
                 under column.rename"
            )),
        }
    }
}

fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let begins = before.is_some_and(|b| b.is_lowercase() || b.is_numeric())
            || before.is_some_and(char::is_uppercase)
                && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && begins {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// A column that a schema gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its name in the table.
    pub name: String,
    /// Type of its values.
    pub of: Type,
    /// Which branch of its union is null, where it is one of null and `of`.
    pub null: Option<i64>,
    /// Whether it can be NULL: by itself, or because the record that it is in can.
    pub nullable: bool,
}

impl Given {
    /// The symbols that a value can be, where it is an enum.
    #[must_use]
    pub fn symbols(&self) -> Option<&Arc<[String]>> {
        match &self.of {
            Type::Enum(symbols) => Some(symbols),
            _ => None,
        }
    }
}

/// A step of the way through a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A value for that column of [`Layout::columns`].
    Column(usize),
    /// The fields of a record, which is null where the union says that branch.
    Record(Vec<(String, Step)>, Option<i64>),
}

/// The columns of a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// In the order of the schema.
    pub columns: Vec<Given>,
    /// The way.
    pub root: Step,
}

impl Layout {
    /// Of a schema; one that is no record is one column of the name that `single` says.
    ///
    /// # Errors
    /// In words: no record, two fields with one name, or a name that no column can have.
    pub fn of(schema: &Type, naming: &Naming, single: Option<&str>) -> Result<Layout, String> {
        let mut layout = Layout { columns: Vec::new(), root: Step::Column(0) };
        layout.root = match (schema, single) {
            (Type::Record(_), _) => layout.step(schema, naming, &mut Vec::new(), false)?,
            (_, Some(name)) => layout.column(schema, name.to_owned(), false)?,
            (_, None) => return Err("the schema is no record, so it has no columns".into()),
        };
        if layout.columns.is_empty() {
            return Err("the schema has no fields, so a row would have no columns".into());
        }
        Ok(layout)
    }

    fn step<'t>(
        &mut self,
        of: &'t Type,
        naming: &Naming,
        path: &mut Vec<&'t str>,
        nullable: bool,
    ) -> Result<Step, String> {
        let optional = of.optional();
        let (inner, null) = optional.map_or((of, None), |(of, null)| (of, Some(null)));
        let flat = path.is_empty() || naming.nested == Nested::Flatten;
        let Some(fields) = inner.fields().filter(|_| flat) else {
            return self.column(of, naming.column(path)?, nullable);
        };
        let mut steps = Vec::with_capacity(fields.len());
        for (name, of) in fields {
            path.push(name);
            let step = self.step(of, naming, path, nullable || null.is_some())?;
            path.pop();
            steps.push((name.clone(), step));
        }
        Ok(Step::Record(steps, null))
    }

    fn column(&mut self, of: &Type, name: String, nullable: bool) -> Result<Step, String> {
        if self.columns.iter().any(|column| column.name == name) {
            return Err(format!("two fields would be column {name}; rename one (column.rename)"));
        }
        let (inner, null) = of.optional().map_or((of, None), |(of, null)| (of, Some(null)));
        let nullable = nullable || of.is_nullable();
        self.columns.push(Given { name, of: inner.clone(), null, nullable });
        Ok(Step::Column(self.columns.len() - 1))
    }
}

/// A layout, and where its columns are in the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// The layout.
    pub layout: Layout,
    /// Place and type of each column in the table; `None`: the table takes it from elsewhere.
    pub places: Vec<Option<(usize, Target)>>,
}

impl Bound {
    /// Reads an Avro body into a row's cells.
    ///
    /// # Errors
    /// A [`Rejection`] that names the column, never its value.
    pub fn read_avro<'a>(&self, body: &'a [u8], cells: &mut [Cell<'a>]) -> Result<(), Rejection> {
        let mut input = Reader::new(body);
        self.read_step(&self.layout.root, &mut input, cells)?;
        input.end().map_err(|e| self.rejection(0, Unfit::Bytes(e)))
    }

    /// Reads a text into the cell of the one column that there is.
    ///
    /// # Errors
    /// A [`Rejection`].
    pub fn read_text<'a>(&self, text: &'a [u8], cells: &mut [Cell<'a>]) -> Result<(), Rejection> {
        let text = std::str::from_utf8(text)
            .map_err(|e| Rejection::new(Reason::Malformed, format!("no UTF-8: {e}")))?;
        if let Some(Some((place, to))) = self.places.first() {
            cells[*place] = value::text(text.into(), *to).map_err(|e| self.rejection(0, e))?;
        }
        Ok(())
    }

    fn read_step<'a>(
        &self,
        step: &Step,
        input: &mut Reader<'a>,
        cells: &mut [Cell<'a>],
    ) -> Result<(), Rejection> {
        match step {
            Step::Column(at) => {
                let cell = self.read_column(*at, input).map_err(|e| self.rejection(*at, e))?;
                if let (Some(cell), Some((place, _))) = (cell, self.places[*at]) {
                    cells[place] = cell;
                }
                Ok(())
            }
            Step::Record(fields, null) => {
                let is_null = is_null(*null, input).map_err(|e| self.rejection(0, e))?;
                match is_null {
                    true => Ok(()),
                    false => {
                        fields.iter().try_for_each(|(_, step)| self.read_step(step, input, cells))
                    }
                }
            }
        }
    }

    fn read_column<'a>(
        &self,
        at: usize,
        input: &mut Reader<'a>,
    ) -> Result<Option<Cell<'a>>, Unfit> {
        let column = &self.layout.columns[at];
        if is_null(column.null, input)? {
            return Ok(None);
        }
        let to = self.places[at].map_or_else(|| Target::made_for(&column.of), |(_, to)| to);
        match column.of {
            Type::Null => Ok(None),
            _ => value::cell(&column.of, to, input).map(Some),
        }
    }

    /// What is wrong with a record whose column has no cell.
    pub(super) fn rejection(&self, at: usize, unfit: Unfit) -> Rejection {
        match unfit {
            Unfit::Bytes(error) => Rejection::new(Reason::Malformed, format!("Avro: {error}")),
            Unfit::Value(reason, what) => {
                let name = self.layout.columns.get(at).map_or("?", |column| column.name.as_str());
                Rejection::new(reason, format!("column {name}: {what}"))
            }
        }
    }
}

fn is_null(null: Option<i64>, input: &mut Reader<'_>) -> Result<bool, Unfit> {
    let Some(null) = null else { return Ok(false) };
    let error = input.error("unknown union branch");
    match input.long()? {
        branch if branch == null => Ok(true),
        branch if branch == 1 - null => Ok(false),
        _ => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_core::avro::Writer;

    const ORDER: &str = r#"{"type": "record", "name": "Order", "fields": [
        {"name": "orderId", "type": "long"},
        {"name": "customer", "type": ["null", {"type": "record", "name": "C", "fields": [
            {"name": "name", "type": "string"},
            {"name": "VATNumber", "type": ["string", "null"]}]}]},
        {"name": "lines", "type": {"type": "array", "items": "string"}}]}"#;

    fn layout(naming: &Naming) -> Result<Layout, String> {
        Layout::of(&Type::parse(ORDER).unwrap(), naming, None)
    }

    fn names(naming: &Naming) -> Vec<String> {
        layout(naming).unwrap().columns.into_iter().map(|column| column.name).collect()
    }

    #[test]
    fn columns_are_called_as_asked() {
        let naming = Naming::default();
        assert_eq!(names(&naming), ["orderId", "customer_name", "customer_VATNumber", "lines"]);
        let snake = Naming { style: Style::SnakeCase, ..Naming::default() };
        assert_eq!(names(&snake), ["order_id", "customer_name", "customer_vat_number", "lines"]);
        let jsonb = Naming { nested: Nested::Jsonb, ..Naming::default() };
        assert_eq!(names(&jsonb), ["orderId", "customer", "lines"]);
        let renames = [("customer.VATNumber".to_owned(), "nif".to_owned())].into();
        let renamed = Naming { renames, ..Naming::default() };
        assert_eq!(names(&renamed)[2], "nif");
        let twice = Naming {
            renames: [("lines".to_owned(), "orderId".to_owned())].into(),
            ..Naming::default()
        };
        assert!(layout(&twice).unwrap_err().contains("two fields would be column orderId"));
        let single = Layout::of(&Type::Text, &naming, Some("id")).unwrap();
        assert_eq!(single.columns[0].name, "id");
        assert!(Layout::of(&Type::Text, &naming, None).unwrap_err().contains("no record"));
    }

    fn read(write: impl FnOnce(&mut Writer)) -> Result<Vec<Cell<'static>>, Rejection> {
        let layout = layout(&Naming::default()).unwrap();
        let targets = layout.columns.iter().map(|column| Target::made_for(&column.of));
        let places = (0..).zip(targets).map(Some).collect();
        let (mut out, mut cells) = (Writer::new(), vec![Cell::Null; 4]);
        write(&mut out);
        Bound { layout, places }.read_avro(out.into_bytes().leak(), &mut cells)?;
        Ok(cells)
    }

    #[test]
    fn a_record_within_a_record_may_be_null() {
        let cells = read(|out| {
            out.long(7);
            out.long(0);
            out.long(0);
        });
        let json = Cell::Json("[]".into());
        assert_eq!(cells.unwrap(), [Cell::Long(7), Cell::Null, Cell::Null, json]);
        let cells = read(|out| {
            out.long(7);
            out.long(1);
            out.string("Ana");
            out.long(1);
            out.long(0);
        });
        assert_eq!(cells.unwrap()[1..3], [Cell::Text("Ana".into()), Cell::Null]);
    }

    #[test]
    fn bytes_that_are_none_are_malformed() {
        let cut = read(|out| out.long(7)).unwrap_err();
        assert_eq!(cut.reason, Reason::Malformed);
        let branch = read(|out| {
            out.long(7);
            out.long(2);
        });
        assert!(branch.unwrap_err().message.contains("union branch"));
        let long = read(|out| {
            out.long(7);
            out.long(0);
            out.long(0);
            out.long(0);
        });
        assert!(long.unwrap_err().message.contains("trailing"));
    }
}
