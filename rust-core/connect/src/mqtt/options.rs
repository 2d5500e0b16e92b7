//! How a connection to a broker is made, and what its refusals mean.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use rumqttc::{ConnectReturnCode, ConnectionError, MqttOptions, TlsConfiguration, TlsError, Transport};
use rustls::{ClientConfig, crypto::ring};

use super::Broker;
use crate::{ConnectError, tls};

/// Between attempts to connect: the first, and the longest.
pub const PAUSE: Duration = Duration::from_millis(100);
pub const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest message of the protocol; what is longer than a record becomes a dead letter and is not refused.
pub const PACKET_BYTES_MAX: usize = 268_435_455 + 5;
/// A connection on which nothing came for so long is tried out.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Who we are, and whom we believe.
pub struct Who<'a> {
    pub client_id: &'a str,
    pub user: Option<&'a str>,
    pub password_file: Option<&'a Path>,
    pub root_certificates: Option<&'a Path>,
}

/// Reads the files that are named.
pub fn options(broker: &Broker, who: &Who<'_>) -> Result<MqttOptions, ConnectError> {
    let mut options = MqttOptions::new(who.client_id, &broker.host, broker.port);
    options.set_keep_alive(KEEP_ALIVE).set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
    if let Some(user) = who.user {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|source| ConnectError::Open { path: path.into(), source });
        let password = who.password_file.map(read).transpose()?.unwrap_or_default();
        options.set_credentials(user, password.trim_end_matches(['\n', '\r']));
    }
    if broker.is_encrypted {
        options.set_transport(encrypted(who.root_certificates)?);
    }
    Ok(options)
}

fn encrypted(root_certificates: Option<&Path>) -> Result<Transport, ConnectError> {
    let wrong = |reason: String| ConnectError::Certificates { reason };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| wrong(error.to_string()))?;
    let roots = tls::roots(root_certificates).map_err(wrong)?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))))
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What follows the broker's name if the same attempt would fail for ever.
pub fn refusal(error: &ConnectionError) -> Option<String> {
    match error {
        ConnectionError::ConnectionRefused(ConnectReturnCode::Success | ConnectReturnCode::ServiceUnavailable) => None,
        ConnectionError::ConnectionRefused(code) => Some(format!(" refuses the connection: {}", said(*code))),
        // A handshake that breaks off may be another one's next time; a certificate will not.
        ConnectionError::Tls(TlsError::Io(error))
            if !error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            None
        }
        ConnectionError::Tls(error) => Some(format!(": no encrypted connection: {error}")),
        _ => None,
    }
}

fn said(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "it accepts it",
        ConnectReturnCode::RefusedProtocolVersion => "it does not speak MQTT 3.1.1",
        ConnectReturnCode::BadClientId => "it does not like the `client_id`",
        ConnectReturnCode::ServiceUnavailable => "it is not available",
        ConnectReturnCode::BadUserNamePassword => "look at `user` and `password_file`",
        ConnectReturnCode::NotAuthorized => "it does not know the `user`, or the password is wrong",
    }
}
