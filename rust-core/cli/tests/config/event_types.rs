//! Events of several types: what is understood, and what is refused.

use ringmill_connect::TypePlace;
use ringmill_engine::plan::NodeKind;

use crate::{check, good, node};

const STDIN: &str = "kind = \"stdin\"";

/// A source with these keys and two types, whose keys are `order` and `trade`, and a sink of the first.
fn with(source: &str, order: &str, trade: &str) -> String {
    format!(
        "[sources.s]\n{source}\n[sources.s.types.order]\n{order}\n[sources.s.types.trade]\n{trade}\n\
         [sinks.out]\nkind = \"null\"\ninputs = [\"s.order\", \"s.dead_letters\"]\n"
    )
}

const FIELDS: &str = "fields = { a = \"int64\" }";

#[test]
fn each_type_becomes_a_node_with_its_own_columns() {
    let fields =
        "fields = { at = \"timestamp[ms]\", a = \"utf8\" }\nevent_time = \"at\"\nvalues = [\"trade.v1\", \"7\"]";
    let config = good(&with(&format!("{STDIN}\ntype = {{ field = \"/meta/kind\" }}"), FIELDS, fields));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    let types = source.connector.event_types().expect("it has types");
    assert_eq!(*types.place(), TypePlace::Field("/meta/kind".to_owned()));
    assert_eq!(source.event_time.as_deref(), types.time_column());
    let NodeKind::EventType(order) = node(&config, "s.order") else { panic!("a type") };
    assert_eq!(order.event_type().values, ["order"]);
    let NodeKind::EventType(trade) = node(&config, "s.trade") else { panic!("a type") };
    assert_eq!(trade.event_type().values, ["trade.v1", "7"]);
    let kafka = "kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\ntype = { header = \"event-type\" }";
    let config = good(&with(kafka, FIELDS, FIELDS));
    let NodeKind::Source(source) = node(&config, "s") else { panic!("a source") };
    assert_eq!(source.connector.event_types().expect("it has types").header(), Some("event-type"));
}

#[test]
fn what_is_wrong_with_types_is_said_at_its_place() {
    let by_field = format!("{STDIN}\ntype = {{ field = \"kind\" }}");
    let of = |source: &str| with(source, FIELDS, FIELDS);
    check(
        &of(STDIN),
        &["p.toml:1:10: `types` needs `type`, which says how types are told apart (add type = { field = \"kind\" })"],
    );
    check(
        &of(&format!("{by_field}\nfields = {{ a = \"int64\" }}\nevent_time = \"at\"")),
        &[
            "p.toml:4:1: `fields` and `types` exclude each other (each type has fields of its own: [sources.NAME.types.order.fields])",
            "p.toml:5:1: `event_time` stands in each type, if there are `types` (move it to [sources.NAME.types.order])",
        ],
    );
    check(
        &of("kind = \"file\"\npath = \"in.csv\"\ntype = { field = \"kind\" }"),
        &[
            "p.toml:5:12: `types`: all rows of CSV have the same columns, and so one type (read lines of JSON, or add `fields` with all columns and a filter for each type)",
        ],
    );
    check(
        &of(&format!("{STDIN}\ntype = {{ }}")),
        &[
            "p.toml:3:1: `type` needs exactly one key, which says how types are told apart (write type = { field = \"kind\" }, for example)",
        ],
    );
    check(
        &of(&format!("{STDIN}\ntype = {{ header = \"event-type\" }}")),
        &[
            "p.toml:3:1: `type` needs exactly one key, which says how types are told apart (write type = { field = \"kind\" }, for example)",
            "p.toml:3:10: unknown key `header` in `type` (`type` has the keys field)",
        ],
    );
    check(
        &with(&by_field, FIELDS, &format!("{FIELDS}\nvalues = [\"order\"]")),
        &["p.toml:8:10: `order` stands for the type `order` already"],
    );
    check(
        &with(&by_field, FIELDS, "values = [\"t\"]"),
        &[
            "p.toml:6:18: `trade` needs `fields` (Columns to read, in order: name = \"type\" or name = { type, path, nullable }.)",
        ],
    );
    let time = |unit: &str| format!("fields = {{ at = \"timestamp[{unit}]\" }}\nevent_time = \"at\"");
    check(
        &with(&by_field, &time("ms"), &time("us")),
        &[
            "p.toml:9:14: `event_time` is timestamp[us], and that of `order` is timestamp[ms]: they must have the same unit (declare the field as \"timestamp[ms]\")",
        ],
    );
    check(
        &with(&by_field, FIELDS, &format!("{FIELDS}\nevent_time = \"b\"")),
        &["p.toml:8:14: `event_time`: there is no field `b` (name one of the timestamp columns in `fields`)"],
    );
    check(
        &of(&by_field).replace("types.trade", "types.late"),
        &[
            "p.toml:6:18: no type can be called `late`: that is another stream (give it another name, and values = [\"late\"])",
        ],
    );
    check(
        &of(&by_field).replace("types.trade", "types.\"trade.v1\""),
        &[
            "p.toml:6:18: `trade.v1` cannot be a name (names are up to 64 letters, digits, _ and -, and begin with a letter; what events say is told by values = [\"trade.v1\"])",
        ],
    );
    let kafka = "kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\ntype = { schema = true }";
    check(
        &of(kafka),
        &[
            "p.toml:5:1: `schema` tells types of Avro and Protobuf apart, not of JSON (write type = { field = \"kind\" })",
        ],
    );
    let by_header = kafka.replace("schema = true", "header = \"kind\"");
    check(
        &of(&by_header.replace("\"kind\"", "\"a\\u0000b\"")),
        &["p.toml:5:19: \"a\\0b\" is no header's name: it has a zero byte"],
    );
    check(
        &with(
            &format!("{by_header}\nkey_field = \"key\"\nheader_fields = {{ id = \"id\" }}"),
            "fields = { key = \"utf8\", id = \"binary\" }",
            "fields = { key = \"utf8\", id = \"utf8\" }",
        ),
        &[
            "p.toml:7:19: `header_fields.id`: field `id` is binary in one type and utf8 in another ([sources.NAME.fields] id = \"utf8\")",
        ],
    );
}

#[test]
fn what_brokers_cannot_say_of_types_is_refused() {
    let nats = "kind = \"nats\"\nurl = \"nats://b:4222\"\nstream = \"s\"\ntype = { header = \"art:ü\" }";
    check(
        &with(nats, FIELDS, FIELDS),
        &[
            "p.toml:5:19: no message can have a header of the name \"art:ü\" (names of headers in NATS are ASCII without spaces and colons)",
        ],
    );
    let kafka =
        "kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\ntype = { header = \"h\" }\nkey_field = \"a\"";
    let fields = |data_type: &str| format!("fields = {{ a = \"{data_type}\" }}");
    good(&with(kafka, &fields("binary"), &fields("binary")));
    check(
        &with(kafka, &fields("utf8"), &fields("binary")),
        &[
            "p.toml:6:13: `key_field`: field `a` is utf8 in one type and binary in another ([sources.NAME.fields] a = \"utf8\")",
        ],
    );
}

#[test]
fn a_source_without_columns_or_with_a_type_alone_is_refused() {
    let around = |keys: &str| format!("[sources.s]\n{keys}\n[sinks.out]\nkind = \"null\"\ninputs = [\"s\"]\n");
    let needed =
        "a source of kind stdin needs `fields`, or `type` and `types` (add fields = { id = \"int64\" }, for example)";
    check(&around(STDIN), &[&format!("p.toml:1:10: {needed}")]);
    check(
        &around(&format!("{STDIN}\n{FIELDS}\ntype = {{ field = \"kind\" }}")),
        &["p.toml:4:1: `type` has no effect without `types` (declare each type: [sources.NAME.types.order.fields])"],
    );
    check(
        &around(&format!("{STDIN}\ntype = {{ field = \"kind\" }}\ntypes = {{ }}")),
        &["p.toml:4:1: `types` is empty (add [sources.NAME.types.order], for example)"],
    );
}

#[test]
fn the_streams_of_types_are_read_and_not_the_source_s() {
    let text = with(&format!("{STDIN}\ntype = {{ field = \"kind\" }}"), FIELDS, FIELDS);
    check(
        &text.replace("\"s.order\"", "\"s\""),
        &["p.toml:10:11: `s` has events of several types, each with a stream of its own (name them: s.order, s.trade)"],
    );
    check(
        &text.replace("\"s.order\"", "\"s.ordr\""),
        &["p.toml:10:11: there is no stream `s.ordr` (did you mean `s.order`?)"],
    );
}

#[test]
fn schemas_tell_types_of_messages_that_a_registry_knows() {
    let kafka = |keys: &str| {
        let source = format!("kind = \"kafka\"\nbrokers = [\"b:9092\"]\ntopics = [\"t\"]\n{keys}");
        with(&source, &format!("{FIELDS}\nvalues = [\"shop.Order\"]"), FIELDS)
    };
    let registry = "registry = \"http://registry:8081\"";
    for format in ["avro", "protobuf"] {
        good(&kafka(&format!("format = \"{format}\"\n{format} = {{ {registry} }}\ntype = {{ schema = true }}")));
    }
    check(
        &kafka(&format!("format = \"avro\"\navro = {{ {registry} }}\ntype = {{ field = \"kind\" }}")),
        &["p.toml:7:1: with format = \"avro\" types are told apart by their schemas (write type = { schema = true })"],
    );
    check(
        &kafka(&format!(
            "format = \"protobuf\"\nprotobuf = {{ {registry}, message = \"a.B\" }}\ntype = {{ schema = true }}"
        )),
        &["p.toml:6:49: `message` is that of one type, and there are several (remove it)"],
    );
}
