//! How an object's bytes are compressed, and back.

use serde::{Deserialize, Serialize};

/// The compression of an object: one stream an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// bzip2, `.bz2`: small, read by Spark and Athena; 13–15 MB/s a core.
    #[default]
    Bzip2,
    /// Zstandard, `.zst`: fast, read by DuckDB too.
    Zstd,
    /// gzip, `.gz`.
    Gzip,
    /// As it is.
    None,
}

impl Codec {
    /// What follows `.json` in the key.
    pub fn extension(self) -> &'static str {
        match self {
            Codec::Bzip2 => ".bz2",
            Codec::Zstd => ".zst",
            Codec::Gzip => ".gz",
            Codec::None => "",
        }
    }
}
