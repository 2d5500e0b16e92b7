//! The number of a sink's schema in a registry.

use std::sync::{Arc, OnceLock};

use super::RegistrySpec;
use crate::ConnectError;

/// The number, once it is known: the sink learns it before it sends, and its encoders write it.
#[derive(Debug, Clone, Default)]
pub(super) struct SchemaNumber(Arc<OnceLock<u32>>);

/// It says nothing of what was configured.
impl PartialEq for SchemaNumber {
    fn eq(&self, _: &SchemaNumber) -> bool {
        true
    }
}

impl SchemaNumber {
    /// Tells the registry the schema, and learns its number; fails if there is no answer, or a refusal.
    #[cfg(feature = "http")]
    pub fn register(
        &self,
        registry: &RegistrySpec,
        kind: &'static str,
        subject: &str,
        schema: &str,
    ) -> Result<(), ConnectError> {
        let id = super::registry::register(registry, kind, subject, schema)?;
        self.0.get_or_init(|| id);
        Ok(())
    }

    /// This program was built without HTTP.
    #[cfg(not(feature = "http"))]
    pub fn register(&self, _: &RegistrySpec, _: &'static str, _: &str, _: &str) -> Result<(), ConnectError> {
        Err(ConnectError::Feature("http"))
    }

    /// Appends what a message begins with: 00 and the number.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(0);
        out.extend_from_slice(&self.0.get().copied().unwrap_or_default().to_be_bytes());
    }
}
