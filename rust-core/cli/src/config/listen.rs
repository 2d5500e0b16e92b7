//! Where something listens: `listen` of `[serve]` and of sources.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::mistake::Mistake;
use super::raw::Table;
use super::text::Span;

/// Only this machine.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The address in a table; `None`: what stands there is none.
pub fn address(table: &Table, mistakes: &mut Vec<Mistake>) -> Option<SocketAddr> {
    let Some(raw) = table.get("listen") else { return Some(LISTEN) };
    let text = raw.text()?;
    let found = parse(text);
    if found.is_none() {
        let mistake = Mistake::at(raw.span, format!("`listen`: `{text}` is no address with a port"));
        mistakes.push(mistake.hint("write \"127.0.0.1:8080\" for this machine, \"0.0.0.0:8080\" for everybody"));
    }
    found
}

/// A port alone, and `:` and a port, are on this machine.
fn parse(text: &str) -> Option<SocketAddr> {
    let port = || text.strip_prefix(':').unwrap_or(text).parse().map(|port| SocketAddr::new(LISTEN.ip(), port));
    text.replacen("localhost:", "127.0.0.1:", 1).parse().or_else(|_| port()).ok()
}

/// Refuses an address at which two things would listen.
pub fn check(root: &Table, mistakes: &mut Vec<Mistake>) {
    let mut taken: Vec<(SocketAddr, String)> = Vec::new();
    let sources = root.children("sources").iter().filter_map(|entry| Some((entry.key.as_str(), entry.raw.table()?)));
    let sources = sources.filter(|(_, table)| table.kind == "http");
    let serve = root.table("serve").map(|table| ("[serve]", table));
    for (name, table) in serve.into_iter().chain(sources) {
        let raw = table.get("listen");
        let Some(address) = raw.map_or(Some(LISTEN), |raw| parse(raw.text()?)) else { continue };
        let place: Span = raw.map_or(table.span, |raw| raw.span);
        match taken.iter().find(|(other, _)| *other == address && address.port() != 0) {
            Some((_, other)) => {
                let mistake = Mistake::at(place, format!("`listen`: {other} listens at {address} already"));
                mistakes.push(mistake.hint("give one of them another port"));
            }
            None => taken.push((address, name.to_owned())),
        }
    }
}
