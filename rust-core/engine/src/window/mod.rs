//! Keyed windows in event time: tumbling, sliding and session windows with aggregates, late rows and rolling statistics
//! per key.
//!
//! A [`WindowOperator`] is pure: rows and watermarks go in, results and late rows come out, and it knows no clock,
//! thread or file. Its state is bounded ([`StateFull`]), what it gives out depends on the order of its rows and
//! watermarks alone, and output is a cursor that goes on where the last batch was full. It writes nothing to disk.

mod accumulate;
mod aggregate;
mod aligned;
mod arena;
mod budget;
mod cells;
mod emit;
mod error;
mod key;
mod key_table;
mod lanes;
mod operator;
mod schema;
mod session;
mod spec;
mod statistics;
mod step;

pub use aggregate::{Aggregate, Function};
pub use error::{StateFull, WindowError};
pub use key::KeyHasher;
pub use operator::{Emitted, RowTime, TimeColumn, WindowOperator};
pub use schema::output_schema;
pub use spec::{NamedAggregate, Statistic, StatisticsSpec, WindowKind, WindowSpec};
