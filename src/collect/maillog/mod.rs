//! Mail logs: what sendmail writes about each sender and each recipient.

pub mod postfix;
pub mod tail;
pub mod wire;
