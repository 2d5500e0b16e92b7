//! The Arrow PyCapsule interface, both ways, over the Arrow C data interface.
//!
//! <https://arrow.apache.org/docs/format/CDataInterface.html> and
//! <https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html>. The structures are small and frozen, so
//! they are declared here instead of drawing in an Arrow implementation.

pub(crate) mod abi;
pub(crate) mod export;
pub(crate) mod import;
