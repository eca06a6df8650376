//! A writer's schema, ready to be read by: its names are resolved once, when it is learnt.

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};
use std::collections::HashMap;
use std::sync::Arc;

/// How deep types may be nested: as deep as JSON may be.
const MAX_DEPTH: usize = 64;
/// How many values a schema may name that take no bytes each: a value costs what its bytes justify,
/// and this many steps more.
const MAX_SIZE: usize = 10_000;

/// A type of a schema. Types that have a name are shared by those that name them.
#[derive(Debug, Clone)]
pub(super) struct Type {
    pub kind: Arc<Kind>,
    depth: usize,
    /// Types within it, itself included, where each name stands for its type.
    size: usize,
}

/// How a type is written.
#[derive(Debug)]
pub(super) enum Kind {
    Null,
    Boolean,
    Int,
    /// Divided by this: moments are milliseconds.
    Long(i64),
    Float,
    Double,
    Text,
    Enum(Vec<String>),
    /// Of so many bytes, or of any number where their length stands before them.
    Decimal {
        scale: u8,
        size: Option<usize>,
    },
    Uuid {
        size: Option<usize>,
    },
    /// Bytes that no type in SQL takes, and what Avro calls them.
    Opaque {
        name: &'static str,
        size: Option<usize>,
    },
    Array(Type),
    Map(Type),
    Union(Vec<Type>),
    Record(Vec<(String, Type)>),
}

/// The types that have a name; `None` while its own fields are looked at.
type Names = HashMap<Name, Option<Type>>;

impl Type {
    /// Reads a schema.
    ///
    /// # Errors
    /// In words: no schema; a type contains itself; too deep or too large.
    pub fn parse(text: &str) -> Result<Type, String> {
        let schema = Schema::parse_str(text).map_err(|e| format!("no Avro schema: {e}"))?;
        Type::of(&schema, &mut Names::new())
    }

    fn of(schema: &Schema, names: &mut Names) -> Result<Type, String> {
        if let Schema::Ref { name } = schema {
            return match names.get(name) {
                Some(Some(known)) => Ok(known.clone()),
                Some(None) => {
                    Err(format!("the type {name} contains itself, which SQL cannot hold"))
                }
                None => Err(format!("no type {name}")),
            };
        }
        if let Some(name) = schema.name() {
            names.insert(name.clone(), None);
        }
        let kind = Kind::of(schema, names)?;
        let (depth, size) = kind.within().fold((0, 1_usize), |(depth, size), inner| {
            (depth.max(inner.depth), size.saturating_add(inner.size))
        });
        if depth >= MAX_DEPTH {
            return Err(format!("its types are nested deeper than {MAX_DEPTH}"));
        }
        if size > MAX_SIZE {
            return Err(format!("it names more than {MAX_SIZE} values"));
        }
        let read = Type { kind: Arc::new(kind), depth: depth + 1, size };
        if let Some(name) = schema.name() {
            names.insert(name.clone(), Some(read.clone()));
        }
        Ok(read)
    }
}

impl Kind {
    fn of(schema: &Schema, names: &mut Names) -> Result<Kind, String> {
        let opaque = |name, size| Kind::Opaque { name, size };
        Ok(match schema {
            Schema::Null => Kind::Null,
            Schema::Boolean => Kind::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Kind::Int,
            Schema::Long | Schema::TimestampMillis | Schema::LocalTimestampMillis => Kind::Long(1),
            Schema::TimeMicros | Schema::TimestampMicros | Schema::LocalTimestampMicros => {
                Kind::Long(1_000)
            }
            Schema::TimestampNanos | Schema::LocalTimestampNanos => Kind::Long(1_000_000),
            Schema::Float => Kind::Float,
            Schema::Double => Kind::Double,
            Schema::String => Kind::Text,
            Schema::Bytes => opaque("bytes", None),
            Schema::BigDecimal => opaque("a big-decimal", None),
            Schema::Fixed(fixed) => opaque("fixed", Some(fixed.size)),
            Schema::Duration(fixed) => opaque("a duration", Some(fixed.size)),
            Schema::Enum(of) => Kind::Enum(of.symbols.clone()),
            Schema::Decimal(of) => {
                let scale = u8::try_from(of.scale).ok().filter(|scale| *scale <= 38);
                let scale = scale.ok_or("a decimal has more than 38 places")?;
                let size = match &of.inner {
                    InnerDecimalSchema::Bytes => None,
                    InnerDecimalSchema::Fixed(fixed) => Some(fixed.size),
                };
                Kind::Decimal { scale, size }
            }
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Kind::Uuid { size: Some(fixed.size) },
            Schema::Uuid(_) => Kind::Uuid { size: None },
            Schema::Array(of) => Kind::Array(Type::of(&of.items, names)?),
            Schema::Map(of) => Kind::Map(Type::of(&of.types, names)?),
            Schema::Union(of) => {
                let branches = of.variants().iter().map(|branch| Type::of(branch, names));
                Kind::Union(branches.collect::<Result<_, _>>()?)
            }
            Schema::Record(of) => {
                let fields = of.fields.iter();
                let fields = fields.map(|f| Ok((f.name.clone(), Type::of(&f.schema, names)?)));
                Kind::Record(fields.collect::<Result<_, String>>()?)
            }
            Schema::Ref { name } => return Err(format!("no type {name}")),
        })
    }

    /// The types that its values hold at once.
    fn within(&self) -> Box<dyn Iterator<Item = &Type> + '_> {
        match self {
            Kind::Array(of) | Kind::Map(of) => Box::new(std::iter::once(of)),
            Kind::Union(branches) => Box::new(branches.iter()),
            Kind::Record(fields) => Box::new(fields.iter().map(|(_, of)| of)),
            _ => Box::new(std::iter::empty()),
        }
    }
}
