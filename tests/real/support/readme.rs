//! What the README says to do.

use std::fs;
use std::path::Path;

/// A section of the README.
pub(crate) struct Section(String);

impl Section {
    pub(crate) fn named(heading: &str) -> Self {
        let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a README");
        let start = readme.split_once(&format!("\n## {heading}\n")).expect("the section").1;
        Self(start.split_once("\n## ").map_or(start, |(section, _)| section).to_owned())
    }

    /// The fenced blocks in this language, in order.
    pub(crate) fn blocks(&self, language: &str) -> Vec<String> {
        let (mut blocks, mut open): (Vec<String>, Option<bool>) = (Vec::new(), None);
        for line in self.0.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)) {
            match (open, line.strip_prefix("```")) {
                (None, Some(found)) => {
                    open = Some(found == language);
                    if found == language {
                        blocks.push(String::new());
                    }
                }
                (Some(_), Some(_)) => open = None,
                (Some(true), None) => *blocks.last_mut().expect("it is open") += &format!("{line}\n"),
                _ => {}
            }
        }
        blocks
    }

    /// The one block in this language.
    pub(crate) fn block(&self, language: &str) -> String {
        let blocks = self.blocks(language);
        let [block] = &blocks[..] else { panic!("{language}: {blocks:?}") };
        block.clone()
    }

    /// The metrics that it names.
    pub(crate) fn metrics(&self) -> Vec<&str> {
        self.0.split('`').filter(|word| word.starts_with("greypit_") && !word.ends_with('_')).collect()
    }
}
