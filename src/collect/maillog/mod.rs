//! Mail logs: what sendmail writes about each sender and each recipient.

pub mod tail;
pub mod wire;
