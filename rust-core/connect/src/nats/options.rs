//! How a connection is made.

use std::{fs, path::Path, time::Duration};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};

use super::{NatsLogin, NatsServers};
use crate::{ConnectError, TokenPlace, tls};

/// The servers are waited for so long when something is opened, and for each answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing came for so long is tried out.
const PING: Duration = Duration::from_secs(20);
/// The client reads 8 MiB at once before anybody else gets a turn, and drops what is more than so many messages.
const BURST_MAX: usize = 1 << 20;
/// Between attempts to connect again, at most.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Reads the files that are named.
fn options(servers: &NatsServers) -> Result<ConnectOptions, ConnectError> {
    let read = |path: &Path| {
        let read = fs::read_to_string(path);
        read.map_err(|source| ConnectError::Open { path: path.to_owned(), source })
    };
    let mut options = ConnectOptions::new()
        .name("ringmill")
        .ping_interval(PING)
        .subscription_capacity(BURST_MAX)
        .request_timeout(Some(ANSWER_TIMEOUT))
        .reconnect_delay_callback(|attempts| {
            let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
            (Duration::from_millis(50) * 2_u32.pow(doublings)).min(PAUSE_MAX)
        });
    options = match &servers.login {
        NatsLogin::Nobody => options,
        NatsLogin::User { name, password_file } => {
            let password = password_file.as_deref().map(read).transpose()?.unwrap_or_default();
            options.user_and_password(name.clone(), password.trim_end_matches(['\n', '\r']).to_owned())
        }
        NatsLogin::Token(TokenPlace::Value(token)) => options.token(token.reveal().to_owned()),
        NatsLogin::Token(TokenPlace::File(path)) => options.token(read(path)?.trim().to_owned()),
        NatsLogin::Credentials(path) => {
            let wrong = |_| refuse(servers, format!("{} has no credentials in it", path.display()));
            options.credentials(&read(path)?).map_err(wrong)?
        }
    };
    if servers.is_encrypted() {
        // Looked at here, for what is wrong with them is told more clearly so.
        tls::roots(servers.root_certificates.as_deref()).map_err(|reason| ConnectError::Certificates { reason })?;
        options = options.require_tls(true);
        if let Some(file) = &servers.root_certificates {
            options = options.add_root_certificates(file.clone());
        }
    }
    Ok(options)
}

/// Connects once; when the connection breaks later, it is made again by itself.
pub async fn connect(servers: &NatsServers) -> Result<Client, ConnectError> {
    connect_noting(servers, |_| {}).await
}

/// The same; `note` is told what the servers refuse later.
pub async fn connect_noting(
    servers: &NatsServers,
    note: impl Fn(&ServerError) + Send + Sync + 'static,
) -> Result<Client, ConnectError> {
    let addresses: Result<Vec<ServerAddr>, _> = servers.urls().iter().map(|url| url.parse()).collect();
    let addresses = addresses.map_err(|error| refuse(servers, error.to_string()))?;
    let name = servers.to_string();
    let options = options(servers)?.event_callback(move |event| {
        match event {
            Event::Connected => tracing::info!("connected to NATS at {name}"),
            Event::Disconnected => tracing::warn!("NATS at {name}: the connection broke; it is tried again"),
            Event::ServerError(error) => {
                tracing::warn!("NATS at {name}: {error}");
                note(&error);
            }
            Event::SlowConsumer(_) => {
                tracing::warn!("NATS at {name}: messages come faster than they are taken, and were dropped")
            }
            event => tracing::debug!("NATS at {name}: {event}"),
        }
        async {}
    });
    let connected = tokio::time::timeout(ANSWER_TIMEOUT, options.connect(addresses)).await;
    let connected = connected.map_err(|_| refuse(servers, "it does not answer".to_owned()))?;
    connected.map_err(|error| {
        let reason = match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                "it does not let us in: look at `user` and `password_file`, `token` or `credentials_file`".to_owned()
            }
            _ => said(&error),
        };
        refuse(servers, reason)
    })
}

/// An error with what it came from; the client's own words for kinds of errors say little.
pub fn said(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => said(source),
        None => error.to_string(),
    }
}

pub fn refuse(servers: &NatsServers, reason: String) -> ConnectError {
    ConnectError::Nats { servers: servers.to_string(), reason }
}
