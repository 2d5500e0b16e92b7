//! Keyed windows in event time.
mod error;
mod operator;
mod spec;

pub use error::{StateFull, WindowError};
pub use operator::{Emitted, KeyHasher, RowTime, TimeColumn, WindowOperator, output_schema};
pub use spec::{NamedAggregate, Statistic, StatisticsSpec, WindowKind, WindowSpec};
