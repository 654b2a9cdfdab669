//! Topics are there before anything is sent.

use super::Config;
use crate::{Kind, Result};

/// Creates the topics of `kinds` that are missing, or says which are.
///
/// # Errors
/// [`crate::Error::Config`] where a topic is missing and must not or cannot be created.
pub async fn prepare(_config: &Config, _kinds: &[Kind]) -> Result<()> {
    Ok(())
}
