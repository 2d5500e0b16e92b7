//! What is said about retained results: `retain` of a window step, and `[serve]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ringmill_engine::plan::NodeSpec;
use ringmill_engine::plan::retained::{RetainedSpec, sink};
use ringmill_state::RetainedLimits;

use super::mistake::Mistake;
use super::raw::Table;

/// Only this machine.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The sink that keeps the results of the step called `name`, if they are to be kept.
pub fn retained(name: &str, table: &Table, mistakes: &mut Vec<Mistake>) -> Option<NodeSpec> {
    let retain_ns = table.duration("retain");
    if let Some(entry) = table.entry("retain_size").filter(|_| !table.written.iter().any(|key| key == "retain")) {
        let mistake = Mistake::at(entry.key_span, "`retain_size` has no effect without `retain`");
        mistakes.push(mistake.hint("add retain = \"30d\", for example"));
    }
    let limits = RetainedLimits { retain_ns: retain_ns?, bytes_max: table.size("retain_size") };
    Some(sink(RetainedSpec { step: name.to_owned(), limits }))
}

/// Where retained results are served, if they are; `has_retained`: some step keeps its results.
pub fn listen(root: &Table, has_retained: bool, mistakes: &mut Vec<Mistake>) -> Option<SocketAddr> {
    let table = root.table("serve")?;
    if !has_retained {
        let mistake = Mistake::at(table.span, "[serve] has nothing to serve: no step retains its results");
        mistakes.push(mistake.hint("add retain = \"30d\" to a window step, for example"));
    }
    let Some(raw) = table.get("listen") else { return Some(LISTEN) };
    let text = raw.text()?;
    let port = text.strip_prefix(':').unwrap_or(text).parse().map(|port| SocketAddr::new(LISTEN.ip(), port));
    match text.replacen("localhost:", "127.0.0.1:", 1).parse().or(port) {
        Ok(address) => Some(address),
        Err(_) => {
            let mistake = Mistake::at(raw.span, format!("`listen`: `{text}` is no address with a port"));
            mistakes.push(mistake.hint("write \"127.0.0.1:8080\" for this machine, \"0.0.0.0:8080\" for everybody"));
            None
        }
    }
}
