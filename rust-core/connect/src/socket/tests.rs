//! Real connections, and the stream that they make.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

use super::{Address, Lines, Listener};
use crate::ConnectError;

const RECORD_BYTES_MAX: usize = 200_000;

fn unix(path: &Path, connections_max: usize) -> Lines {
    Lines::new(Listener::bind(&Address::Unix(path.to_owned())).unwrap(), RECORD_BYTES_MAX, connections_max)
}

/// Reads until there are so many lines.
fn read_lines(lines: &mut Lines, count: usize) -> Vec<String> {
    let (mut text, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
    while memchr::memchr_iter(b'\n', &text).count() < count {
        let read = lines.read(&mut buffer).unwrap();
        assert_eq!(buffer[read - 1], b'\n', "only whole lines");
        text.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn lines_of_many_connections_are_never_mixed_and_keep_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let mut lines = unix(&path, 3);
    const SENDERS: usize = 8;
    const EACH: usize = 2_000;
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let path = path.clone();
            thread::spawn(move || {
                let mut stream = UnixStream::connect(path).unwrap();
                let text: String =
                    (0..EACH).map(|line| format!("{sender}:{line}:{}\n", "x".repeat(line % 300))).collect();
                // In pieces that end anywhere.
                for piece in text.as_bytes().chunks(777 + sender) {
                    stream.write_all(piece).unwrap();
                }
            })
        })
        .collect();
    let mut next: BTreeMap<usize, usize> = BTreeMap::new();
    for line in read_lines(&mut lines, SENDERS * EACH) {
        let mut parts = line.split(':');
        let (sender, number) = (parts.next().unwrap().parse().unwrap(), parts.next().unwrap().parse().unwrap());
        let expected = next.entry(sender).or_insert(0);
        assert_eq!((number, parts.next().unwrap().len()), (*expected, *expected % 300), "{line}");
        *expected += 1;
    }
    assert!(next.len() == SENDERS && next.values().all(|count| *count == EACH));
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[test]
fn a_line_that_is_too_long_is_cut_and_hurts_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let mut lines = unix(&path, 10);
    let sender = thread::spawn(move || {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.write_all(b"before\n").unwrap();
        stream.write_all(&vec![b'y'; 5_000_000]).unwrap();
        stream.write_all(b"\nafter\nlast without its end").unwrap();
    });
    let found = read_lines(&mut lines, 4);
    sender.join().unwrap();
    assert_eq!((found.len(), &*found[0], &*found[2], &*found[3]), (4, "before", "after", "last without its end"));
    assert_eq!(found[1].len(), RECORD_BYTES_MAX + 2);
}

#[test]
fn a_carriage_return_within_a_line_that_is_too_long_does_not_make_it_a_shorter_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let mut lines = unix(&path, 10);
    let sender = thread::spawn(move || {
        let line = [vec![b'y'; RECORD_BYTES_MAX], b"\rand more\nnext\n".to_vec()].concat();
        UnixStream::connect(path).unwrap().write_all(&line).unwrap();
    });
    let found = read_lines(&mut lines, 2);
    sender.join().unwrap();
    assert!(found[0].trim_end_matches('\r').len() > RECORD_BYTES_MAX, "its reader finds out that it is too long");
    assert_eq!(found[1], "next");
}

#[test]
fn a_port_of_this_machine_can_be_written_to() {
    let listener = Listener::bind(&Address::Tcp("127.0.0.1:0".to_owned())).unwrap();
    let Listener::Tcp(inner) = &listener else { unreachable!() };
    let address = inner.local_addr().unwrap();
    let mut lines = Lines::new(listener, RECORD_BYTES_MAX, 10);
    TcpStream::connect(address).unwrap().write_all(b"one\ntwo").unwrap();
    assert_eq!(read_lines(&mut lines, 2), ["one", "two"]);
    let taken = Listener::bind(&Address::Tcp(address.to_string()));
    assert!(matches!(taken, Err(ConnectError::Listen { .. })));
}

#[test]
fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let address = Address::Unix(path.clone());
    drop(UnixListener::bind(&path).unwrap());
    let listener = Listener::bind(&address).unwrap();
    let refused = Listener::bind(&address).err().map(|error| error.to_string());
    assert_eq!(refused, Some(format!("cannot listen at {}: Address already in use (os error 98)", path.display())));
    drop(listener);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&address).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
