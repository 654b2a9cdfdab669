//! The files that rotation leaves beside a log, by their names, and which of them have not been read.
//!
//! Known forms, for a log `mail.log`:
//!
//! | name | made by |
//! |---|---|
//! | `mail.log.1`, `mail.log.0` … | logrotate, newsyslog, savelog: the smaller number is newer |
//! | `mail.log-20261120`, `mail.log-20261120-1300`, `mail.log.20261120` | logrotate `dateext`: the greater date is newer |
//! | `mail-20261120.log` | logrotate `dateext` with `extension .log` |
//!
//! Compressed files (`.gz` and so on) have none of these forms. Other names (`mail.log.old`) are found by their inode, but
//! never taken for a log that came and went unseen: an operator's copy would be read as new lines.

use std::fs;
use std::io;
use std::os::unix::fs::DirEntryExt;
use std::path::{Path, PathBuf};

use super::checkpoint::{FileId, changed_ns};

/// Endings of files that are compressed, or being compressed, and never followed.
const COMPRESSED: [&str; 9] = [".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma", ".Z", ".zip", ".tmp"];

/// How much older than the last read file one that was rotated after it may look, because the clock was set back. A
/// leftover of another rotation scheme, `mail.log.0` beside a newer `mail.log.1`, is older than that.
const CLOCK_SLACK_NS: u64 = 2 * 3600 * 1_000_000_000;

/// Fewest digits of a date in a name; fewer are a number.
const DATE_DIGITS_MIN: usize = 6;

/// Whether the name is that of a compressed file.
pub(super) fn is_compressed(name: &str) -> bool {
    COMPRESSED.iter().any(|ending| name.ends_with(ending))
}

/// When a rotated file was rotated, relative to others of the same form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// `.1`: smaller is newer.
    Number(u64),
    /// `-20261120`: greater is newer.
    Date(String),
}

impl Order {
    /// Reads `.1` or `-20261120`.
    fn parse(suffix: &str) -> Option<Order> {
        let (separator, rest) = suffix.split_at_checked(1)?;
        if !matches!(separator, "." | "-" | "_") || !rest.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        if !rest.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_' | b'T')) {
            return None;
        }
        let digits = rest.bytes().filter(u8::is_ascii_digit).count();
        if digits >= DATE_DIGITS_MIN {
            return Some(Order::Date(rest.to_owned()));
        }
        if separator == "." { rest.parse().ok().map(Order::Number) } else { None }
    }

    /// Whether this one was rotated later; nothing where the forms differ.
    pub(super) fn is_newer_than(&self, other: &Order) -> Option<bool> {
        match (self, other) {
            (Order::Number(a), Order::Number(b)) => Some(a < b),
            (Order::Date(a), Order::Date(b)) => Some(a > b),
            _ => None,
        }
    }
}

/// What `name` says about its rotation, if it is a rotated form of `base`.
pub(super) fn order_of(name: &str, base: &str) -> Option<Order> {
    if let Some(order) = name.strip_prefix(base).and_then(Order::parse) {
        return Some(order);
    }
    let dot = base.rfind('.').filter(|dot| *dot > 0)?;
    let middle = name.strip_prefix(&base[..dot])?.strip_suffix(&base[dot..])?;
    Order::parse(middle).filter(|order| matches!(order, Order::Date(_)))
}

/// The names of which `name` may be a rotated form.
pub(super) fn bases_of(name: &str) -> Vec<String> {
    let mut bases = Vec::new();
    let mut add = |name: &str, ending: &str| {
        for (at, _) in name.match_indices(['.', '-', '_']) {
            let base = format!("{}{ending}", &name[..at]);
            if at > 0 && order_of(&format!("{name}{ending}"), &base).is_some() {
                bases.push(base);
            }
        }
    };
    add(name, "");
    if let Some(dot) = name.rfind('.').filter(|dot| *dot > 0) {
        add(&name[..dot], &name[dot..]);
    }
    bases
}

/// A folder and the name of a log in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) base: String,
}

impl Place {
    /// Nothing where the path has no name in UTF-8.
    pub(super) fn of(path: &Path) -> Option<Place> {
        Some(Place { folder: path.parent()?.to_path_buf(), base: path.file_name()?.to_str()?.to_owned() })
    }
}

/// A rotated file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sibling {
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) changed_ns: u64,
    pub(super) order: Order,
}

/// The rotated files of these logs.
pub(super) fn list(places: &[Place]) -> io::Result<Vec<Sibling>> {
    let mut found: Vec<Sibling> = Vec::new();
    for place in places {
        for entry in fs::read_dir(&place.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(order) = name.to_str().and_then(|name| order_of(name, &place.base)) else { continue };
            // A file that is renamed meanwhile is seen under its new name at the next look.
            let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
            let id = FileId::of(&metadata);
            if metadata.is_file() && found.iter().all(|sibling| sibling.id != id) {
                found.push(Sibling { path: entry.path(), id, changed_ns: changed_ns(&metadata), order });
            }
        }
    }
    Ok(found)
}

/// Where the file is now, whatever its name.
pub(super) fn find(id: FileId, places: &[Place]) -> Option<PathBuf> {
    places.iter().find_map(|place| {
        fs::read_dir(&place.folder)
            .ok()?
            .flatten()
            .filter(|entry| entry.ino() == id.ino)
            .map(|entry| entry.path())
            .find(|path| {
                fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file() && FileId::of(&metadata) == id)
            })
    })
}

/// The files among `siblings` that were rotated after `last`, oldest first. Names decide where they can: unlike
/// times they do not depend on a clock. Otherwise, and where `last` is gone, what changed after `since_ns` counts.
pub(super) fn newer(mut siblings: Vec<Sibling>, last: Option<&Order>, since_ns: u64) -> Vec<Sibling> {
    siblings.retain(|sibling| match last.and_then(|last| sibling.order.is_newer_than(last)) {
        Some(newer) => newer && sibling.changed_ns.saturating_add(CLOCK_SLACK_NS) >= since_ns,
        None => sibling.changed_ns > since_ns,
    });
    if siblings.iter().all(|sibling| matches!(sibling.order, Order::Number(_))) {
        siblings.sort_by_key(|sibling| match sibling.order {
            Order::Number(number) => std::cmp::Reverse(number),
            Order::Date(_) => std::cmp::Reverse(0),
        });
    } else if siblings.iter().all(|sibling| matches!(sibling.order, Order::Date(_))) {
        siblings.sort_by_cached_key(|sibling| match &sibling.order {
            Order::Date(date) => date.clone(),
            Order::Number(_) => String::new(),
        });
    } else {
        siblings.sort_by_key(|sibling| sibling.changed_ns);
    }
    siblings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_names_are_known() {
        use Order::{Date, Number};
        let date = |text: &str| Some(Date(text.to_owned()));
        assert_eq!(order_of("maillog.1", "maillog"), Some(Number(1)));
        assert_eq!(order_of("maillog.12", "maillog"), Some(Number(12)));
        assert_eq!(order_of("maillog-20261120", "maillog"), date("20261120"));
        assert_eq!(order_of("maillog.20261120", "maillog"), date("20261120"));
        assert_eq!(order_of("maillog-2026-11-20T13", "maillog"), date("2026-11-20T13"));
        assert_eq!(order_of("mail-20261120.log", "mail.log"), date("20261120"));
        assert_eq!(order_of("mail.log.3", "mail.log"), Some(Number(3)));
        for other in
            ["maillog", "maillog.1.gz", "maillog-20261120.gz", "maillog.old", "maillog-1", "maillog2", "mail.1"]
        {
            assert_eq!(order_of(other, "maillog"), None, "{other}");
        }
        assert_eq!(order_of("mx-1.log", "mx.log"), None, "another log, not a rotation");
        assert_eq!(order_of("ä.1", "ä"), Some(Number(1)));
        assert_eq!(order_of("maillogä", "maillog"), None);
    }

    #[test]
    fn a_rotated_name_leads_to_its_base() {
        assert_eq!(bases_of("maillog.1"), ["maillog"]);
        assert_eq!(bases_of("log.2026-11-20")[0], "log");
        assert_eq!(bases_of("mail-20261120.log"), ["mail.log"]);
        assert_eq!(bases_of("maillog"), [""; 0]);
        assert_eq!(bases_of(".1"), [""; 0]);
    }

    #[test]
    fn compressed_names_are_known() {
        for name in ["a.gz", "a.1.bz2", "a.xz", "a.zst"] {
            assert!(is_compressed(name), "{name}");
        }
        assert!(!is_compressed("gz") && !is_compressed("maillog.1"));
    }

    #[test]
    fn names_decide_what_is_newer_and_times_where_they_cannot() {
        let sibling = |order: Order, changed_ns| Sibling {
            path: PathBuf::new(),
            id: FileId { dev: 0, ino: changed_ns },
            changed_ns,
            order,
        };
        let inos = |siblings: Vec<Sibling>| siblings.iter().map(|sibling| sibling.id.ino).collect::<Vec<_>>();
        let numbers = || (1..=4).map(|n| sibling(Order::Number(n), n * 10)).collect::<Vec<_>>();
        assert_eq!(inos(newer(numbers(), Some(&Order::Number(3)), 0)), [20, 10]);
        assert_eq!(inos(newer(numbers(), None, 25)), [40, 30]);
        assert_eq!(inos(newer(numbers(), Some(&Order::Date("20261120".into())), 35)), [40]);
        assert_eq!(inos(newer(numbers(), Some(&Order::Number(3)), CLOCK_SLACK_NS + 15)), [20], "a leftover");
        let dates = || ["20261121", "20261119", "20261120"].map(|d| sibling(Order::Date(d.into()), 7)).to_vec();
        assert_eq!(newer(dates(), Some(&Order::Date("20261119".into())), 99).len(), 2);
        assert_eq!(newer(dates(), Some(&Order::Date("20261119".into())), 99)[1].order, Order::Date("20261121".into()));
    }
}
