//! Mail logs: what sendmail writes about each sender and each recipient.

mod records;
pub mod tail;
pub mod wire;

pub use records::records;
