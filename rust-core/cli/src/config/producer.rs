//! The keys of sources whose rows are sent by producers, checked together.

use ringmill_connect::{FedSpec, FieldSpec};
use ringmill_engine::plan::ProducerSource;

use super::mistake::Mistake;
use super::python::refuse_paths;
use super::raw::Table;
use super::resolve::batch_room;

const SLOTS: i64 = 16;
/// The producer of a source that names none, and of `rm.connect` without `producer`.
const DEFAULT: &str = "default";

/// Reads the table of a source.
pub fn producer_source(table: &Table, fields: Vec<FieldSpec>, mistakes: &mut Vec<Mistake>) -> ProducerSource {
    refuse_paths(table, "producers give columns by their names", mistakes);
    let names = match table.get("producers") {
        None => vec![DEFAULT.to_owned()],
        Some(raw) => {
            let names = table.texts("producers");
            let twice = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name));
            if let Some((_, twice)) = twice {
                let hint = "each producer is a partition with a name of its own";
                mistakes.push(Mistake::at(raw.span, format!("`producers` names `{twice}` twice")).hint(hint));
            }
            if names.is_empty() {
                let message = "`producers` is empty, so nobody could send";
                mistakes.push(Mistake::at(raw.span, message).hint("leave it out for a single producer, \"default\""));
            }
            names
        }
    };
    let (rows_max, variable_bytes_max) = batch_room(table, mistakes);
    let feed = FedSpec {
        origin: "`producers`".to_owned(),
        fields,
        rate: table.number("rate"),
        is_seekable: table.boolean("replayable").unwrap_or(false),
        variable_bytes_max,
        rows_max,
    };
    ProducerSource {
        feed,
        names,
        slots: u32::try_from(table.integer("slots").unwrap_or(SLOTS)).unwrap_or(0),
        is_ended_by_closing: table.text("end") == Some("closed"),
    }
}
