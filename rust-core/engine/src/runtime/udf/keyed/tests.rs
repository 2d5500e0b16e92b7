use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ringmill_state::{Delta, StoreCall};
use ringmill_wire::{Capacity, Field, HeapBatch, Template};

use super::*;
use crate::window::SpillFigures;

fn template(fields: &[(&str, DataType)]) -> Arc<Template> {
    let fields = fields.iter().map(|(name, data_type)| Field::new(*name, *data_type)).collect();
    let capacity = Capacity { rows_max: 16, variable_bytes_max: 256 };
    Arc::new(Template::new(Arc::new(Schema::new(fields).unwrap()), capacity).unwrap())
}

/// Keeps `n`, beginning with 7, and `is_odd` for each `name`; the function has one output.
fn keyed(input: &Template) -> KeyedState {
    let state = [("n", DataType::Int32, "07000000"), ("is_odd", DataType::Bool, "01")];
    let state =
        state.map(|(name, data_type, initial)| StateField { name: name.into(), data_type, initial: initial.into() });
    let mut keyed = KeyedState::new(&[0], input.schema(), &state, 1, 1 << 20);
    keyed.track_changes();
    keyed
}

fn input() -> Arc<Template> {
    template(&[("name", DataType::Utf8), ("x", DataType::Int64)])
}

fn rows(names: &[&str]) -> HeapBatch {
    let mut batch = HeapBatch::new(input());
    for (x, name) in names.iter().enumerate() {
        batch.writer().push_str(0, name).unwrap();
        batch.writer().push(1, x as i64);
        batch.writer().finish_row();
    }
    batch
}

fn request() -> HeapBatch {
    let kept = [("n", DataType::Int32), ("is_odd", DataType::Bool)];
    HeapBatch::new(template(&[&[("name", DataType::Utf8), ("x", DataType::Int64)][..], &kept].concat()))
}

/// What a function answers that counts: an output, the new `n`, and whether it is odd.
fn answer(counts: &[i32]) -> HeapBatch {
    let mut batch =
        HeapBatch::new(template(&[("y", DataType::Float64), ("n", DataType::Int32), ("is_odd", DataType::Bool)]));
    for n in counts {
        batch.writer().push(0, 0.5);
        batch.writer().push(1, *n);
        batch.writer().push(2, n % 2 == 1);
        batch.writer().finish_row();
    }
    batch
}

/// How many of the rows from `first` on go along now.
fn take(keyed: &mut KeyedState, batch: &HeapBatch, first: usize, out: &mut HeapBatch) -> usize {
    let rows = first..batch.rows() as usize;
    if keyed.look_up(&batch.view(), rows.clone()).unwrap() {
        return 0;
    }
    keyed.copy_rows(&batch.view(), rows, out.writer())
}

#[test]
fn a_row_waits_until_the_earlier_one_of_its_key_is_answered_and_then_has_its_state() {
    let (batch, mut out) = (rows(&["a", "b", "a", "c"]), request());
    let mut keyed = keyed(&input());
    assert_eq!(take(&mut keyed, &batch, 0, &mut out), 2);
    assert_eq!(take(&mut keyed, &batch, 2, &mut out), 0);
    assert_eq!(out.view().column(2).values::<i32>(), [7, 7]);
    keyed.store(0, &answer(&[8, 9]).view());
    assert_eq!(take(&mut keyed, &batch, 2, &mut out), 0, "the batch is not done yet");
    keyed.release(2);
    assert_eq!(take(&mut keyed, &batch, 2, &mut out), 2);
    assert_eq!(out.view().column(2).values::<i32>(), [7, 7, 8, 7]);
}

#[test]
fn rows_that_failed_leave_the_state_as_it_was() {
    let (batch, mut out) = (rows(&["a", "b", "c"]), request());
    let mut keyed = keyed(&input());
    take(&mut keyed, &batch, 0, &mut out);
    // The second of the three failed.
    keyed.store(0, &answer(&[8]).view());
    keyed.store(2, &answer(&[9]).view());
    keyed.release(3);
    out.clear();
    take(&mut keyed, &batch, 0, &mut out);
    assert_eq!(out.view().column(2).values::<i32>(), [8, 7, 9]);
}

#[test]
fn what_has_changed_is_given_out_once_and_comes_back_elsewhere() {
    let (batch, mut out) = (rows(&["a", "", "a longer name that is kept outside"]), request());
    let mut first = keyed(&input());
    take(&mut first, &batch, 0, &mut out);
    first.store(0, &answer(&[1, 2, 3]).view());
    first.release(3);
    let (mut delta, mut again) = (Delta::default(), Delta::default());
    first.snapshot(&mut delta.node(4));
    first.snapshot(&mut again.node(4));
    assert_eq!((delta.puts().len(), again.puts().len()), (3, 0));
    let mut second = keyed(&input());
    for (key, value) in delta.puts() {
        second.restore(&EntryKey::parse(key).unwrap(), value).unwrap();
    }
    out.clear();
    assert_eq!(take(&mut second, &batch, 0, &mut out), 3);
    assert_eq!(out.view().column(2).values::<i32>(), [1, 2, 3]);
    let entry = EntryKey { node: 4, section: SECTION, window: 0, group: 0, key: b"a" };
    assert!(second.restore(&entry, b"1234").unwrap_err().contains("wrong length"));
}

/// What a shard's store has of it.
type Stored = BTreeMap<Vec<u8>, Vec<u8>>;

/// Serves what is wanted of the store; `false`: nothing is.
fn serve(keyed: &mut KeyedState, stored: &mut Stored) -> bool {
    let mut call = StoreCall::default();
    if !keyed.call(&mut call.node(4)) {
        return false;
    }
    stored.extend(call.writes.puts().map(|(key, value)| (key.to_vec(), value.to_vec())));
    let StoreCall { keys, found, .. } = &mut call;
    for (key, _) in keys.iter() {
        stored.get(key).into_iter().for_each(|value| found.push(key, value));
    }
    keyed.answer(&call).unwrap();
    true
}

/// Counts the rows of each key, with little memory.
struct Counting {
    keyed: KeyedState,
    stored: Stored,
    /// What each key's state is to be.
    counts: HashMap<String, i32>,
    /// Rows of a batch that was not answered.
    in_flight: Vec<(String, i32)>,
    bytes_max: u64,
}

impl Counting {
    const MEMORY: u64 = 16 << 10;

    fn new(stored: Stored, counts: HashMap<String, i32>) -> Counting {
        let mut keyed = keyed(&input());
        keyed.budget = Budget::new(Self::MEMORY);
        keyed.allow_spilling();
        for (key, value) in &stored {
            keyed.restore(&EntryKey::parse(key).unwrap(), value).unwrap();
        }
        Counting { keyed, stored, counts, in_flight: Vec::new(), bytes_max: 0 }
    }

    /// Takes some rows, each of which must come with its key's state.
    fn take(&mut self, names: &[&str]) {
        let (batch, mut next) = (rows(names), 0);
        while next < names.len() {
            let ready = self.keyed.ready_rows(&batch.view(), next..names.len());
            if ready == 0 {
                while serve(&mut self.keyed, &mut self.stored) {}
                continue;
            }
            let mut out = request();
            if self.keyed.look_up(&batch.view(), next..next + ready).unwrap() {
                self.answer();
                continue;
            }
            let taken = self.keyed.copy_rows(&batch.view(), next..next + ready, out.writer());
            for (row, name) in names[next..next + taken].iter().enumerate() {
                let n = out.view().column(2).values::<i32>()[row];
                assert_eq!(n, self.counts.get(*name).copied().unwrap_or(7), "{name}");
                self.in_flight.push(((*name).to_owned(), n));
            }
            next += taken;
            self.bytes_max = self.bytes_max.max(self.keyed.bytes());
        }
    }

    /// The function has answered what is in flight.
    fn answer(&mut self) {
        let counts: Vec<i32> = self.in_flight.iter().map(|(_, n)| n + 1).collect();
        for (first, counts) in counts.chunks(16).enumerate() {
            self.keyed.store(first * 16, &answer(counts).view());
        }
        self.keyed.release(counts.len());
        self.counts.extend(self.in_flight.drain(..).map(|(name, n)| (name, n + 1)));
    }
}

#[test]
fn state_larger_than_its_memory_is_had_back_as_it_was() {
    let names: Vec<String> = (0..3000).map(|key| format!("key {key}")).collect();
    let mut random = 1u64;
    let mut below = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut counting = Counting::new(Stored::new(), HashMap::new());
    let mut checkpoint = (Stored::new(), HashMap::new());
    let (mut figures, mut bytes_max) = (SpillFigures::default(), 0);
    for step in 0..4000 {
        // Some keys come often.
        let pick = |below: &mut dyn FnMut(u64) -> u64| if below(3) == 0 { below(20) } else { below(3000) };
        let batch: Vec<&str> = (0..1 + below(16)).map(|_| names[pick(&mut below) as usize].as_str()).collect();
        counting.take(&batch);
        if below(3) > 0 {
            counting.answer();
        }
        if below(40) == 0 {
            counting.answer();
            let mut delta = Delta::default();
            counting.keyed.snapshot(&mut delta.node(4));
            counting.stored.extend(delta.puts().map(|(key, value)| (key.to_vec(), value.to_vec())));
            checkpoint = (counting.stored.clone(), counting.counts.clone());
        }
        bytes_max = counting.bytes_max.max(bytes_max);
        if step % 700 == 699 {
            figures += counting.keyed.spilled();
            counting = Counting::new(checkpoint.0.clone(), checkpoint.1.clone());
        }
    }
    figures += counting.keyed.spilled();
    assert!(figures.entries > 1000 && figures.read_back > 1000, "{figures:?}");
    assert!(bytes_max < Counting::MEMORY * 3 / 2, "{bytes_max} bytes of {}", Counting::MEMORY);
}

#[test]
fn keys_in_flight_and_those_that_come_often_stay_in_memory() {
    let mut counting = Counting::new(Stored::new(), HashMap::new());
    for key in 0..2000 {
        counting.take(&["often", "in flight", &format!("key {key}")][..if key == 1999 { 3 } else { 1 }]);
        if key < 1999 {
            counting.take(&[&format!("key {key}")]);
            counting.answer();
        }
    }
    counting.keyed.put_away();
    while serve(&mut counting.keyed, &mut counting.stored) {}
    let before = counting.keyed.spilled().read_back;
    counting.answer();
    counting.take(&["often", "in flight"]);
    assert_eq!(counting.keyed.spilled().read_back, before);
    counting.take(&["key 5"]);
    assert_eq!(counting.keyed.spilled().read_back, before + 1);
}
