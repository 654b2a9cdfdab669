//! The collectors: each turns what it sees into records for the pipeline.
//!
//! `wire` modules are pure (bytes in, typed value or named error out); [`record`]
//! writes the JSON bodies that all of them share.

pub mod boot;
mod complaints;
pub mod maillog;
pub mod milter;
pub mod privacy;
pub mod record;
pub mod syslog;
