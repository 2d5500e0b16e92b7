//! A broker's messages: what is read of them becomes records, and rows become what is written.

mod encode;
#[cfg(any(feature = "mqtt", feature = "nats"))]
mod inbox;
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
mod line;
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
mod record;

#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use self::encode::OwnedMessage;
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(crate) use self::encode::is_key;
#[cfg(any(feature = "mqtt", feature = "nats"))]
pub(crate) use self::encode::messages;
#[cfg(any(feature = "http", feature = "kafka", feature = "nats"))]
pub(crate) use self::encode::read_message;
#[cfg(feature = "kafka")]
pub(crate) use self::encode::{Message, split};
pub(crate) use self::encode::{MessageEncoder, column_of};
#[cfg(any(feature = "mqtt", feature = "nats"))]
pub(crate) use self::inbox::Inbox;
#[cfg(any(feature = "kafka", feature = "nats"))]
pub(crate) use self::record::{MessageDecoder, wait};
#[cfg(any(feature = "kafka", feature = "mqtt", feature = "nats"))]
pub(crate) use self::{
    line::{Member, write_line},
    record::{LATER, Record, Recorder},
};
