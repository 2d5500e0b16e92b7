//! Bodies become lines, and requests rows; what is wrong with them is said.

mod records;
mod requests;
