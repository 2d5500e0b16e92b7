//! Where NATS is, and who we are there.

use std::{fmt, path::PathBuf};

use crate::{TokenPlace, host::host_and_port};

/// Servers of one NATS system. Those that they name are tried, too, when a connection breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServers {
    /// `nats://host:port`, or `tls://host:port`
    urls: Vec<String>,
    /// who we are
    pub login: NatsLogin,
    /// certificates to trust instead of the system's
    pub root_certificates: Option<PathBuf>,
}

/// How we show who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NatsLogin {
    /// Not at all.
    #[default]
    Nobody,
    /// by a name and a password
    User {
        /// the name
        name: String,
        /// a file with the password, read at the start; none if absent
        password_file: Option<PathBuf>,
    },
    /// by a token
    Token(TokenPlace),
    /// by a file of credentials (a JWT and the seed of its key), read at the start
    Credentials(PathBuf),
}

impl NatsServers {
    /// `nats://host:port` or `tls://host:port`, several with commas in between, the port 4222 if absent. The reason why it is
    /// none repeats nothing of what may be a password.
    pub fn parse(text: &str) -> Result<NatsServers, &'static str> {
        let mut urls = Vec::new();
        for url in text.split(',').map(str::trim) {
            let (scheme, rest) = match url.split_once("://") {
                Some((scheme @ ("nats" | "tls"), rest)) => (scheme, rest),
                _ => return Err("it must begin with nats:// or tls://"),
            };
            if rest.contains('@') {
                return Err("user, password and token do not stand in it, but in keys of their own");
            }
            let (host, port) = host_and_port(rest.strip_suffix('/').unwrap_or(rest), 4222)?;
            urls.push(if host.contains(':') {
                format!("{scheme}://[{host}]:{port}")
            } else {
                format!("{scheme}://{host}:{port}")
            });
        }
        let servers = NatsServers { urls, login: NatsLogin::Nobody, root_certificates: None };
        if servers.is_encrypted() && servers.urls.iter().any(|url| url.starts_with("nats://")) {
            return Err("either all begin with tls:// or none does");
        }
        Ok(servers)
    }

    /// Their addresses.
    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    /// Whether connections must be encrypted, and the servers' certificates good.
    pub fn is_encrypted(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("tls://"))
    }
}

impl fmt::Display for NatsServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.urls.join(","))
    }
}
