//! How the stores of retained rows are tuned: written once for each epoch, read a key at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, CompactOptions, DBCompressionType, InfoLogger, LogLevel,
    Options, WriteOptions,
};

use super::key::row;

const MEMTABLE_BYTES: usize = 32 << 20;
/// One that is filled and one that is written out.
const MEMTABLES: usize = 2;
const CACHE_BYTES: usize = 32 << 20;
/// What a store takes of memory for itself.
pub(super) const MEMORY_BYTES: u64 = (MEMTABLES * MEMTABLE_BYTES + CACHE_BYTES) as u64;
/// The log of files is read at every start; RocksDB starts it anew when it is longer.
const FILE_LOG_BYTES: usize = 1 << 20;
/// Tables of the store that are open at a time; many systems allow a process 1,024 files in all.
const OPEN_TABLES: i32 = 128;
/// Bits of a filter for each key: whether a row takes the place of another is asked for every row, and the answer is
/// nearly always no.
const FILTER_BITS: f64 = 10.0;
/// The part of a memtable that is a filter of the same kind.
const MEMTABLE_FILTER: f64 = 0.02;

/// For the owner. Compaction leaves out rows whose windows ended at `floor` or before.
pub(super) fn owner(floor: &Arc<AtomicI64>) -> Options {
    let mut options = any();
    options.create_if_missing(true);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(MEMTABLES as i32);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER);
    options.set_memtable_whole_key_filtering(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(OPEN_TABLES);
    options.set_max_manifest_file_size(FILE_LOG_BYTES);
    let floor = Arc::clone(floor);
    options.set_compaction_filter("ringmill.retained", move |_, key: &[u8], value: &[u8]| {
        // Relaxed: the floor only rises, and it rises after it was made durable.
        match row(key, value) {
            Some(row) if row.end_ns <= floor.load(Ordering::Relaxed) => Decision::Remove,
            _ => Decision::Keep,
        }
    });
    options
}

/// For those who look at it beside its owner. All tables are opened at once and stay open: the owner may delete them at
/// any time, which takes only their names away.
pub(super) fn onlooker() -> Options {
    let mut options = any();
    options.set_max_open_files(-1);
    options
}

fn any() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_block_size(16 << 10);
    table.set_bloom_filter(FILTER_BITS, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_skip_stats_update_on_db_open(true);
    options.set_is_fd_close_on_exec(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // RocksDB's own log would be a file that grows.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

/// What was written is durable: the staged rows are removed next.
pub(super) fn write() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Every file is written anew, also the oldest, which holds what is dead.
pub(super) fn compaction() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
    options
}
