//! The types a column may have, and their names in configuration and canonical texts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What one step of a timestamp is. Timestamps count from 1970-01-01T00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimeUnit {
    /// `timestamp[s]`
    Second,
    /// `timestamp[ms]`
    Millisecond,
    /// `timestamp[us]`
    Microsecond,
    /// `timestamp[ns]`
    Nanosecond,
}

impl TimeUnit {
    /// All units, coarse to fine.
    pub const ALL: [TimeUnit; 4] =
        [TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond];

    /// Nanoseconds in one step.
    #[must_use]
    pub const fn nanoseconds(self) -> i64 {
        match self {
            TimeUnit::Second => 1_000_000_000,
            TimeUnit::Millisecond => 1_000_000,
            TimeUnit::Microsecond => 1_000,
            TimeUnit::Nanosecond => 1,
        }
    }

    const fn timestamp_name(self) -> &'static str {
        match self {
            TimeUnit::Second => "timestamp[s]",
            TimeUnit::Millisecond => "timestamp[ms]",
            TimeUnit::Microsecond => "timestamp[us]",
            TimeUnit::Nanosecond => "timestamp[ns]",
        }
    }
}

/// The type of a list's items: of fixed width and never null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum ListItem {
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    Timestamp(TimeUnit),
}

impl ListItem {
    /// The item's type when it stands in a column of its own.
    #[must_use]
    pub const fn data_type(self) -> DataType {
        match self {
            ListItem::Int8 => DataType::Int8,
            ListItem::Int16 => DataType::Int16,
            ListItem::Int32 => DataType::Int32,
            ListItem::Int64 => DataType::Int64,
            ListItem::UInt8 => DataType::UInt8,
            ListItem::UInt16 => DataType::UInt16,
            ListItem::UInt32 => DataType::UInt32,
            ListItem::UInt64 => DataType::UInt64,
            ListItem::Float32 => DataType::Float32,
            ListItem::Float64 => DataType::Float64,
            ListItem::Timestamp(unit) => DataType::Timestamp(unit),
        }
    }

    /// The list item for a column type; `None` for types that no list holds (bool, utf8, binary, list).
    #[must_use]
    pub const fn of(data_type: DataType) -> Option<ListItem> {
        Some(match data_type {
            DataType::Int8 => ListItem::Int8,
            DataType::Int16 => ListItem::Int16,
            DataType::Int32 => ListItem::Int32,
            DataType::Int64 => ListItem::Int64,
            DataType::UInt8 => ListItem::UInt8,
            DataType::UInt16 => ListItem::UInt16,
            DataType::UInt32 => ListItem::UInt32,
            DataType::UInt64 => ListItem::UInt64,
            DataType::Float32 => ListItem::Float32,
            DataType::Float64 => ListItem::Float64,
            DataType::Timestamp(unit) => ListItem::Timestamp(unit),
            DataType::Bool | DataType::Utf8 | DataType::Binary | DataType::List(_) => return None,
        })
    }
}

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum DataType {
    /// One byte a value, 0 or 1 (Arrow packs bits; NumPy cannot view those).
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float32,
    Float64,
    /// UTF-8 text with 32-bit offsets.
    Utf8,
    /// Bytes with 32-bit offsets.
    Binary,
    /// Signed 64-bit count of units since the Unix epoch, UTC.
    Timestamp(TimeUnit),
    /// Lists with 32-bit offsets that count items.
    List(ListItem),
}

impl DataType {
    /// Bytes of one value; `None` where values differ in length (utf8, binary, list).
    #[must_use]
    pub const fn width(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::Int8 | DataType::UInt8 => Some(1),
            DataType::Int16 | DataType::UInt16 => Some(2),
            DataType::Int32 | DataType::UInt32 | DataType::Float32 => Some(4),
            DataType::Int64 | DataType::UInt64 | DataType::Float64 | DataType::Timestamp(_) => Some(8),
            DataType::Utf8 | DataType::Binary | DataType::List(_) => None,
        }
    }

    /// Bytes of what one step of an offset, or one value, stands for: 1 for utf8 and binary, the item's width for lists,
    /// the value's width otherwise.
    #[must_use]
    pub const fn item_width(self) -> usize {
        match self {
            DataType::List(item) => item.data_type().item_width(),
            _ => match self.width() {
                Some(width) => width,
                None => 1,
            },
        }
    }

    /// Whether the column has offsets (utf8, binary, list).
    #[must_use]
    pub const fn is_variable(self) -> bool {
        self.width().is_none()
    }

    /// Every type there is, each once.
    #[must_use]
    pub fn all() -> Vec<DataType> {
        let mut all = vec![
            DataType::Bool,
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::Int64,
            DataType::UInt8,
            DataType::UInt16,
            DataType::UInt32,
            DataType::UInt64,
            DataType::Float32,
            DataType::Float64,
            DataType::Utf8,
            DataType::Binary,
        ];
        all.extend(TimeUnit::ALL.map(DataType::Timestamp));
        let items: Vec<_> = all.iter().filter_map(|&data_type| ListItem::of(data_type)).collect();
        all.extend(items.into_iter().map(DataType::List));
        all
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            DataType::Bool => "bool",
            DataType::Int8 => "int8",
            DataType::Int16 => "int16",
            DataType::Int32 => "int32",
            DataType::Int64 => "int64",
            DataType::UInt8 => "uint8",
            DataType::UInt16 => "uint16",
            DataType::UInt32 => "uint32",
            DataType::UInt64 => "uint64",
            DataType::Float32 => "float32",
            DataType::Float64 => "float64",
            DataType::Utf8 => "utf8",
            DataType::Binary => "binary",
            DataType::Timestamp(unit) => unit.timestamp_name(),
            DataType::List(item) => return write!(formatter, "list[{}]", item.data_type()),
        };
        formatter.pad(name)
    }
}

/// A text that names no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown type `{0}`: expected bool, int8 to int64, uint8 to uint64, float32, float64, utf8, binary, \
     timestamp[s|ms|us|ns] or list[TYPE] of a numeric or timestamp type"
)]
pub struct UnknownDataType(pub String);

impl FromStr for DataType {
    type Err = UnknownDataType;

    fn from_str(text: &str) -> Result<DataType, UnknownDataType> {
        let unknown = || UnknownDataType(text.to_owned());
        Ok(match text {
            "bool" => DataType::Bool,
            "int8" => DataType::Int8,
            "int16" => DataType::Int16,
            "int32" => DataType::Int32,
            "int64" => DataType::Int64,
            "uint8" => DataType::UInt8,
            "uint16" => DataType::UInt16,
            "uint32" => DataType::UInt32,
            "uint64" => DataType::UInt64,
            "float32" => DataType::Float32,
            "float64" => DataType::Float64,
            "utf8" => DataType::Utf8,
            "binary" => DataType::Binary,
            "timestamp[s]" => DataType::Timestamp(TimeUnit::Second),
            "timestamp[ms]" => DataType::Timestamp(TimeUnit::Millisecond),
            "timestamp[us]" => DataType::Timestamp(TimeUnit::Microsecond),
            "timestamp[ns]" => DataType::Timestamp(TimeUnit::Nanosecond),
            _ => {
                let item = text.strip_prefix("list[").and_then(|rest| rest.strip_suffix(']')).ok_or_else(unknown)?;
                // Lists hold no lists, so that a long name cannot nest.
                let item = Some(item).filter(|item| !item.starts_with("list[")).ok_or_else(unknown)?;
                let item: DataType = item.parse().map_err(|_| unknown())?;
                DataType::List(ListItem::of(item).ok_or_else(unknown)?)
            }
        })
    }
}

impl Serialize for DataType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DataType, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::DataType;

    #[test]
    fn every_type_is_read_back_from_its_name() {
        let all = DataType::all();
        assert_eq!(all.len(), 17 + 14);
        for data_type in all {
            assert_eq!(data_type.to_string().parse(), Ok(data_type));
            assert_eq!(data_type.is_variable(), data_type.width().is_none());
            assert!([1, 2, 4, 8].contains(&data_type.item_width()), "{data_type}");
        }
    }

    #[test]
    fn a_name_nested_without_end_is_refused_without_recursing() {
        let nested = format!("{}int8{}", "list[".repeat(1_000_000), "]".repeat(1_000_000));
        assert!(nested.parse::<DataType>().is_err());
    }

    #[test]
    fn texts_that_name_no_type_are_refused_with_the_text() {
        for text in [
            "",
            "Float64",
            "int",
            "list",
            "list[]",
            "list[utf8]",
            "list[bool]",
            "list[list[int8]]",
            "timestamp",
            "timestamp[m]",
        ] {
            let error = text.parse::<DataType>().expect_err(text);
            assert!(error.to_string().starts_with(&format!("unknown type `{text}`")), "{error}");
        }
    }
}
