//! Whatever a row was made of is found again by its tag.

use std::{fs, io::Write, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    FileSpec, Format, GeneratorSpec, Order, Partition, Poll,
    testing::{self, Letters, fields},
};

fn spec(path: &str, format: Format, order: Order) -> FileSpec {
    let fields = fields(&["x:int64", "t:utf8"]);
    FileSpec {
        path: path.to_owned(),
        format: format.into(),
        fields: fields.into(),
        rate: None,
        order,
        record_bytes_max: 1000,
        decode_threads: 0,
    }
}

/// Waits for the record of a tag.
fn find(places: &Places, tag: u64) -> Option<Origin> {
    let (woken, wake) = bounded(1);
    let look_up = places.look_up(
        tag,
        Arc::new(move || {
            let _ = woken.try_send(());
        }),
    )?;
    loop {
        if let Some(Trace { origin: Some(origin), .. }) = look_up.poll() {
            return Some(origin);
        }
        let _ = wake.recv();
    }
}

impl Places {
    /// The same places with another reader, which has nothing open.
    fn again(places: &Places) -> Places {
        Places { known: Mutex::new(lock(&places.known).clone()), reader: Mutex::default() }
    }
}

/// The tags of all rows, in their order, and the rows' first column.
fn tags(partition: &mut dyn Partition, places: &Arc<Places>, spec: &FileSpec) -> Vec<(u64, i64)> {
    partition.note_places(places, "in");
    let mut batch = testing::batch(&spec.schema().unwrap(), 7, 1 << 12).tagged(true);
    let mut tags = Vec::new();
    loop {
        batch.clear();
        let poll = testing::poll(partition, &mut batch, &mut Letters::default(), 7).unwrap();
        let view = batch.view();
        tags.extend(view.column(0).values::<i64>().iter().enumerate().map(|(row, x)| (view.tag(row), *x)));
        if poll == Poll::End {
            return tags;
        }
    }
}

/// Rows of which some do not parse, and in CSV some run over lines; with each row's record.
fn text(format: Format, rows: &[(i64, bool, bool)]) -> (Vec<u8>, Vec<(i64, Vec<u8>)>) {
    let (mut text, mut records) = (Vec::new(), Vec::new());
    if format == Format::Csv {
        text.extend(b"x,t\r\n");
    }
    for &(x, is_broken, is_odd) in rows {
        let record = match (format, is_broken) {
            (Format::Json, true) => "nonsense".to_owned(),
            (Format::Json, false) => format!("{{\"x\":{x},\"t\":\"é\"}}"),
            (Format::Csv | Format::Raw, true) => "nonsense,1".to_owned(),
            (Format::Csv | Format::Raw, false) if is_odd => format!("{x},\"a \"\"line\"\",\nand another\""),
            (Format::Csv | Format::Raw, false) => format!("{x},a"),
        };
        text.extend(record.as_bytes());
        text.extend(if is_odd { &b"\r\n"[..] } else { b"\n" });
        if !is_broken {
            records.push((x, record.into_bytes()));
        }
    }
    (text, records)
}

fn compress(name: &str, bytes: &[u8]) -> Vec<u8> {
    match name {
        "gz" => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        }
        "zst" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_row_is_traced_to_its_record(
        rows in prop::collection::vec((0_i64..1000, prop::bool::weighted(0.2), any::<bool>()), 1..60),
        format in prop::sample::select(vec![Format::Json, Format::Csv]),
        name in prop::sample::select(vec!["plain", "gz", "zst"]),
        order in prop::sample::select(vec![Order::Parallel, Order::Sequential]),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (bytes, records) = text(format, &rows);
        for file in ["a", "b"] {
            fs::write(folder.path().join(format!("{file}.{name}")), compress(name, &bytes)).unwrap();
        }
        let spec = spec(&format!("{}/*", folder.path().display()), format, order);
        let places = Arc::new(Places::default());
        let mut found = Vec::new();
        for (_, mut partition) in spec.open(1, &[], None).unwrap() {
            for (tag, x) in tags(&mut *partition, &places, &spec) {
                let origin = find(&places, tag).unwrap();
                assert_eq!(&*origin.source, "in");
                let record = origin.record.unwrap().unwrap();
                let at = origin.offset as usize;
                assert_eq!(&bytes[at..at + record.len()], &record[..]);
                found.push((origin.partition.to_string(), x, record));
            }
        }
        let path = |file: &str| folder.path().join(format!("{file}.{name}")).to_str().unwrap().to_owned();
        let expected = ["a", "b"].map(|file| records.iter().map(|(x, record)| (path(file), *x, record.clone())).collect());
        assert_eq!(found, expected.map(|rows: Vec<_>| rows).concat());
    }
}

#[test]
fn a_file_that_is_gone_replaced_or_cut_is_said_to_be() {
    for name in ["plain", "gz"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes = text(Format::Json, &[(1, false, false), (2, false, false)]).0;
        let write = |bytes: &[u8]| fs::write(&path, compress(name, bytes)).unwrap();
        write(&bytes);
        let spec = spec(path.to_str().unwrap(), Format::Json, Order::Parallel);
        let places = Arc::new(Places::default());
        let tags = tags(&mut *spec.open(1, &[], None).unwrap().remove(0).1, &places, &spec);
        let missing = |tag: u64| find(&places, tag).unwrap().record.unwrap_err();
        let kept = folder.path().join("kept");
        fs::rename(&path, &kept).unwrap();
        assert!(missing(tags[1].0).contains("No such file"), "{}", missing(tags[1].0));
        write(b"{}\n");
        assert!(missing(tags[1].0).ends_with("is another file now"), "{}", missing(tags[1].0));
        fs::remove_file(&path).unwrap();
        fs::rename(&kept, &path).unwrap();
        assert!(find(&places, tags[0].0).unwrap().record.is_ok());
        write(b"{}\n");
        // The first bytes are another record now.
        let reason = find(&Places::again(&places), tags[1].0).unwrap().record.unwrap_err();
        assert!(reason.ends_with("has no record there any more") || reason.ends_with("has only 3 bytes"), "{reason}");
    }
}

#[test]
fn made_up_rows_have_a_place_and_no_record_and_untagged_rows_neither() {
    let spec = GeneratorSpec { keys: 3, rows: Some(10), ..GeneratorSpec::default() };
    let places = Arc::new(Places::default());
    let schema = spec.schema().unwrap();
    for (shard, mut partition) in spec.open(2, &[], None).unwrap() {
        partition.note_places(&places, "made");
        let mut batch = testing::batch(&schema, 10, 1 << 12).tagged(true);
        testing::poll(&mut *partition, &mut batch, &mut Letters::default(), 10).unwrap();
        let names = ringmill_wire::Schema::index_of(&schema, "device_id").unwrap();
        for row in 0..batch.rows() as usize {
            let origin = find(&places, batch.view().tag(row)).unwrap();
            assert_eq!((&*origin.partition, &origin.record), (&*format!("generator/{shard}"), &Ok(None)));
            assert_eq!(batch.view().column(names).bytes(row), spec.key_name(origin.offset).as_bytes());
        }
    }
    assert_eq!(find(&places, 0), None);
    assert_eq!(find(&places, 7 << OFFSET_BITS), None);
}

#[test]
fn of_a_stream_that_nobody_keeps_only_the_place_is_known() {
    let places = Arc::new(Places::default());
    let tag = Tagger::new(&places, "lines").tag(5, 10, || ("stdin".into(), Original::Stream));
    let origin = find(&places, tag).unwrap();
    assert_eq!((&*origin.source, &*origin.partition, origin.offset), ("lines", "stdin", 5));
    assert!(origin.record.unwrap_err().contains("[checkpoint]"));
}

#[test]
fn a_place_that_grows_beyond_its_tags_goes_on_as_another() {
    let places = Arc::new(Places::default());
    let mut tagger = Tagger::new(&places, "lines");
    let mut at = |offset: u64| tagger.tag(offset, offset + 100, || ("stdin".into(), Original::None));
    for offset in [0, 5, (1 << OFFSET_BITS) - 200, 1 << OFFSET_BITS, (5 << OFFSET_BITS) + 7] {
        assert_eq!(find(&places, at(offset) + 3).unwrap().offset, offset + 3);
    }
    assert_eq!(lock(&places.known).len(), 3);
}

#[test]
fn the_record_of_a_raw_line_is_the_line_without_its_end_alone() {
    use std::os::unix::fs::MetadataExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.log");
    fs::write(&path, b"a \r\r\n\n\xffx\r").unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let original = Original::File { path, inode, form: Form { format: Format::Raw, record_bytes_max: 100 } };
    let mut reader = Reader::default();
    for (offset, line) in [(0, &b"a \r"[..]), (5, b""), (6, b"\xffx\r")] {
        assert_eq!(reader.read(&original, offset), Ok(Some(line.to_vec())), "{offset}");
    }
}
