//! What of a schema does not fit the declared fields.

use std::fmt;

/// A declared field that a schema has nothing for, or something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMisfit {
    /// the field; `None`: the schema itself is to blame
    pub field: Option<String>,
    /// what does not fit
    pub reason: String,
    /// what would
    pub hint: Option<String>,
}

impl FieldMisfit {
    pub(in crate::formats) fn new(field: &str, reason: String) -> FieldMisfit {
        FieldMisfit { field: Some(field.to_owned()), reason, hint: None }
    }

    pub(in crate::formats) fn of_schema(reason: String) -> FieldMisfit {
        FieldMisfit { field: None, reason, hint: None }
    }

    /// Why nothing becomes a row of a schema that does not fit.
    #[cfg(feature = "http")]
    pub(crate) fn of_many(misfits: Vec<FieldMisfit>) -> String {
        let reasons: Vec<String> = misfits.iter().map(ToString::to_string).collect();
        format!("does not fit: {}", reasons.join("; "))
    }

    pub(in crate::formats) fn hint(self, hint: String) -> FieldMisfit {
        self.hint_maybe(Some(hint))
    }

    pub(in crate::formats) fn hint_maybe(self, hint: Option<String>) -> FieldMisfit {
        FieldMisfit { hint, ..self }
    }
}

impl fmt::Display for FieldMisfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "field {field:?}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}
