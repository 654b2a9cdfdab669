//! Syslog: messages from the network, from `/dev/log` and from log files.

pub mod fold;
pub mod frame;
pub mod listen;
pub mod rules;
pub mod time;
pub mod wire;
