//! A proxy between us and a server: asked to connect us (CONNECT, RFC 9110 9.3.6), also for addresses without encryption.

use std::path::PathBuf;

use crate::Secret;

/// A proxy for requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpProxy {
    /// scheme, host and port: `http://proxy:3128`
    pub url: Secret,
    /// who asks it, if it wants to know (Basic, RFC 7617)
    pub user: Option<String>,
    /// a file with the user's password
    pub password_file: Option<PathBuf>,
}

#[cfg(feature = "http")]
mod open {
    use std::fs;

    use ureq::{Proxy, ProxyProtocol, http::Uri};

    use super::HttpProxy;
    use crate::{ConnectError, Secret, http::client::origin};

    impl HttpProxy {
        /// Whether `url` is one; the reason never repeats it, as there may be a password in it.
        pub fn check_url(url: &Secret) -> Result<(), String> {
            origin(url)
                .map_err(|reason| reason.replace("token_file, or a header", "proxy_user and proxy_password_file"))?;
            let uri: Uri = url.reveal().parse().map_err(|error| format!("this is no address: {error}"))?;
            match uri.path_and_query().map(|path| path.as_str()) {
                None | Some("/") => Ok(()),
                Some(_) => Err("nothing may stand behind its port".to_owned()),
            }
        }

        /// Scheme, host and port.
        pub(in crate::http) fn name(&self) -> Result<String, ConnectError> {
            let wrong = |reason| ConnectError::Target { name: "proxy".to_owned(), reason };
            HttpProxy::check_url(&self.url).and_then(|()| origin(&self.url)).map_err(wrong)
        }

        /// Reads the password.
        pub(in crate::http) fn open(&self) -> Result<Proxy, ConnectError> {
            let name = self.name()?;
            let wrong = |reason: String| ConnectError::Target { name: name.clone(), reason };
            let uri: Uri = name.parse().map_err(|_| wrong("this is no address".to_owned()))?;
            let protocol = match uri.scheme_str() {
                Some("https") => ProxyProtocol::Https,
                _ => ProxyProtocol::Http,
            };
            let mut proxy = Proxy::builder(protocol).host(uri.host().unwrap_or_default());
            if let Some(port) = uri.port_u16() {
                proxy = proxy.port(port);
            }
            if let Some(user) = &self.user {
                let read = |path: &std::path::PathBuf| {
                    fs::read_to_string(path).map_err(|source| ConnectError::Open { path: path.clone(), source })
                };
                let password = self.password_file.as_ref().map(read).transpose()?.unwrap_or_default();
                proxy = proxy.username(user).password(password.trim_end_matches(['\n', '\r']));
            }
            // The library's own words could have the password in them.
            proxy.build().map_err(|_| wrong("it, its user or its password cannot be used".to_owned()))
        }
    }
}

#[cfg(not(feature = "http"))]
impl HttpProxy {
    /// This program was built without HTTP.
    pub fn check_url(_url: &Secret) -> Result<(), String> {
        Ok(())
    }
}
