//! The comma list of a `to=` line, one recipient at a time.

use super::lex::{Walk, unbracket};

/// Yields each recipient as logged, without its angle brackets. A line has at least
/// one recipient, perhaps an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recipients<'a> {
    list: &'a [u8],
    done: bool,
}

impl<'a> Recipients<'a> {
    pub(super) fn new(list: &'a [u8]) -> Self {
        Recipients { list, done: false }
    }
}

impl<'a> Iterator for Recipients<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.done {
            return None;
        }
        let mut walk = Walk::new(self.list);
        let item = match walk.comma() {
            Some(at) => {
                let item = &self.list[..at];
                self.list = &self.list[at + 1..];
                item
            }
            None => {
                self.done = true;
                self.list
            }
        };
        Some(unbracket(item))
    }
}
