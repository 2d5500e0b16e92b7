//! `ringbuf-spec/layout.toml` and the crate say the same.

use ringmill_ring::{CompletionKind, FileRole, NO_SLOT, SubmissionKind, layout};
use toml::{Table, Value};

pub fn specification() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ringbuf-spec")
}

fn table() -> Table {
    std::fs::read_to_string(specification().join("layout.toml")).unwrap().parse().unwrap()
}

#[test]
fn every_field_lies_where_the_specification_says() {
    let table = table();
    for field in layout::FIELDS {
        let entry = &table[field.section][field.name];
        let number = |key: &str| usize::try_from(entry[key].as_integer().unwrap()).unwrap();
        assert_eq!(
            (number("offset"), number("bytes")),
            (field.offset, field.bytes),
            "{}.{}",
            field.section,
            field.name
        );
    }
    let sections = ["header", "request_state", "response_state", "descriptor"];
    let specified: usize = sections.iter().map(|section| table[*section].as_table().unwrap().len()).sum();
    assert_eq!(specified, layout::FIELDS.len(), "layout.toml has fields that the crate has not");
}

#[test]
fn constants_and_kinds_are_those_of_the_specification() {
    let table = table();
    let constant = |name: &str| table["constants"][name].as_integer().unwrap() as u64;
    assert_eq!(constant("magic"), layout::MAGIC);
    assert_eq!(constant("version_major"), u64::from(layout::VERSION_MAJOR));
    assert_eq!(constant("version_minor"), u64::from(layout::VERSION_MINOR));
    assert_eq!(constant("header_bytes"), layout::HEADER_BYTES as u64);
    assert_eq!(constant("ring_offset"), layout::RING_OFFSET);
    assert_eq!(constant("descriptor_bytes"), layout::DESCRIPTOR_BYTES as u64);
    assert_eq!(constant("line_bytes"), layout::LINE_BYTES as u64);
    assert_eq!(constant("slots_max"), u64::from(layout::SLOTS_MAX));
    assert_eq!(constant("no_slot"), u64::from(NO_SLOT));
    let hash = format!("{:#018x}", layout::LAYOUT_HASH);
    assert_eq!(table["constants"]["layout_hash"].as_str(), Some(hash.as_str()));
    let number = |value: &Value, name: &str| value[name].as_integer().unwrap();
    assert_eq!(number(&table["roles"], "request"), FileRole::Request as i64);
    assert_eq!(number(&table["roles"], "response"), FileRole::Response as i64);
    let submission = &table["kinds"]["submission"];
    assert_eq!(number(submission, "batch"), SubmissionKind::Batch as i64);
    assert_eq!(number(submission, "drain"), SubmissionKind::Drain as i64);
    assert_eq!(number(submission, "snapshot"), SubmissionKind::Snapshot as i64);
    assert_eq!(number(submission, "restore"), SubmissionKind::Restore as i64);
    assert_eq!(number(submission, "fill"), SubmissionKind::Fill as i64);
    let completion = &table["kinds"]["completion"];
    assert_eq!(number(completion, "result"), CompletionKind::Result as i64);
    assert_eq!(number(completion, "failed"), CompletionKind::Failed as i64);
    assert_eq!(number(completion, "lease_released"), CompletionKind::LeaseReleased as i64);
    assert_eq!(number(completion, "ready"), CompletionKind::Ready as i64);
}

#[test]
fn rings_have_room_for_all_that_can_be_unread() {
    for slots in (0..=10).map(|power| 1 << power) {
        for (role, unread_max) in [(FileRole::Request, slots + 1), (FileRole::Response, 2 * slots + 1)] {
            let geometry = layout::Geometry::new(role, slots, 1000).unwrap();
            assert!(geometry.ring_entries > unread_max && geometry.ring_entries.is_power_of_two());
            assert!(geometry.ring_offset + u64::from(geometry.ring_entries) * 64 <= geometry.slots_offset);
            assert!(geometry.slot_offset(slots - 1) as u64 + geometry.slot_stride <= geometry.file_bytes);
            assert!(geometry.slot_bytes <= geometry.slot_stride);
        }
    }
}
