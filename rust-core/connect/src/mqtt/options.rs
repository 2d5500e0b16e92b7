//! What a connection to a broker is made with, whichever version of the protocol it speaks.

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use rumqttc::{TlsConfiguration, Transport};
use rustls::{ClientConfig, crypto::ring};

use super::{Broker, MqttVersion};
use crate::{ConnectError, tls};

/// Between attempts to connect: the first, and the longest.
pub const PAUSE: Duration = Duration::from_millis(100);
pub const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest message of the protocol; what is longer than a record becomes a dead letter and is not refused.
pub const PACKET_BYTES_MAX: u32 = 268_435_455 + 5;
/// A connection on which nothing came for so long is tried out.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Who we are, and whom we believe.
pub struct Who<'a> {
    pub client_id: &'a str,
    pub user: Option<&'a str>,
    pub password_file: Option<&'a Path>,
    pub root_certificates: Option<&'a Path>,
}

/// What a connection is made with.
#[derive(Clone)]
pub struct Options {
    pub version: MqttVersion,
    pub broker: Broker,
    pub client_id: String,
    /// user and password
    pub credentials: Option<(String, String)>,
    pub transport: Transport,
    /// whether the broker goes on with the session that it has, and keeps it when the connection ends
    pub keeps_session: bool,
    /// for so many seconds; MQTT 3.1.1 cannot say
    pub session_expiry_s: u32,
    /// own messages that wait for their acknowledgement at a time
    pub inflight: u16,
    /// what can be asked for before any of it is done
    pub requests_max: usize,
}

impl Options {
    /// Reads the files that are named. A session is not kept, if it is not said.
    pub fn new(
        version: MqttVersion,
        broker: &Broker,
        who: &Who<'_>,
        requests_max: usize,
    ) -> Result<Options, ConnectError> {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|source| ConnectError::Open { path: path.into(), source });
        let password = who.password_file.map(read).transpose()?.unwrap_or_default();
        let password = password.trim_end_matches(['\n', '\r']);
        let transport = if broker.is_encrypted { encrypted(who.root_certificates)? } else { Transport::tcp() };
        Ok(Options {
            version,
            broker: broker.clone(),
            client_id: who.client_id.to_owned(),
            credentials: who.user.map(|user| (user.to_owned(), password.to_owned())),
            transport,
            keeps_session: false,
            session_expiry_s: 0,
            inflight: 1,
            requests_max,
        })
    }
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
