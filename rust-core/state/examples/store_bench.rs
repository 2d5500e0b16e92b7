//! What durable state costs: one shard, a million keys with 64 bytes each, a tenth of them written anew in each epoch.
//!
//! `cargo run --release -p ringmill-state --example store_bench [FOLDER [KEYS [EPOCHS]]]` prints milliseconds, the
//! median and the worst over all epochs. Without a folder it works in the system's temporary one; which disk that is
//! decides about most of the figures.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ringmill_state::{Delta, FORMAT, Manifest, ShardStore, StateError, StateFolder, group_of};

const VALUE_BYTES: usize = 64;
const DIRTY_SHARE: u64 = 10;
const WINDOWS: u64 = 60;

/// Repeatable random numbers (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Milliseconds by name, in the order of their first appearance.
#[derive(Default)]
struct Times(Vec<(&'static str, Vec<f64>)>);

impl Times {
    fn measure<T>(&mut self, name: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let spent = start.elapsed().as_secs_f64() * 1e3;
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, times)) => times.push(spent),
            None => self.0.push((name, vec![spent])),
        }
        result
    }

    fn print(&mut self) {
        println!("{:<44} {:>10} {:>10} {:>6}", "", "median ms", "worst ms", "times");
        for (name, times) in &mut self.0 {
            times.sort_by(f64::total_cmp);
            println!("{name:<44} {:>10.1} {:>10.1} {:>6}", times[times.len() / 2], times[times.len() - 1], times.len());
        }
    }
}

fn put(delta: &mut Delta, key: u64, random: &mut Random) {
    let mut value = [0; VALUE_BYTES];
    value.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]));
    let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 13;
    delta.node(1).put(0, key % WINDOWS, group_of(hash), &key.to_le_bytes(), &value);
}

fn manifest(epoch: u64, files: Vec<ringmill_state::FileRecord>) -> Manifest {
    Manifest {
        format: FORMAT,
        epoch,
        created_ms: 0,
        pipeline: "store_bench".to_owned(),
        ringmill: env!("CARGO_PKG_VERSION").to_owned(),
        shards: 1,
        is_final: false,
        nodes: Vec::new(),
        sources: Vec::new(),
        sinks: Vec::new(),
        files,
    }
}

fn checkpoint(folder: &StateFolder, epoch: u64, store: &mut ShardStore, times: &mut Times) -> Result<(), StateError> {
    let partial = folder.begin_checkpoint(epoch)?;
    let files = times.measure("copy, fsync and checksum the store", || store.checkpoint(&partial.shard_folder(0)))?;
    times.measure("write the manifest and commit", || partial.commit(&manifest(epoch, files)))?;
    times.measure("prune to 3", || folder.prune(3))
}

fn run(path: &Path, keys: u64, epochs: u64) -> Result<(), Box<dyn Error>> {
    let (mut times, mut first, mut random) = (Times::default(), Times::default(), Random(88_172_645_463_325_252));
    let folder = StateFolder::open(path)?;
    let mut store = ShardStore::create(&folder, 0)?;
    let mut delta = Delta::default();
    for epoch in 1..=epochs + 1 {
        let dirty = if epoch == 1 { keys } else { keys / DIRTY_SHARE };
        for key in 0..dirty {
            let key = if epoch == 1 { key } else { random.next() % keys };
            put(&mut delta, key, &mut random);
        }
        let times = if epoch == 1 { &mut first } else { &mut times };
        times.measure("apply", || store.apply(&mut delta))?;
        checkpoint(&folder, epoch, &mut store, times)?;
        delta.clear();
    }
    drop((store, folder));
    let folder = times.measure("start: open the folder", || StateFolder::open(path))?;
    let newest = times.measure("start: find and verify the newest checkpoint", || folder.newest_sound())?.0;
    let newest = newest.ok_or("there is no checkpoint")?;
    let store = times.measure("start: recover the store", || ShardStore::recover(&folder, &newest, 0, 1))?;
    let (mut entries, mut bytes) = (0u64, 0);
    times.measure("start: read all entries", || {
        store.for_each(|key, value| {
            (entries, bytes) = (entries + 1, bytes + key.key.len() + value.len());
            Ok::<_, StateError>(())
        })
    })?;
    let cut = times.measure("start: cut shard 0 of 2 out of it", || ShardStore::recover(&folder, &newest, 0, 2))?;
    drop((store, cut));
    println!(
        "{entries} entries, {:.1} MB; checkpoint {:.1} MB",
        bytes as f64 / 1e6,
        folder.checkpoints()?[0].bytes as f64 / 1e6
    );
    println!("\nfirst epoch: all {keys} keys");
    first.print();
    println!("\nlater epochs: {} keys at random", keys / DIRTY_SHARE);
    times.print();
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let around = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let keys = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let epochs = arguments.next().map_or(Ok(12), |text| text.parse())?;
    let path = around.join(format!("ringmill-store-bench-{}", std::process::id()));
    let result = run(&path, keys, epochs);
    let _ = std::fs::remove_dir_all(&path);
    result
}
