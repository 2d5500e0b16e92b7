use super::{Broker, line};

fn written(payload: &str, topic: Option<(&str, &str)>) -> String {
    let mut out = b"before\n".to_vec();
    line::write(payload.as_bytes(), topic, &mut out);
    String::from_utf8(out).unwrap().strip_prefix("before\n").unwrap().to_owned()
}

#[test]
fn a_message_is_one_line_whatever_is_in_it() {
    assert_eq!(written("{\"a\":1}", None), "{\"a\":1}\n");
    assert_eq!(written(" {\n  \"a\": 1\n}\n", None), "{\r  \"a\": 1\r}\n");
    let line = written("{\n \"a\": \"x\n\"}", None);
    assert_eq!(line, "{\r \"a\": \"x\r\"}\n");
    assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "a line end within a text stays forbidden");
}

#[test]
fn the_topic_is_the_last_member_of_an_object() {
    let topic = Some(("topic", "plant/\"7\"/x"));
    for (payload, expected) in [
        ("{\"a\":1}", "{\"a\":1,\"topic\":\"plant/\\\"7\\\"/x\"}\n"),
        ("{ }", "{ \"topic\":\"plant/\\\"7\\\"/x\"}\n"),
        ("[1]", "[1]\n"),
        ("7", "7\n"),
        ("{", "{\n"),
        ("}", "}\n"),
    ] {
        assert_eq!(written(payload, topic), expected);
    }
}

#[test]
fn what_is_no_object_does_not_become_one_by_its_topic() {
    for payload in
        ["{\"a\":1,}", "{,}", "{\"a\":{\"b\":1}", "{\"a\":\"x}", "{\"a\":{\"b\":\"}", "{}{}", "{\"a\"}", "{\"a\":}"]
    {
        assert!(serde_json::from_str::<serde_json::Value>(payload).is_err());
        let line = written(payload, Some(("topic", "t")));
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_err(), "{line}");
    }
}

#[test]
fn a_broker_s_address_has_a_scheme_a_host_and_perhaps_a_port() {
    let broker = |host: &str, port, is_encrypted| Ok(Broker { host: host.to_owned(), port, is_encrypted });
    assert_eq!(Broker::parse("mqtt://localhost"), broker("localhost", 1883, false));
    assert_eq!(Broker::parse("mqtts://example.org/"), broker("example.org", 8883, true));
    assert_eq!(Broker::parse("mqtt://10.0.0.1:1884"), broker("10.0.0.1", 1884, false));
    assert_eq!(Broker::parse("mqtt://[::1]"), broker("::1", 1883, false));
    assert_eq!(Broker::parse("mqtts://[::1]:8884"), broker("::1", 8884, true));
    for url in [
        "localhost:1883",
        "tcp://localhost",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://host:0",
        "mqtt://host:65536",
        "mqtt://host:port",
        "mqtt://host/path",
        "mqtt://host?a=b",
        "mqtt://user:secret@host",
    ] {
        let reason = Broker::parse(url).expect_err(url);
        assert!(!reason.contains("secret"));
    }
}
