//! Keyed windows in event time: tumbling, sliding and session windows with aggregates, late rows and rolling statistics
//! per key.
//!
//! A [`WindowOperator`] is pure: rows and watermarks go in, results and late rows come out, and it knows no clock,
//! thread or file. Its state is bounded ([`StateFull`]), what it gives out depends on the order of its rows and
//! watermarks alone, and output is a cursor that goes on where the last batch was full. It writes nothing to disk: what
//! has changed since the last time it gives out as entries, and takes them back ([`WindowOperator::snapshot`]).
//!
//! Semantics are Flink's, with these choices:
//! - Windows are aligned to 1970 and hold `start <= t < end`. One fires when the watermark reaches its end, and is over
//!   when the watermark reaches its end plus the allowed lateness.
//! - A row for which every window is over is late. A row for a window that fired but is not over makes its key's result
//!   go out again, once for all such rows that come before the next emission.
//! - A session ends when its key was silent for the gap: a row exactly that much later begins a new one (in Flink it
//!   would still join). Sessions that grow after they fired fire again with their new bounds; nothing is retracted.
//! - Results come by window end, then by the first arrival of the key in that window; a window of which something was
//!   put away comes by key group and key.
//! - Aggregates skip missing values; without any the result is missing (`count`: 0, `collect`: empty). `min` and `max`
//!   skip NaN. `variance` and `stddev` are the sample's, NaN for a single value. `first` and `last` go by the order in
//!   which rows reach the step, whatever their times. A missing key is a key like any other.
//! - Integer sums are exact (128 bits) and clamped to the range of the result when they go out.
//! - Event times beyond 1677 and 2262 count as the nearest nanosecond that fits.

mod accumulate;
mod aggregate;
mod aligned;
mod arena;
mod budget;
mod cells;
mod changed;
mod emit;
mod entry;
mod error;
mod fingerprint;
mod key;
mod key_table;
mod lanes;
mod operator;
mod progress;
mod saved;
mod schema;
mod session;
mod spec;
mod spill;
mod statistics;
mod step;

pub use aggregate::{Aggregate, Function};
pub(crate) use budget::Budget;
pub use error::{StateFull, WindowError};
pub(crate) use key::{KeyColumns, KeyScratch, push_fixed};
pub(crate) use key_table::{EntryLayout, KeyTable};
pub(crate) use schema::bind_keys;
pub(crate) use spill::{Dealings, SLICE_BYTES, SLICE_ENTRIES, SLICE_PART};

pub use key::KeyHasher;
pub use operator::{Emitted, RowTime, TimeColumn, WindowOperator};
pub use schema::output_schema;
pub use spec::{NamedAggregate, Statistic, StatisticsSpec, WindowKind, WindowSpec};
pub use spill::SpillFigures;
