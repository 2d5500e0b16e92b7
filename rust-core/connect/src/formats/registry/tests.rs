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
