//! The types of SQL values.

use std::fmt;

/// Most digits of a DECIMAL: what fits 128 bits.
pub const MAX_PRECISION: u8 = 38;

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SqlType {
    /// The type of a bare NULL: becomes any other.
    Null,
    /// `BOOLEAN`.
    Boolean,
    /// `INT`: 32 bits.
    Int,
    /// `BIGINT`: 64 bits.
    Bigint,
    /// `DOUBLE`: IEEE 754, 64 bits.
    Double,
    /// `DECIMAL(precision, scale)`: exact.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, at most `precision`.
        scale: u8,
    },
    /// `STRING`, or `VARCHAR`.
    String,
    /// `TIMESTAMP`: a moment; microseconds since 1970 inside, milliseconds in JSON.
    Timestamp,
    /// `DATE`: days since 1970.
    Date,
    /// `TIME`: milliseconds since midnight.
    Time,
    /// `ARRAY<type>`.
    Array(Box<SqlType>),
    /// `MAP<STRING, type>`.
    Map(Box<SqlType>),
    /// `STRUCT<name type, …>`.
    Struct(Vec<(String, SqlType)>),
}

impl SqlType {
    /// Whether arithmetic is defined on it.
    #[must_use]
    pub fn is_numeric(&self) -> bool {
        matches!(self, SqlType::Int | SqlType::Bigint | SqlType::Double | SqlType::Decimal { .. })
    }

    /// Digits and scale as a decimal: INT is DECIMAL(10, 0), BIGINT DECIMAL(19, 0), as in ksqlDB.
    #[must_use]
    pub fn as_decimal(&self) -> Option<(u8, u8)> {
        match self {
            SqlType::Int => Some((10, 0)),
            SqlType::Bigint => Some((19, 0)),
            SqlType::Decimal { precision, scale } => Some((*precision, *scale)),
            _ => None,
        }
    }

    /// The smallest type that holds values of both, if ksqlDB converts them silently.
    #[must_use]
    pub fn common(&self, other: &SqlType) -> Option<SqlType> {
        use SqlType::{Array, Bigint, Decimal, Double, Int, Map, Null};
        if self == other {
            return Some(self.clone());
        }
        match (self, other) {
            (Null, one) | (one, Null) => Some(one.clone()),
            (Array(a), Array(b)) => Some(Array(Box::new(a.common(b)?))),
            (Map(a), Map(b)) => Some(Map(Box::new(a.common(b)?))),
            (Double, one) | (one, Double) if one.is_numeric() => Some(Double),
            (Int, Bigint) | (Bigint, Int) => Some(Bigint),
            _ => {
                let ((p1, s1), (p2, s2)) = (self.as_decimal()?, other.as_decimal()?);
                let (scale, whole) = (s1.max(s2), (p1 - s1).max(p2 - s2));
                Some(Decimal { precision: (whole + scale).min(MAX_PRECISION), scale })
            }
        }
    }

    /// Whether ksqlDB converts it to `target` silently.
    #[must_use]
    pub fn coerces_to(&self, target: &SqlType) -> bool {
        self.common(target).as_ref() == Some(target)
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Null => f.write_str("NULL"),
            SqlType::Boolean => f.write_str("BOOLEAN"),
            SqlType::Int => f.write_str("INT"),
            SqlType::Bigint => f.write_str("BIGINT"),
            SqlType::Double => f.write_str("DOUBLE"),
            SqlType::Decimal { precision, scale } => write!(f, "DECIMAL({precision}, {scale})"),
            SqlType::String => f.write_str("STRING"),
            SqlType::Timestamp => f.write_str("TIMESTAMP"),
            SqlType::Date => f.write_str("DATE"),
            SqlType::Time => f.write_str("TIME"),
            SqlType::Array(item) => write!(f, "ARRAY<{item}>"),
            SqlType::Map(item) => write!(f, "MAP<STRING, {item}>"),
            SqlType::Struct(fields) => {
                f.write_str("STRUCT<")?;
                for (i, (name, kind)) in fields.iter().enumerate() {
                    write!(f, "{}{name} {kind}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(">")
            }
        }
    }
}
