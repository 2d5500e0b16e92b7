//! The state crate from outside: what is written comes back, or is refused, whatever happens in between.

mod cutting;
mod damage;
mod full_disk;
mod kills;
mod model;
mod ownership;
mod round_trip;
mod spilling;
mod support;
