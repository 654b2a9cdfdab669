//! What is in an object: one JSON record a line. For commands that read the store, where anybody may have written.
//!
//! Nothing here fails because of one bad line: a line that is too long, no UTF-8, no JSON object or without a proper `id`
//! is counted and passed over.

pub(crate) mod ids;
mod lines;
pub(crate) mod runs;

pub use ids::{Id, Ids, Start, StreamReport, Verdict};
pub use lines::{LINE_BYTES_MAX, Line, Lines};
pub use runs::Gap;
