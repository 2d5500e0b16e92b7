//! A broker's messages: what is read of them becomes records, and rows become what is written.

mod encode;
#[cfg(any(feature = "mqtt", feature = "nats"))]
mod inbox;
mod line;
mod record;

#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(crate) use self::encode::is_key;
#[cfg(any(feature = "mqtt", feature = "nats"))]
pub(crate) use self::encode::messages;
#[cfg(feature = "kafka")]
pub(crate) use self::encode::{Message, split};
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use self::encode::{OwnedMessage, read_message};
#[cfg(any(feature = "mqtt", feature = "nats"))]
pub(crate) use self::inbox::Inbox;
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use self::record::{MessageDecoder, wait};
pub(crate) use self::{
    encode::{MessageEncoder, column_of},
    line::{Member, write_line},
    record::{LATER, Record, Recorder},
};
