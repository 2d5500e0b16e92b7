//! Where schemas are found that messages name by a number.

use std::{path::PathBuf, time::Duration};

use crate::Secret;

/// Where a schema registry is that has Confluent's interface.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistrySpec {
    /// where requests go: `http://host:port`, or with `https`
    pub url: Secret,
    /// who asks (RFC 7617)
    pub user: Option<String>,
    /// the user's password
    pub password: Option<Secret>,
    /// a PEM file with the certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
    /// for one request
    pub timeout: Duration,
}
