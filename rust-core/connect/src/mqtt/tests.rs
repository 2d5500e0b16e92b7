use super::Broker;

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
