//! Types of PostgreSQL's columns, as far as the sink writes them.

use caudal_core::avro_schema::Type;

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// boolean.
    Boolean,
    /// smallint.
    SmallInt,
    /// integer.
    Integer,
    /// bigint.
    BigInt,
    /// real.
    Real,
    /// double precision.
    Double,
    /// numeric; with the places that its values are rounded to, where it says so.
    Numeric(Option<u16>),
    /// text, character varying, character, or an enum of the database's.
    Text,
    /// bytea.
    Bytea,
    /// date.
    Date,
    /// time without time zone.
    Time,
    /// timestamp with time zone.
    Timestamptz,
    /// timestamp without time zone.
    Timestamp,
    /// uuid.
    Uuid,
    /// json.
    Json,
    /// jsonb.
    Jsonb,
}

impl Target {
    /// The column that is made for a value of that type.
    #[must_use]
    pub fn made_for(of: &Type) -> Target {
        if let Some((of, _)) = of.optional() {
            return Target::made_for(of);
        }
        match of {
            Type::Boolean => Target::Boolean,
            Type::Int => Target::Integer,
            Type::Long => Target::BigInt,
            Type::Float => Target::Real,
            Type::Double => Target::Double,
            Type::Bytes | Type::Fixed(_) => Target::Bytea,
            Type::Text | Type::Enum(_) => Target::Text,
            // Without places of its own: a later schema may have more of them.
            Type::Decimal(..) => Target::Numeric(None),
            Type::Uuid(_) => Target::Uuid,
            Type::Date => Target::Date,
            Type::Time(_) => Target::Time,
            Type::Timestamp(_) => Target::Timestamptz,
            Type::LocalTimestamp(_) => Target::Timestamp,
            Type::Null
            | Type::JsonText
            | Type::Array(_)
            | Type::Map(_)
            | Type::Union(_)
            | Type::Record(_) => Target::Jsonb,
        }
    }

    /// The column that is there, from the catalogue: name of the type, whether that is an enum, and
    /// the places of a numeric. `None`: the sink does not write such a type.
    #[must_use]
    pub fn of_catalogue(name: &str, is_enum: bool, places: Option<u16>) -> Option<Target> {
        Some(match name {
            _ if is_enum => Target::Text,
            "bool" => Target::Boolean,
            "int2" => Target::SmallInt,
            "int4" => Target::Integer,
            "int8" => Target::BigInt,
            "float4" => Target::Real,
            "float8" => Target::Double,
            "numeric" => Target::Numeric(places),
            "text" | "varchar" | "bpchar" => Target::Text,
            "bytea" => Target::Bytea,
            "date" => Target::Date,
            "time" => Target::Time,
            "timestamptz" => Target::Timestamptz,
            "timestamp" => Target::Timestamp,
            "uuid" => Target::Uuid,
            "json" => Target::Json,
            "jsonb" => Target::Jsonb,
            _ => return None,
        })
    }

    /// Its name in statements.
    #[must_use]
    pub fn sql(self) -> &'static str {
        match self {
            Target::Boolean => "boolean",
            Target::SmallInt => "smallint",
            Target::Integer => "integer",
            Target::BigInt => "bigint",
            Target::Real => "real",
            Target::Double => "double precision",
            Target::Numeric(_) => "numeric",
            Target::Text => "text",
            Target::Bytea => "bytea",
            Target::Date => "date",
            Target::Time => "time",
            Target::Timestamptz => "timestamptz",
            Target::Timestamp => "timestamp",
            Target::Uuid => "uuid",
            Target::Json => "json",
            Target::Jsonb => "jsonb",
        }
    }

    /// Whether values of that type can be stored in it without losing anything. Whole numbers may be
    /// too large and decimals too fine: that is told value by value.
    #[must_use]
    pub fn holds(self, of: &Type) -> bool {
        if let Some((of, _)) = of.optional() {
            return self.holds(of);
        }
        let json = matches!(self, Target::Json | Target::Jsonb);
        match of {
            Type::Int | Type::Long => matches!(
                self,
                Target::SmallInt | Target::Integer | Target::BigInt | Target::Numeric(_)
            ),
            Type::Float => matches!(self, Target::Real | Target::Double),
            Type::Text => json || matches!(self, Target::Text | Target::Uuid),
            Type::Uuid(_) => matches!(self, Target::Uuid | Target::Text),
            Type::Decimal(..) => matches!(self, Target::Numeric(_)),
            Type::JsonText => json || self == Target::Text,
            Type::Null | Type::Array(_) | Type::Map(_) | Type::Union(_) | Type::Record(_) => json,
            _ => self == Target::made_for(of),
        }
    }
}
