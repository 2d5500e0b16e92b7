//! A broker's messages: what is read of them becomes records, and rows become what is written.

mod encode;
mod line;
#[cfg(any(feature = "kafka", feature = "nats"))]
mod record;

#[cfg(feature = "nats")]
pub(crate) use self::encode::read_message;
#[cfg(feature = "kafka")]
pub(crate) use self::encode::{is_key, write_value};
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use self::record::{MessageDecoder, Record, Recorder, wait};
pub(crate) use self::{
    encode::{MessageEncoder, column_of, messages},
    line::{Member, write_line},
};
