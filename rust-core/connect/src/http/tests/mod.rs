//! Bodies become lines, and requests rows; rows become requests, and answers what is done about them. What is wrong is said.

#[cfg(feature = "arrow")]
mod columns;
mod formats;
mod letters;
mod proxy;
mod records;
mod requests;
mod sink;
