//! The numbers of a row, as pure functions of seed, row and key.

use super::GeneratorSpec;

/// What a generated column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    Name,
    Milliseconds,
    Nanoseconds,
    Temperature,
    Humidity,
    AirQuality,
    Price,
    Size,
}

/// Standard deviation of the sum of two uniform numbers from -1 to 1.
const NOISE_SIGMA: f64 = 0.816_496_580_927_726;
const TEMPERATURE_NOISE: f64 = 0.4;
const PRICE_NOISE: f64 = 0.0005;
/// 2^-31: turns an i32 into a number from -1 to 1.
const UNIT: f64 = 1.0 / 2_147_483_648.0;

/// The seed-dependent constants of a stream's values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values {
    seed: u64,
    anomaly_below: u64,
    temperature_jump: f64,
    price_jump: f64,
}

impl Values {
    pub fn new(spec: &GeneratorSpec) -> Values {
        // 2^64 saturates to u64::MAX, so a rate of 1 misses one row in 2^64.
        let anomaly_below = (spec.anomaly_rate * 18_446_744_073_709_551_616.0) as u64;
        Values {
            seed: mix(spec.seed ^ 0x5851_f42d_4c95_7f2d),
            anomaly_below,
            temperature_jump: spec.anomaly_sigmas * NOISE_SIGMA * TEMPERATURE_NOISE,
            price_jump: spec.anomaly_sigmas * NOISE_SIGMA * PRICE_NOISE,
        }
    }

    /// 64 random bits of row `row`: splitmix64 (Steele, Lea, Flood 2014) as a counter-based generator.
    #[inline(always)]
    pub fn bits(&self, row: u64) -> u64 {
        mix(self.seed.wrapping_add(row.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Spreads the keys evenly over 64 bits (a Weyl sequence): what is constant about a key.
    #[inline(always)]
    pub fn key_bits(&self, key_index: u64) -> u64 {
        (key_index + 1).wrapping_mul(0xd134_2543_de82_ef95)
    }

    pub fn is_anomaly(&self, row: u64) -> bool {
        self.anomaly(self.bits(row))
    }

    #[inline(always)]
    fn anomaly(&self, bits: u64) -> bool {
        bits.wrapping_mul(0xaf25_1af3_b0f0_25b5) < self.anomaly_below
    }

    #[inline(always)]
    pub fn temperature(&self, bits: u64, key: u64) -> f64 {
        let base = 22.0 + 8.0 * UNIT * high(key);
        let jump = if self.anomaly(bits) { self.temperature_jump } else { 0.0 };
        base + TEMPERATURE_NOISE * UNIT * (high(bits) + low(bits)) + jump
    }

    #[inline(always)]
    pub fn humidity(&self, bits: u64, key: u64) -> f64 {
        let base = 50.0 + 20.0 * UNIT * low(key >> 16);
        base + 2.0 * UNIT * high(bits.wrapping_mul(0x9fb2_1c65_1e98_df25))
    }

    #[inline(always)]
    pub fn air_quality(&self, bits: u64, key: u64) -> f64 {
        let base = 60.0 + 40.0 * UNIT * low(key >> 8);
        base + 5.0 * UNIT * high(bits.wrapping_mul(0xff51_afd7_ed55_8ccd))
    }

    /// In whole cents.
    #[inline(always)]
    pub fn price(&self, bits: u64, key: u64) -> f64 {
        let base = 150.0 + 140.0 * UNIT * high(key);
        let jump = if self.anomaly(bits) { self.price_jump } else { 0.0 };
        let price = base * (1.0 + PRICE_NOISE * UNIT * (high(bits) + low(bits)) + jump);
        (price * 100.0 + 0.5) as i64 as f64 / 100.0
    }

    /// Mostly small lots, at most 10,000.
    #[inline(always)]
    pub fn size(&self, bits: u64) -> u32 {
        let uniform = (bits.wrapping_mul(0x9fb2_1c65_1e98_df25) >> 32) as f64 * (0.5 * UNIT);
        1 + (uniform * uniform * uniform * 10_000.0) as u32
    }
}

#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[inline(always)]
fn high(bits: u64) -> f64 {
    f64::from((bits >> 32) as i32)
}

#[inline(always)]
fn low(bits: u64) -> f64 {
    f64::from(bits as i32)
}
