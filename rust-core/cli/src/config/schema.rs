//! The JSON Schema of configuration files, made from [`super::keys`], for editors (Taplo, VS Code) and other tools.
//! `ringmill schema` prints it; `pipeline.schema.json` beside this crate is the committed copy.

use serde_json::{Map, Value, json};

use super::keys::{Key, Kind, ROOT, Variant};
use super::raw::DATA_TYPES;

/// A number with a unit of time, one or more times.
const DURATION_PATTERN: &str = r"^\s*([0-9_]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d)\s*)+$";
/// A number with a unit of size.
const SIZE_PATTERN: &str = r"^\s*[0-9_]+(\.[0-9]+)?\s*([kKmMgGtT][iI]?)?[bB]\s*$";

/// The schema as indented text, keys sorted.
pub fn json_schema() -> String {
    let mut root = table(ROOT);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Ringmill pipeline");
    format!("{:#}\n", sorted(root))
}

/// Rebuilt in the order of the keys, so that the text does not depend on how serde_json was built.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|left, right| left.0.cmp(&right.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn table(keys: &[Key]) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| {
            let mut schema = of_kind(&key.kind);
            schema["description"] = json!(key.doc);
            (key.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn variant(variant: &Variant) -> Value {
    let mut schema = table(variant.keys);
    schema["description"] = json!(variant.doc);
    if let Some(promise) = variant.promise {
        schema["x-guarantee"] = json!(promise.to_string());
    }
    schema["properties"]["kind"] = json!({ "const": variant.kind });
    if let Some(required) = schema["required"].as_array_mut() {
        required.push(json!("kind"));
    }
    schema
}

fn of_kind(kind: &Kind) -> Value {
    match kind {
        Kind::Text | Kind::Secret => json!({ "type": "string" }),
        Kind::Filled => json!({ "type": "string", "minLength": 1 }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(min, i64::MAX) => json!({ "type": "integer", "minimum": min }),
        Kind::Integer(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::PowerOfTwo(min, max) => json!({ "enum": powers(*min, *max) }),
        Kind::Number { above, inclusive: true, max } => json!({ "type": "number", "minimum": above, "maximum": max }),
        Kind::Number { above, inclusive: false, max } => {
            json!({ "type": "number", "exclusiveMinimum": above, "maximum": max })
        }
        Kind::Duration | Kind::Length => json!({ "type": "string", "pattern": DURATION_PATTERN }),
        Kind::Size => json!({ "type": "string", "pattern": SIZE_PATTERN }),
        Kind::Choice(words) => json!({ "enum": words }),
        Kind::DataType => json!({ "enum": DATA_TYPES }),
        Kind::Timestamp => json!({ "type": "string", "format": "date-time" }),
        Kind::List(kind) => json!({ "type": "array", "items": of_kind(kind) }),
        Kind::Streams => json!({ "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 }),
        Kind::Map(kind) => json!({ "type": "object", "additionalProperties": of_kind(kind) }),
        Kind::Anything => json!({ "type": "object", "additionalProperties": true }),
        Kind::Table(keys) => table(keys),
        Kind::Variants(variants) => json!({ "oneOf": variants.iter().map(variant).collect::<Vec<_>>() }),
        Kind::OrTable(kind, keys) => json!({ "anyOf": [of_kind(kind), table(keys)] }),
    }
}

fn powers(min: i64, max: i64) -> Vec<i64> {
    (0..62).map(|shift| 1i64 << shift).filter(|power| (min..=max).contains(power)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_schema_is_fresh() {
        let committed = include_str!("../../pipeline.schema.json");
        assert!(committed == super::json_schema(), "run `ringmill schema > rust-core/cli/pipeline.schema.json`");
    }
}
