//! Encrypted connections: whose certificates are believed.

use std::path::Path;

#[cfg(any(feature = "mqtt", feature = "nats", feature = "postgres"))]
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};

/// The certificates of a PEM file, or those that the system trusts; says what is wrong with them.
pub(crate) fn certificates(file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(file) = file else {
        let found = rustls_native_certs::load_native_certs().certs;
        return if found.is_empty() { Err("the system has no root certificates".to_owned()) } else { Ok(found) };
    };
    let wrong = |reason: String| format!("{}: {reason}", file.display());
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("it has no certificate".to_owned())) } else { Ok(found) }
}

/// As a store; of the system's those are left out that cannot be understood.
#[cfg(any(feature = "mqtt", feature = "nats", feature = "postgres"))]
pub(crate) fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (found, refused) = roots.add_parsable_certificates(certificates(file)?);
    match file {
        Some(file) if refused > 0 => {
            Err(format!("{}: {refused} of its certificates cannot be understood", file.display()))
        }
        None if found == 0 => Err("the system has no root certificates".to_owned()),
        _ => Ok(roots),
    }
}
