//! A broker's messages: what is read of them becomes lines of NDJSON, and rows become what is written.

mod encode;
mod line;

#[cfg(feature = "kafka")]
pub(crate) use self::encode::is_key;
pub(crate) use self::{
    encode::{MessageEncoder, column_of, messages},
    line::{Member, write_line},
};
