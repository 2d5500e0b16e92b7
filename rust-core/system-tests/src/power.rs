//! What a disk may hold after the power failed.
//!
//! A process runs under the library of `disk-shim`, which writes down what it did to the files of one folder and which
//! fsync it waited for ([`Recording`]). A [`Disk`] plays that log up to any point and says, by seed, one of the states
//! in which a journaling file system may be found after the power failed there ([`Disk::after_power_loss`]).
//!
//! # The model
//!
//! - A folder's names are as they were after some change of them: after all those before the folder's last fsync, and
//!   after none, some or all of the later ones, always in their order. A change is there or not as a whole; a rename
//!   from one folder to another is there in both or in none. Folders are independent of each other in half of the
//!   cases; in the other half there is one journal, so all names are those of one moment.
//! - An fsync of a file makes its bytes and its length durable and not its name; an fsync of a folder makes the names in
//!   it durable and not its own. (Many file systems do more than that, and none has to.)
//! - What was written to a file since its last fsync is lost, or there, or there up to some point in the middle of a
//!   write, or any sectors of 512 bytes of it are there and others are not, each as it was at some moment. The length
//!   may be ahead of the bytes, which are zero then.
//! - Files keep their inode numbers, with which sinks and sources recognise them.
//!
//! What it does not do: damage bytes that were durable (that is another test), and show a sector of another file.

mod content;
mod disk;
mod image;
mod pipeline;
#[path = "../disk-shim/src/record.rs"]
#[allow(dead_code, reason = "the writer of the log compiles the same file")]
mod record;
mod recording;

pub use disk::Disk;
pub use image::{Image, Kept};
pub use pipeline::{Outputs, Pipeline, run};
pub use record::{Kind, OPENED_NEW, Record};
pub use recording::{Acknowledged, Recording, Watched, records};
