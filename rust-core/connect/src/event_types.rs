//! Several types of events in one stream, each with columns of its own.
//!
//! Rows of all types are written into one batch, whose columns they share: the number of a row's type, its event time, and
//! behind these as many columns of each data type as the type that has most of it. What such a column is in a row, the
//! row's type says; those that a type has no use for are empty there. So a source of many types is read like any other, its
//! rows in one order, and each type's rows are picked out behind it.

use std::{collections::HashSet, fmt};

use ringmill_wire::DataType;

use crate::{ConnectError, FieldSpec};

/// Where an event says its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypePlace {
    /// in a field of its JSON object: a name, or a JSON pointer (RFC 6901)
    Field(String),
    /// in a header of its message
    Header(String),
    /// by its schema, whose full name it is
    Schema,
}

impl fmt::Display for TypePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TypePlace::Field(field) => write!(f, "field {field:?}"),
            TypePlace::Header(header) => write!(f, "header {header:?}"),
            TypePlace::Schema => f.write_str("schema"),
        }
    }
}

/// A type of events.
#[derive(Debug, Clone, PartialEq)]
pub struct EventType {
    /// its stream is `SOURCE.NAME`
    pub name: String,
    /// what events of it say at the [`TypePlace`], at least one
    pub values: Vec<String>,
    /// the columns
    pub fields: Vec<FieldSpec>,
    /// the timestamp column with the event time, if there is one
    pub event_time: Option<String>,
}

/// The types of a source's events, and the columns that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTypes {
    place: TypePlace,
    types: Vec<EventType>,
    shared: Vec<FieldSpec>,
    layouts: Vec<Layout>,
}

/// Where a type's columns stand among the shared ones.
#[derive(Debug, Clone, PartialEq)]
struct Layout {
    /// the place of each of its fields
    columns: Vec<usize>,
    /// those that it has no use for, without the event time
    unused: Vec<usize>,
    /// others have an event time
    lacks_time: bool,
}

impl EventTypes {
    /// The shared column with the number of a row's type: its index in [`types`](EventTypes::types).
    pub const NUMBER: usize = 0;
    /// The shared column with the event time, if any type has one; null in rows of types without.
    const TIME: usize = 1;
    /// The most types.
    const TYPES_MAX: usize = 1 << 10;

    /// Lays the columns out. Refuses types that are told by the same value, and event times of different units.
    pub fn new(place: TypePlace, types: Vec<EventType>) -> Result<EventTypes, ConnectError> {
        if types.is_empty() || types.len() > EventTypes::TYPES_MAX {
            let rule = "there must be between 1 and 1024 types";
            return Err(ConnectError::Spec { option: "types", value: types.len().to_string(), rule });
        }
        let mut known = HashSet::new();
        for value in types.iter().flat_map(|event_type| &event_type.values) {
            if !known.insert(value) {
                let rule = "one value stands for one type";
                return Err(ConnectError::Spec { option: "values", value: value.clone(), rule });
            }
        }
        let shared_field = |name: String, data_type, nullable| FieldSpec { name, data_type, nullable, path: None };
        let mut shared = vec![shared_field("type".to_owned(), DataType::UInt16, false)];
        let time = time_type(&types)?;
        if let Some(time) = time {
            let is_missing = types.iter().any(|event_type| event_type.event_time.is_none());
            shared.push(shared_field("time".to_owned(), time, is_missing));
        }
        let first = shared.len();
        let mut layouts = Vec::with_capacity(types.len());
        for event_type in &types {
            let mut columns = Vec::with_capacity(event_type.fields.len());
            for field in &event_type.fields {
                if event_type.event_time.as_ref() == Some(&field.name) {
                    columns.push(EventTypes::TIME);
                    continue;
                }
                let fits = |(place, other): &(usize, &FieldSpec)| {
                    let is_same = other.data_type == field.data_type && other.nullable == field.nullable;
                    *place >= first && is_same && !columns.contains(place)
                };
                let place = match shared.iter().enumerate().find(fits) {
                    Some((place, _)) => place,
                    None => {
                        let name = format!("{} {}", field.data_type, shared.len());
                        shared.push(shared_field(name, field.data_type, field.nullable));
                        shared.len() - 1
                    }
                };
                columns.push(place);
            }
            let lacks_time = time.is_some() && event_type.event_time.is_none();
            layouts.push(Layout { columns, unused: Vec::new(), lacks_time });
        }
        for layout in &mut layouts {
            layout.unused = (first..shared.len()).filter(|place| !layout.columns.contains(place)).collect();
        }
        Ok(EventTypes { place, types, shared, layouts })
    }

    /// Where events say their type.
    pub fn place(&self) -> &TypePlace {
        &self.place
    }

    /// The header that says an event's type, if that is where it stands.
    pub fn header(&self) -> Option<&str> {
        match &self.place {
            TypePlace::Header(header) => Some(header),
            TypePlace::Field(_) | TypePlace::Schema => None,
        }
    }

    /// The types, in the order of their numbers.
    pub fn types(&self) -> &[EventType] {
        &self.types
    }

    /// The shared columns.
    pub fn shared(&self) -> &[FieldSpec] {
        &self.shared
    }

    /// The shared column with the event time, if any type has one.
    pub fn time_column(&self) -> Option<&str> {
        let is_timed = self.types.iter().any(|event_type| event_type.event_time.is_some());
        is_timed.then(|| self.shared[EventTypes::TIME].name.as_str())
    }

    /// For each field of the type with this number the shared column that it stands in.
    pub fn columns(&self, number: usize) -> &[usize] {
        &self.layouts[number].columns
    }

    /// The number of the type of messages whose schema has this full name; otherwise that there is none.
    #[cfg(feature = "http")]
    pub(crate) fn number_of_schema(&self, name: &str) -> Result<usize, String> {
        let names: Vec<&str> = self.types.iter().map(|event_type| event_type.name.as_str()).collect();
        let refusal = || format!("is {name}, and no type is declared for it; there are {}", names.join(", "));
        self.number_of(name.as_bytes()).ok_or_else(refusal)
    }

    /// The number of the type that events with this value are of.
    pub(crate) fn number_of(&self, value: &[u8]) -> Option<usize> {
        let has = |event_type: &EventType| event_type.values.iter().any(|own| own.as_bytes() == value);
        self.types.iter().position(has)
    }

    /// Writes what a row of this type has in shared columns that are none of its fields'.
    #[inline]
    pub(crate) fn complete(&self, number: usize, out: &mut ringmill_wire::BatchWriter) {
        let layout = &self.layouts[number];
        out.push(EventTypes::NUMBER, number as u16);
        for &column in &layout.unused {
            out.push_empty(column);
        }
        if layout.lacks_time {
            out.push_null(EventTypes::TIME);
        }
    }

    /// Why an event with this value, or without any, is of none of them.
    pub(crate) fn refusal(&self, value: Option<&[u8]>) -> String {
        let place = &self.place;
        match value {
            None => format!("{place} does not say its type"),
            Some(value) => {
                let shown: String = String::from_utf8_lossy(value).chars().take(64).collect();
                let names: Vec<&str> = self.types.iter().map(|event_type| event_type.name.as_str()).collect();
                format!("no type is declared for {shown:?} ({place}); there are {}", names.join(", "))
            }
        }
    }
}

/// The data type of all event times; `None`: there are none.
fn time_type(types: &[EventType]) -> Result<Option<DataType>, ConnectError> {
    let mut found: Option<DataType> = None;
    for event_type in types {
        let Some(name) = &event_type.event_time else { continue };
        let refuse = |rule| Err(ConnectError::Spec { option: "event_time", value: name.clone(), rule });
        let field = event_type.fields.iter().find(|field| field.name == *name);
        match field.filter(|field| !field.nullable).map(|field| field.data_type) {
            Some(time @ DataType::Timestamp(_)) if found.is_none_or(|other| other == time) => found = Some(time),
            Some(DataType::Timestamp(_)) => return refuse("the event times of all types must have the same unit"),
            _ => return refuse("it must be a timestamp of its type that is never null"),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fields;

    fn event_type(name: &str, specs: &[&str], event_time: Option<&str>) -> EventType {
        let (name, event_time) = (name.to_owned(), event_time.map(str::to_owned));
        EventType { values: vec![name.clone()], name, fields: fields(specs), event_time }
    }

    fn place() -> TypePlace {
        TypePlace::Field("kind".to_owned())
    }

    #[test]
    fn types_share_columns_of_the_same_data_type() {
        let order = event_type("order", &["id:int64", "at:timestamp[ms]", "customer:utf8", "note:utf8?"], Some("at"));
        let trade =
            event_type("trade", &["time:timestamp[ms]", "buyer:utf8", "seller:utf8", "size:int64"], Some("time"));
        let beat = event_type("beat", &["host:utf8"], None);
        let types = EventTypes::new(place(), vec![order, trade, beat]).unwrap();
        let shared: Vec<String> = types
            .shared()
            .iter()
            .map(|field| format!("{}{}", field.data_type, if field.nullable { "?" } else { "" }))
            .collect();
        assert_eq!(shared, ["uint16", "timestamp[ms]?", "int64", "utf8", "utf8?", "utf8"]);
        assert_eq!([types.columns(0), types.columns(1), types.columns(2)], [&[2, 1, 3, 4][..], &[1, 3, 5, 2], &[3]]);
        assert_eq!(types.time_column(), Some("time"));
        assert_eq!([types.number_of(b"trade"), types.number_of(b"Trade")], [Some(1), None]);
    }

    #[test]
    fn what_cannot_be_told_apart_or_dated_is_refused() {
        let refused = |types: Vec<EventType>| EventTypes::new(place(), types).unwrap_err().to_string();
        let of = |name: &str, time: &str| event_type(name, &[&format!("at:{time}")], Some("at"));
        assert_eq!(refused(vec![]), "types is 0, but there must be between 1 and 1024 types");
        assert_eq!(
            refused(vec![of("a", "timestamp[ms]"), of("a", "timestamp[ms]")]),
            "values is a, but one value stands for one type"
        );
        assert_eq!(
            refused(vec![of("a", "timestamp[ms]"), of("b", "timestamp[us]")]),
            "event_time is at, but the event times of all types must have the same unit"
        );
        for wrong in ["int64", "timestamp[ms]?"] {
            let rule = "event_time is at, but it must be a timestamp of its type that is never null";
            assert_eq!(refused(vec![of("a", wrong)]), rule);
        }
    }
}
