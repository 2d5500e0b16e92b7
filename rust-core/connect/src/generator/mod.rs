//! Synthetic streams: sensor telemetry and market data.
//!
//! Row `i` is a pure function of the spec and `i`: `i % keys` is its key, its values come from a counter-based hash. So
//! the rows do not depend on the number of shards, a partition can seek to any row, and no two rows are equal (the same
//! key never reports twice at the same instant).
//!
//! Its event time is its own clock: it runs as fast as rows are asked for, and `event_time_max_ns` is not applied to it.

mod cursor;
mod names;
mod partition;
mod values;

use std::sync::Arc;

use ringmill_wire::{DataType, Field, Schema, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::{ConnectError, Partition, Partitions, Replay, Resume, Waker};
use cursor::Cursor;
use partition::GeneratorPartition;
use values::{Quantity, Values};

/// What the generated rows look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `device_id` utf8, `timestamp` timestamp\[ms\], `temperature`, `humidity`, `air_quality` float64
    #[default]
    Sensors,
    /// `symbol` utf8, `price` float64, `size` uint32, `timestamp` timestamp\[ns\]
    Ticks,
}

impl Shape {
    fn columns(self) -> &'static [(&'static str, DataType, Quantity)] {
        const SENSORS: &[(&str, DataType, Quantity)] = &[
            ("device_id", DataType::Utf8, Quantity::Name),
            ("timestamp", DataType::Timestamp(TimeUnit::Millisecond), Quantity::Milliseconds),
            ("temperature", DataType::Float64, Quantity::Temperature),
            ("humidity", DataType::Float64, Quantity::Humidity),
            ("air_quality", DataType::Float64, Quantity::AirQuality),
        ];
        const TICKS: &[(&str, DataType, Quantity)] = &[
            ("symbol", DataType::Utf8, Quantity::Name),
            ("price", DataType::Float64, Quantity::Price),
            ("size", DataType::UInt32, Quantity::Size),
            ("timestamp", DataType::Timestamp(TimeUnit::Nanosecond), Quantity::Nanoseconds),
        ];
        match self {
            Shape::Sensors => SENSORS,
            Shape::Ticks => TICKS,
        }
    }
}

/// A generated stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GeneratorSpec {
    /// what the rows look like
    pub shape: Shape,
    /// number of devices or symbols, 1 to 2³²
    pub keys: u64,
    /// rows in all; endless if absent
    pub rows: Option<u64>,
    /// rows per second over all shards; as fast as they are taken if absent
    pub rate: Option<f64>,
    /// another seed gives other values
    pub seed: u64,
    /// probability that a row is an anomaly, 0 to 1
    pub anomaly_rate: f64,
    /// how far an anomaly lies off, in standard deviations of its column's noise
    pub anomaly_sigmas: f64,
    /// event time of row 0, nanoseconds since 1970
    pub start_ns: i64,
    /// event time between two rows of one key, in nanoseconds; the keys are spread evenly over it
    pub period_ns: u64,
    /// generate only these columns, in this order; all if absent
    pub columns: Option<Vec<String>>,
}

impl Default for GeneratorSpec {
    fn default() -> GeneratorSpec {
        GeneratorSpec {
            shape: Shape::Sensors,
            keys: 1_000,
            rows: None,
            rate: None,
            seed: 0,
            anomaly_rate: 0.0,
            anomaly_sigmas: 25.0,
            // 2024-01-01T00:00:00Z
            start_ns: 1_704_067_200_000_000_000,
            period_ns: 1_000_000_000,
            columns: None,
        }
    }
}

const KEYS_MAX: u64 = 1 << 32;
const PERIOD_NS_MAX: u64 = 365 * 86_400 * 1_000_000_000;

impl GeneratorSpec {
    /// The columns of the stream.
    pub fn schema(&self) -> Result<Arc<Schema>, ConnectError> {
        let fields = self.selected()?.into_iter().map(|(name, data_type, _)| Field {
            name: name.to_owned(),
            data_type,
            nullable: false,
        });
        let schema = Schema::new(fields.collect()).map_err(|error| ConnectError::Schema(error.to_string()))?;
        Ok(Arc::new(schema))
    }

    /// Any row can be made again.
    pub fn replay(&self) -> Replay {
        Replay::Seekable
    }

    /// One partition per shard: partition `p` of `P` owns the keys `j` with `j % P == p`. There is none for a shard that
    /// would own no key. Partitions are never idle, so the wakers are not used.
    ///
    /// A checkpoint's partitions come back as they were and are dealt to the shards there are now; `rate` and `rows` may
    /// have changed, what decides the values of a row may not.
    pub fn open(
        &self,
        shards: usize,
        _wakers: &[Waker],
        resume: Option<&[Resume<'_>]>,
    ) -> Result<Partitions, ConnectError> {
        self.check()?;
        let columns: Vec<Quantity> = self.selected()?.into_iter().map(|(_, _, what)| what).collect();
        let shards = shards.max(1);
        let open =
            |shard: u64, of: u64| GeneratorPartition::new(self, shard, Cursor::new(self, shard, of), columns.clone());
        let Some(resume) = resume else {
            let count = (shards as u64).min(self.keys);
            let open = |shard| (shard as usize, Box::new(open(shard, count)) as Box<dyn Partition>);
            return Ok((0..count).map(open).collect());
        };
        let mut partitions = Partitions::with_capacity(resume.len());
        for (at, earlier) in resume.iter().enumerate() {
            let position = earlier.position()?;
            let share = position.share.as_ref();
            let share = share.ok_or_else(|| earlier.refuse("its position is not one of a generator".to_owned()))?;
            let stream = self.stream();
            if share.stream != stream {
                return Err(earlier.refuse(format!("the generator was {:?} and is {stream:?} now", share.stream)));
            }
            if !(1..=self.keys).contains(&share.of) || share.index >= share.of {
                return Err(earlier.refuse(format!("there is no partition {} of {}", share.index, share.of)));
            }
            let mut partition = open(share.index, share.of);
            partition.seek(&position)?;
            if partition.position().rows != position.rows {
                return Err(earlier.refuse(format!(
                    "it has made {} rows, and the whole stream has only {} rows now",
                    position.rows,
                    self.rows.unwrap_or(u64::MAX)
                )));
            }
            partitions.push((at % shards, Box::new(partition)));
        }
        Ok(partitions)
    }

    /// Everything that decides what row `i` is, in words.
    fn stream(&self) -> String {
        format!(
            "{:?} of {} keys from {} ns every {} ns, seed {}, anomalies {} of {} sigmas",
            self.shape, self.keys, self.start_ns, self.period_ns, self.seed, self.anomaly_rate, self.anomaly_sigmas
        )
    }

    /// Whether row `row` is one of the injected anomalies.
    pub fn is_anomaly(&self, row: u64) -> bool {
        Values::new(self).is_anomaly(row)
    }

    /// Event time of row `row`, nanoseconds since 1970; saturates in the year 2262.
    pub fn timestamp_ns(&self, row: u64) -> i64 {
        let since_start = u128::from(row / self.keys) * u128::from(self.period_ns)
            + u128::from(row % self.keys) * u128::from(self.period_ns) / u128::from(self.keys);
        let since_start = i64::try_from(since_start).unwrap_or(i64::MAX);
        self.start_ns.saturating_add(since_start)
    }

    /// The device or symbol of row `row`.
    pub fn key_name(&self, row: u64) -> String {
        names::Style::new(self.shape, self.keys).name(row % self.keys)
    }

    fn selected(&self) -> Result<Vec<(&'static str, DataType, Quantity)>, ConnectError> {
        let all = self.shape.columns();
        let Some(names) = &self.columns else {
            return Ok(all.to_vec());
        };
        let find = |name: &String| {
            let found = all.iter().find(|column| column.0 == name);
            found.copied().ok_or_else(|| ConnectError::Spec {
                option: "columns",
                value: name.clone(),
                rule: match self.shape {
                    Shape::Sensors => "the generator has device_id, timestamp, temperature, humidity and air_quality",
                    Shape::Ticks => "the generator has symbol, price, size and timestamp",
                },
            })
        };
        names.iter().map(find).collect()
    }

    fn check(&self) -> Result<(), ConnectError> {
        let refuse = |option, value: String, rule| Err(ConnectError::Spec { option, value, rule });
        if !(1..=KEYS_MAX).contains(&self.keys) {
            return refuse("keys", self.keys.to_string(), "1 to 2^32 keys are possible");
        }
        if !(1..=PERIOD_NS_MAX).contains(&self.period_ns) {
            let value = format!("{} ns", self.period_ns);
            return refuse("period", value, "it must lie between 1 ns and 365 days");
        }
        if !(0.0..=1.0).contains(&self.anomaly_rate) {
            let value = self.anomaly_rate.to_string();
            return refuse("anomaly_rate", value, "a probability lies between 0 and 1");
        }
        if !self.anomaly_sigmas.is_finite() {
            let value = self.anomaly_sigmas.to_string();
            return refuse("anomaly_sigmas", value, "it must be a finite number");
        }
        match self.rate {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => {
                refuse("rate", rate.to_string(), "it must be more than 0 rows per second")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
