//! Proxies that do not connect us.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use crate::{ConnectError, HttpProxy, Secret, schema_of, testing::fields, testing::http_sink::sink_to};

/// A proxy that answers every connection so, and what each was asked first.
fn proxy(answer: Option<Vec<u8>>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, questions) = mpsc::channel();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
            let _ = asked.send(lines.next().unwrap_or_default());
            lines.find(String::is_empty);
            match &answer {
                // The client may have gone before it has heard all of it.
                Some(answer) => _ = (&connection).write_all(answer),
                None => silent.push(connection),
            }
        }
    });
    (address, questions)
}

fn failure(url: &str, answer: Option<Vec<u8>>) -> (ConnectError, String) {
    let (address, questions) = proxy(answer);
    let mut sink = sink_to(url);
    sink.timeout = Duration::from_millis(500);
    sink.proxy = Some(HttpProxy { url: Secret::new(format!("http://{address}")), user: None, password_file: None });
    let mut writer = sink.open(&schema_of(&fields(&["x:int64"])).unwrap(), None, None).unwrap();
    let error = writer.write(1, b"{\"x\":1}\n").unwrap_err();
    (error, questions.recv().unwrap())
}

#[test]
fn a_proxy_that_may_connect_us_later_is_waited_for_and_one_that_refuses_us_is_not() {
    let status = |status: &str| Some(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").into_bytes());
    for (answer, is_transient, said) in [
        (status("407 Who"), false, "the proxy answers 407 Proxy Authentication Required: look at proxy_user"),
        (status("403 No"), false, "the proxy answers 403 Forbidden"),
        (status("429 Slowly"), true, "the proxy answers 429"),
        (status("502 Away"), true, "the proxy answers 502"),
        (Some(b"SSH-2.0-nothing\r\n\r\n".to_vec()), true, ""),
        (Some(vec![b'a'; 1 << 20]), true, ""),
        (Some(Vec::new()), true, ""),
        (None, true, "timeout"),
    ] {
        let (error, asked) = failure("https://somewhere.invalid/rows", answer.clone());
        let told = error.to_string();
        let answer = answer.map(|answer| String::from_utf8_lossy(&answer[..answer.len().min(20)]).into_owned());
        assert_eq!(error.is_transient(), is_transient, "{answer:?}: {told}");
        assert!(told.contains(said) && told.contains("(through http://127.0.0.1:"), "{answer:?}: {told}");
        assert_eq!(asked, "CONNECT somewhere.invalid:443 HTTP/1.1");
    }
}

#[test]
fn a_proxy_is_asked_for_an_address_of_version_6_in_brackets() {
    let (_, asked) = failure("http://[2001:db8::1]:8080/rows", Some(Vec::new()));
    assert_eq!(asked, "CONNECT [2001:db8::1]:8080 HTTP/1.1");
    let proxy = HttpProxy { url: Secret::new("http://[::1]:3128"), user: Some("me".into()), password_file: None };
    let opened = proxy.open().unwrap();
    assert_eq!((opened.host(), opened.port()), ("[::1]", 3128));
}
