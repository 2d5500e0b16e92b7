//! Where a server is.

/// `host` or `host:port`; an IPv6 address stands in brackets. The reason why it is none repeats nothing of it, as it may be
/// a password.
pub(crate) fn host_and_port(text: &str, port: u16) -> Result<(&str, u16), &'static str> {
    let is_bare_ipv6 = text.ends_with(']');
    let (host, port) = match text.rsplit_once(':').filter(|_| !is_bare_ipv6) {
        None => (text, port),
        Some((host, port)) => (host, port.parse().map_err(|_| "its port must be a number from 1 to 65535")?),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(['/', '?', '#', ' ', '[', ']']) || port == 0 {
        return Err("behind the scheme there is a host and perhaps a port, and nothing else");
    }
    Ok((host, port))
}
