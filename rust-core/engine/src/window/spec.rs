//! What a window step is asked to do.

/// A window step, resolved from the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowSpec {
    /// Key columns; empty: one global window.
    pub key: Vec<String>,
    /// Shape of the windows.
    pub window: WindowKind,
    /// After a window fired, rows up to this late make it fire again; later ones go to `.late`. Nanoseconds.
    pub allowed_lateness_ns: i64,
    /// Output columns, in order.
    pub aggregates: Vec<NamedAggregate>,
    /// Rolling per-key statistics over one of the output columns.
    pub statistics: Option<StatisticsSpec>,
}

/// Shape of the windows; all lengths in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowKind {
    /// Fixed, adjoining windows aligned to the epoch.
    Tumbling {
        /// Length.
        size_ns: i64,
    },
    /// Fixed, overlapping windows: a row falls into `size / every` of them.
    Sliding {
        /// Length.
        size_ns: i64,
        /// Distance between starts.
        every_ns: i64,
    },
    /// A window ends when its key was silent for the gap.
    Session {
        /// Silence that ends a session.
        gap_ns: i64,
    },
}

/// An output column and how it is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedAggregate {
    /// Output column.
    pub name: String,
    /// Text of the configuration, for example `mean(temperature)`; parsed by [`Aggregate::parse`].
    pub expression: String,
}

/// Rolling statistics per key over the windows that the key had before this one (this one excluded).
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticsSpec {
    /// The aggregate column they are of.
    pub of: String,
    /// Statistic and output column, for example `("mean", "mean")`.
    pub columns: Vec<(Statistic, String)>,
    /// Only windows that ended within this long before; `None`: the whole history. Nanoseconds.
    pub horizon_ns: Option<i64>,
}

/// One rolling statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistic {
    /// Number of earlier windows (uint64).
    Count,
    /// Their mean (float64; NaN when there is none).
    Mean,
    /// Their sample standard deviation (float64; NaN for fewer than two).
    Std,
}
