//! greypit: the parts of the daemon, as a library for its binary, tests and benchmarks.

pub mod cli;
pub mod collect;
pub mod config;
mod farm;
pub mod http;
pub mod logging;
pub mod process;
pub mod run;
mod sys;
