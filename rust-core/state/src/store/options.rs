//! How the stores are tuned: written once for each epoch, read at recovery
//! and where an operator has put entries away.

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, Env, InfoLogger, LogLevel, Options, ReadOptions, WriteOptions,
};

/// Bytes of changes held in memory before a file is written of them.
const MEMTABLE_BYTES: usize = 32 << 20;
/// Nothing but compaction and recovery reads, and both read everything once.
const CACHE_BYTES: usize = 4 << 20;
/// The log of files is copied into every checkpoint; RocksDB starts it anew when it is longer.
const FILE_LOG_BYTES: usize = 1 << 20;
const READ_AHEAD_BYTES: usize = 2 << 20;
/// Tables of one store that are open at a time; many systems allow a process 1,024 files in all.
const OPEN_TABLES: i32 = 64;
/// All stores of the process share RocksDB's threads. Those that flush mostly wait for the disk.
const FLUSH_THREADS: i32 = 4;
/// Epochs between two compactions into the first level, which rewrite most of it: with 10 for RocksDB's own 4,
/// 40 epochs of 100,000 changes among a million keys took a fifth less of the processor. The price is in checkpoints,
/// which are larger, and in recovery. (Giving its threads a low priority instead made single checkpoints take 1.6 s.)
const EPOCHS_COMPACTED: i32 = 8;

pub(super) fn live() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_block_size(16 << 10);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(2);
    // One thread writes, so nothing is gained by letting several write at once.
    options.set_allow_concurrent_memtable_write(false);
    // One flush and one compaction at a time for each shard.
    options.set_max_background_jobs(2);
    if let Ok(mut env) = Env::new() {
        env.set_high_priority_background_threads(FLUSH_THREADS);
        options.set_env(&env);
    }
    options.set_level_zero_file_num_compaction_trigger(EPOCHS_COMPACTED);
    options.set_level_zero_slowdown_writes_trigger(3 * EPOCHS_COMPACTED);
    options.set_level_zero_stop_writes_trigger(4 * EPOCHS_COMPACTED);
    options.set_max_open_files(OPEN_TABLES);
    options.set_max_manifest_file_size(FILE_LOG_BYTES);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_skip_stats_update_on_db_open(true);
    options.set_is_fd_close_on_exec(true);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // RocksDB's own log would be a file that grows in every store.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
    options
}

pub(super) fn in_checkpoint() -> Options {
    let mut options = live();
    options.create_if_missing(false);
    options
}

/// The store is rebuilt from a checkpoint at every start, so a log of its own would be written for nobody; with one,
/// 100,000 changes among a million keys took 1.4 times as long (without a single fsync of it).
pub(super) fn write() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}

/// For what nobody keeps a copy of.
pub(super) fn logged_write() -> WriteOptions {
    WriteOptions::default()
}

/// For single entries that may be wanted again soon.
pub(super) fn read() -> ReadOptions {
    ReadOptions::default()
}

/// For a part of a window; whoever reads on comes back soon.
pub(super) fn slice() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options
}

pub(super) fn scan() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(READ_AHEAD_BYTES);
    options
}
