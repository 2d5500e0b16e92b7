//! Which rows a partition owns, in which order, and when they happen.

use super::GeneratorSpec;

/// Walks the rows `i` of one partition: keys `shard`, `shard + shards`, … of round 0, then of round 1, and so on.
///
/// Time is kept in integers: `since_start_ns` is exactly `⌊i·period/keys⌋` taken within the round, carried from key to
/// key with its remainder (Bresenham), so it is the same whatever the number of shards.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    keys: u64,
    period_ns: u64,
    shard: u64,
    shards: u64,
    keys_here: u64,
    rows_here: u64,
    step_ns: u64,
    step_remainder: u64,
    /// rows consumed
    done: u64,
    /// index of the next row
    pub row: u64,
    /// which of this partition's keys comes next
    pub key: u64,
    /// event time of the next row
    pub since_start_ns: u64,
    remainder: u64,
}

impl Cursor {
    pub fn new(spec: &GeneratorSpec, shard: u64, shards: u64) -> Cursor {
        let owned_below = |keys: u64| keys.saturating_sub(shard).div_ceil(shards);
        let keys_here = owned_below(spec.keys);
        let rows_here = match spec.rows {
            Some(rows) => rows / spec.keys * keys_here + owned_below(rows % spec.keys),
            None => u64::MAX,
        };
        let step = u128::from(shards) * u128::from(spec.period_ns);
        let mut cursor = Cursor {
            keys: spec.keys,
            period_ns: spec.period_ns,
            shard,
            shards,
            keys_here,
            rows_here,
            step_ns: (step / u128::from(spec.keys)) as u64,
            step_remainder: (step % u128::from(spec.keys)) as u64,
            done: 0,
            row: 0,
            key: 0,
            since_start_ns: 0,
            remainder: 0,
        };
        cursor.go_to(0);
        cursor
    }

    /// Partitions in all.
    pub fn shards(&self) -> u64 {
        self.shards
    }

    /// Keys that this partition owns.
    pub fn keys_here(&self) -> u64 {
        self.keys_here
    }

    /// Index, among all keys, of this partition's key `key`.
    pub fn key_index(&self, key: u64) -> u64 {
        self.shard + key * self.shards
    }

    /// Rows consumed.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Rows that are left.
    pub fn left(&self) -> u64 {
        self.rows_here - self.done
    }

    /// Event time, since the start, that none of the next `rows` rows passes; `None` if it does not fit.
    pub fn since_start_ns_max(&self, rows: u64) -> Option<u64> {
        let rounds = rows / self.keys_here + 2;
        self.since_start_ns.checked_add(rounds.checked_mul(self.period_ns)?)
    }

    /// An index that none of the next `rows` rows passes.
    pub fn row_max(&self, rows: u64) -> u64 {
        let rounds = rows / self.keys_here + 2;
        self.row.saturating_add(rounds.saturating_mul(self.keys))
    }

    /// Continues behind the first `done` rows of this partition.
    pub fn go_to(&mut self, done: u64) {
        self.done = done.min(self.rows_here);
        self.enter(self.done / self.keys_here, self.done % self.keys_here);
    }

    /// Steps to the next row.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.done += 1;
        self.row = self.row.wrapping_add(self.shards);
        self.key += 1;
        self.since_start_ns = self.since_start_ns.wrapping_add(self.step_ns);
        self.remainder += self.step_remainder;
        if self.remainder >= self.keys {
            self.remainder -= self.keys;
            self.since_start_ns += 1;
        }
        if self.key == self.keys_here {
            self.enter(self.done / self.keys_here, 0);
        }
    }

    #[cold]
    fn enter(&mut self, round: u64, key: u64) {
        let index = self.key_index(key);
        let within = u128::from(index) * u128::from(self.period_ns);
        self.key = key;
        self.row = round.wrapping_mul(self.keys).wrapping_add(index);
        self.since_start_ns = round.wrapping_mul(self.period_ns).wrapping_add((within / u128::from(self.keys)) as u64);
        self.remainder = (within % u128::from(self.keys)) as u64;
    }
}
