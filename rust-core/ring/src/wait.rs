//! How long to spin before sleeping.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a worker does while nothing is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Spin with pause, never sleep: lowest latency, one core busy for ever.
    Spin,
    /// Spin for [`SPIN`], yield [`YIELDS`] times, then sleep: as fast as `Spin` under load, idle when there is none.
    #[default]
    Adaptive,
    /// Sleep at once: least CPU time, a wake-up (tens of µs) per batch.
    Block,
}

/// Spinning this long before sleeping keeps the round trip of a busy channel at the spinning one's (20 µs: p99 470 ns;
/// 2 µs: p99 77 µs; measured on 2 cores of a Sapphire Rapids Xeon under KVM).
pub(crate) const SPIN: Duration = Duration::from_micros(30);

/// Yields between spinning and sleeping: on a crowded machine the peer may only be waiting for this core.
pub(crate) const YIELDS: u32 = 4;

/// Pauses between two looks at the clock; a pause takes about 15 ns, a look at the clock 22 ns.
pub(crate) const PAUSES_PER_CLOCK: u32 = 32;

impl fmt::Display for Wait {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Wait::Spin => "spin",
            Wait::Adaptive => "adaptive",
            Wait::Block => "block",
        })
    }
}

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Wait, String> {
        match text {
            "spin" => Ok(Wait::Spin),
            "adaptive" => Ok(Wait::Adaptive),
            "block" => Ok(Wait::Block),
            other => Err(format!("unknown wait strategy {other:?}: spin, adaptive or block")),
        }
    }
}
