//! What becomes of schemas, whatever their format.

use super::{Known, Registry, Schema, testing::Server};

fn outcome(registry: &Registry<String>, id: u32) -> String {
    loop {
        match registry.ask(id).unwrap() {
            Known::Later => std::thread::yield_now(),
            Known::Found(found) => return found.to_string(),
            Known::Refused(reason) => return reason.to_string(),
        }
    }
}

#[test]
fn a_schema_that_makes_its_reader_panic_cannot_be_read_and_others_can() {
    let server = Server::with(&["bad", "good"]);
    let read = |Schema { schema, .. }| if schema == "bad" { panic!("a test's own") } else { Ok(schema) };
    let registry = Registry::open(&server.spec, "AVRO", read).unwrap();
    let expected = "schema 1 of the registry cannot be read: it makes its reader panic";
    assert_eq!([outcome(&registry, 1), outcome(&registry, 2)], [expected, "good"]);
}

#[test]
fn what_a_schema_refers_to_has_a_longest_length_and_may_refer_to_itself() {
    let server = Server::with(&[]);
    let found = |schema: &str, subjects: &[&str]| {
        let references: Vec<_> = subjects
            .iter()
            .map(|subject| serde_json::json!({ "name": subject, "subject": subject, "version": 1 }))
            .collect();
        serde_json::json!({ "schema": schema, "references": references }).to_string()
    };
    let half = "x".repeat(9 << 20);
    server.answer("/schemas/ids/1", "200 OK", &found("root", &["half"]));
    server.answer("/subjects/half/versions/1", "200 OK", &found(&half, &["other"]));
    server.answer("/subjects/other/versions/1", "200 OK", &found(&half, &[]));
    server.answer("/schemas/ids/2", "200 OK", &found("root", &["self"]));
    server.answer("/subjects/self/versions/1", "200 OK", &found("self", &["self"]));
    let read = |schema: Schema| Ok(format!("{} {}", schema.schema, schema.others.len()));
    let registry = Registry::open(&server.spec, "AVRO", read).unwrap();
    let expected = "it refers to more than 16 MiB of others";
    assert_eq!([outcome(&registry, 1), outcome(&registry, 2)], [expected, "root 1"]);
}
