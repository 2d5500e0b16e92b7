//! Events of several types: each object as a row of its own type.
//!
//! The type stands in the object itself, or in a header that came with it. An object is read once: which type it is of is
//! guessed by a look at its bytes, and what is read of it by that type's fields tells its type, too. Where that is
//! another one, the object is read again. So the type and the row are never told by different rules: the parser's own say
//! which of repeated keys counts, and what an escaped one is.

use std::sync::Arc;

use memchr::memmem::Finder;
use ringmill_wire::DataType;

use super::{
    cursor::{Cursor, Syntax},
    object::Object,
};
use crate::{
    ConnectError, EventTypes, FieldSpec, TypePlace,
    formats::{
        column::{Refusal, Row},
        paths::keys_of_field,
    },
};

/// Reads objects of several types.
#[derive(Debug, Clone)]
pub(super) struct TypedObject {
    types: Arc<EventTypes>,
    objects: Vec<Object>,
    /// of the object that was read last: its type, if there is such a one
    number: Option<usize>,
    /// … by which it was read
    read_as: usize,
    told: Told,
}

/// By what an object's type is told.
#[derive(Debug, Clone)]
enum Told {
    /// a value in it: where each type's object has it, and how it is found before that
    Within { places: Vec<usize>, look: Box<Look> },
    /// a header; empty: there was none
    By(String),
}

impl TypedObject {
    pub fn new(types: &Arc<EventTypes>, stops_early: bool) -> Result<TypedObject, ConnectError> {
        let columns_of = |number: usize| types.columns(number).iter().copied().zip(&types.types()[number].fields);
        let numbers = 0..types.types().len();
        let (objects, told) = match types.place() {
            TypePlace::Field(field) => {
                let value = FieldSpec {
                    name: field.clone(),
                    data_type: DataType::Utf8,
                    nullable: true,
                    path: field.starts_with('/').then(|| field.clone()),
                };
                let objects = numbers.map(|number| Object::with_value(columns_of(number), &value, stops_early));
                let (objects, places): (Vec<Object>, Vec<usize>) =
                    objects.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
                (objects, Told::Within { places, look: Box::new(Look::new(&value, types)?) })
            }
            TypePlace::Header(_) => {
                let objects = numbers.map(|number| Object::of(columns_of(number), stops_early));
                (objects.collect::<Result<Vec<_>, _>>()?, Told::By(String::new()))
            }
            TypePlace::Schema => {
                let rule = "a JSON object has no schema that says its type";
                return Err(ConnectError::Spec { option: "type", value: "schema".to_owned(), rule });
            }
        };
        Ok(TypedObject { types: Arc::clone(types), objects, number: None, read_as: 0, told })
    }

    /// See [`JsonDecoder::set_type`](super::JsonDecoder::set_type).
    pub fn set_type(&mut self, value: &[u8]) {
        if let Told::By(header) = &mut self.told {
            header.clear();
            header.push_str(&String::from_utf8_lossy(value));
        }
    }

    /// What told the type, if it does not stand in the object.
    pub fn header(&self) -> Option<&str> {
        match &self.told {
            Told::Within { .. } => None,
            Told::By(header) => Some(header.as_str()).filter(|header| !header.is_empty()),
        }
    }

    /// Reads the object that begins where the cursor stands, on this line.
    pub fn read(&mut self, cursor: &mut Cursor<'_>, line: &[u8]) -> Result<(), Syntax> {
        let start = cursor.at;
        match &self.told {
            Told::By(header) => {
                self.number = self.types.number_of(header.as_bytes());
                // One of no type is looked through all the same: what is no JSON is refused for that.
                self.read_as = self.number.unwrap_or(0);
                self.objects[self.read_as].read(cursor)
            }
            Told::Within { places, look } => {
                let guess = look.guess(line).unwrap_or(self.read_as);
                self.read_as = guess;
                self.objects[guess].read(cursor)?;
                let value = self.objects[guess].text(places[guess], cursor.bytes);
                self.number = value.and_then(|value| self.types.number_of(value));
                match self.number {
                    Some(number) if number != guess => {
                        self.read_as = number;
                        cursor.at = start;
                        self.objects[number].read(cursor)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    /// Whether the object that was read last was left in its middle.
    #[inline]
    pub fn has_stopped(&self) -> bool {
        self.objects[self.read_as].has_stopped()
    }

    /// Moves the values of the object that was read last from `bytes` into the row.
    pub fn push(&self, bytes: &[u8], row: &mut Row<'_>) -> Result<(), Refusal> {
        let Some(number) = self.number else { return Err(self.refuse(bytes, row)) };
        self.objects[number].push(bytes, row)?;
        self.types.complete(number, row.out);
        Ok(())
    }

    #[cold]
    fn refuse(&self, bytes: &[u8], row: &mut Row<'_>) -> Refusal {
        let value = match &self.told {
            Told::Within { places, .. } => self.objects[self.read_as].text(places[self.read_as], bytes),
            Told::By(_) => self.header().map(str::as_bytes),
        };
        row.reason.clear();
        row.reason.push_str(&self.types.refusal(value));
        Refusal::Misfit
    }
}

/// A look at an object's bytes for its type.
#[derive(Debug, Clone)]
struct Look {
    /// the key, in its quotes
    key: Finder<'static>,
    /// how types are written
    written: Vec<(Vec<u8>, usize)>,
}

impl Look {
    fn new(value: &FieldSpec, types: &EventTypes) -> Result<Look, ConnectError> {
        let keys = keys_of_field(value)?;
        let key = format!("\"{}\"", keys.last().map_or("", String::as_str));
        let each = |(number, value): (usize, &String)| {
            [format!("\"{value}\""), value.clone()].map(|text| (text.into_bytes(), number))
        };
        let values = types
            .types()
            .iter()
            .enumerate()
            .flat_map(|(number, of)| of.values.iter().map(move |value| (number, value)));
        Ok(Look { key: Finder::new(key.as_bytes()).into_owned(), written: values.flat_map(each).collect() })
    }

    /// What type the line seems to be of.
    #[inline]
    fn guess(&self, line: &[u8]) -> Option<usize> {
        let behind = self.key.find(line)? + self.key.needle().len();
        let value = line[behind..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        self.written.iter().find(|(text, _)| value.starts_with(text)).map(|(_, number)| *number)
    }
}
