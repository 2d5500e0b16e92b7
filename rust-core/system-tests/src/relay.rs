//! A way to a server on which connections break, at any byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::spawn;

use crate::chaos::Chance;

/// Hands on what comes to its own port and what is answered. Its threads end with the test.
pub struct Relay {
    port: u16,
    state: Arc<State>,
}

struct State {
    server: AtomicU16,
    /// for how many bytes each connection is good
    chance: Mutex<(Chance, u64, u64)>,
    /// connections that are still to be cut
    left: AtomicU64,
}

impl Relay {
    /// To a server at this port; so many connections are cut after so many bytes each, to and fro, at least and at most.
    pub fn to(server: u16, chance: Chance, cuts: u64, (least, most): (u64, u64)) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        let server = AtomicU16::new(server);
        let state = State { server, chance: Mutex::new((chance, least, most)), left: AtomicU64::new(cuts) };
        let state = Arc::new(state);
        let own = Relay { port, state: Arc::clone(&state) };
        spawn(move || {
            for client in listener.incoming().flatten() {
                // Without a server there is no connection.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", state.server.load(Ordering::Relaxed))) {
                    join(&state, client, server);
                }
            }
        });
        own
    }

    /// Its port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on connections are to another server.
    pub fn lead_to(&self, server: u16) {
        self.state.server.store(server, Ordering::Relaxed);
    }

    /// Connections that were not cut yet and are to be.
    pub fn left(&self) -> u64 {
        self.state.left.load(Ordering::Relaxed)
    }
}

fn join(state: &Arc<State>, client: TcpStream, server: TcpStream) {
    let bytes = {
        let mut chance = state.chance.lock().expect("no other thread has failed");
        let (chance, least, most) = &mut *chance;
        *least + chance.below(*most - *least)
    };
    let good_for = Arc::new(AtomicU64::new(bytes));
    let copies = [(&client, &server), (&server, &client)];
    for (from, to) in copies.map(|(from, to)| (from.try_clone(), to.try_clone())) {
        let (from, to) = (from.expect("a socket"), to.expect("a socket"));
        let (state, good_for) = (Arc::clone(state), Arc::clone(&good_for));
        spawn(move || copy(&state, &good_for, from, to));
    }
}

fn copy(state: &State, good_for: &AtomicU64, mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 512];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let before = good_for.load(Ordering::Relaxed);
        let is_cut = before <= length as u64 && state.left.load(Ordering::Relaxed) > 0;
        let length = if is_cut { before as usize } else { length };
        good_for.store(before.saturating_sub(length as u64), Ordering::Relaxed);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
        if is_cut {
            let _ = state.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            break;
        }
    }
    // The other direction ends with it.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
