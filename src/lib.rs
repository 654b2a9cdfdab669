//! greypit: the parts of the daemon, as a library for its binary, tests and benchmarks.

pub mod cli;
pub mod collect;
mod sys;
