use bytes::Bytes;

use super::{
    NatsLogin, NatsServers, NatsSink, NatsSpec,
    extent::Extent,
    queue::{Headers, Message},
    reader::first_gap,
};

#[test]
fn servers_have_a_scheme_a_host_and_perhaps_a_port() {
    let urls = |text: &str| NatsServers::parse(text).map(|servers| servers.to_string());
    for (text, expected) in [
        ("nats://localhost", "nats://localhost:4222"),
        ("tls://a:1, tls://b/", "tls://a:1,tls://b:4222"),
        ("nats://[::1]", "nats://[::1]:4222"),
        ("nats://[::1]:7", "nats://[::1]:7"),
    ] {
        assert_eq!(urls(text), Ok(expected.to_owned()));
    }
    assert_eq!(NatsServers::parse("nats://a").unwrap().login, NatsLogin::Nobody);
    assert!(NatsServers::parse("tls://a").unwrap().is_encrypted());
    for text in ["", "localhost", "ws://a", "nats://", "nats://a:0", "nats://a,", "nats://a,tls://b", "nats://a/b"] {
        assert!(urls(text).is_err(), "{text}");
    }
    assert!(!urls("nats://me:secret@a").unwrap_err().contains("secret"));
}

#[test]
fn names_and_subjects_are_what_servers_take() {
    for (name, expected) in
        [("EVENTS", true), ("a-b_c", true), ("", false), ("a.b", false), ("a b", false), ("a*", false)]
    {
        assert_eq!(NatsSpec::is_name(name), expected, "{name}");
    }
    for (subject, expected) in [
        ("a", true),
        ("a.*.c", true),
        ("a.>", true),
        (">", true),
        ("", false),
        ("a.", false),
        (".a", false),
        ("a..b", false),
        (">.a", false),
        ("a*", false),
        ("a b", false),
    ] {
        assert_eq!(NatsSpec::is_subject(subject), expected, "{subject}");
    }
}

#[test]
fn names_that_no_header_can_have_are_known() {
    for (name, expected) in
        [("event-type", true), ("Nats-Msg-Id", true), ("", false), ("a b", false), ("a:b", false), ("ü", false)]
    {
        assert_eq!(NatsSpec::is_header(name), expected, "{name}");
        assert_eq!(!name.is_empty() && name.parse::<async_nats::HeaderName>().is_ok(), expected, "{name}: the client");
    }
}

#[test]
fn subjects_are_known_by_their_patterns() {
    for (subject, pattern, expected) in [
        ("a.b", "a.b", true),
        ("a.b", "a.*", true),
        ("a.b.c", "a.>", true),
        ("a", ">", true),
        ("a", "a.>", false),
        ("a.b.c", "a.*", false),
        ("a", "a.*", false),
        ("b", "a", false),
        ("a.*", "*.b", true),
        ("a.*.c", "a.b.>", true),
        ("a.*", "b.>", false),
        ("a.>", "a", false),
    ] {
        assert_eq!(NatsSpec::meet(subject, pattern), expected, "{subject} {pattern}");
        assert_eq!(NatsSpec::meet(pattern, subject), expected, "{pattern} {subject}");
    }
    assert!(NatsSink::is_subject("a.b") && !NatsSink::is_subject("a.*") && !NatsSink::is_subject("a.>"));
}

#[test]
fn what_a_stream_lacks_is_missed() {
    let stream = Extent { created_ns: 7, first: 10, end: 20 };
    for (next, created_ns, reason) in [
        (10, 7, None),
        (20, 7, None),
        (9, 7, Some("messages 9 to 9 went before they were read")),
        (1, 7, Some("messages 1 to 9 went before they were read")),
        (21, 7, Some("message 21 would be next, and the stream ends before message 20")),
        (15, 8, Some("deleted and created anew")),
    ] {
        match (stream.check(next, created_ns), reason) {
            (Ok(()), None) => {}
            (Err(found), Some(reason)) if found.contains(reason) => {}
            (found, _) => panic!("{next}: {found:?}"),
        }
    }
}

#[test]
fn a_gap_begins_where_the_first_message_is_missing() {
    for (next, sequences, gap) in
        [(1, &[][..], None), (1, &[1, 2, 3], None), (1, &[2, 3], Some(1)), (1, &[1, 2, 5, 9], Some(3))]
    {
        let message = |sequence: &u64| Message {
            sequence: *sequence,
            subject: String::new(),
            payload: Bytes::new(),
            headers: Headers::None,
            bytes: 0,
            taken_ns: 0,
        };
        assert_eq!(first_gap(next, &sequences.iter().map(message).collect::<Vec<_>>()), gap, "{sequences:?}");
    }
}

#[test]
fn of_headers_that_are_no_text_the_last_of_a_name_counts() {
    let bytes = b"NATS/1.0\r\na: 1\r\nA: 2\r\na:\xff\r3 \r\nab: 4\r\nno header\r\n\r\n".to_vec();
    let message = Message {
        sequence: 1,
        subject: String::new(),
        payload: Bytes::new(),
        headers: Headers::Bytes(bytes),
        bytes: 0,
        taken_ns: 0,
    };
    let value = |name: &str| message.header(&name.parse().unwrap());
    assert_eq!(value("a"), Some(&b"\xff\r3"[..]));
    assert_eq!((value("A"), value("ab")), (Some(&b"2"[..]), Some(&b"4"[..])));
    assert_eq!((value("b"), value("NATS/1.0")), (None, None));
}
