//! Says when to look at the machine files again. Nothing depends on its being right: they are looked at now and then
//! besides.
//!
//! Watched are the folder, all folders below that were read, and all above it, so that it is noticed when the folder
//! appears, is exchanged by a rename, or a link to it leads elsewhere. A file behind a link is found by the look now and
//! then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// A set of watched folders; ends when dropped.
#[derive(Debug)]
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Whether every folder could be watched.
    complete: bool,
}

impl Watch {
    /// Watches the folders above `dir`, an absolute path, and leaves word with `changed`.
    pub(super) fn new(dir: &Path, changed: Arc<Notify>) -> Watch {
        let root = dir.to_owned();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| concerns(&root, &event)) {
                changed.notify_one();
            }
        });
        let mut watch = Watch { complete: watcher.is_ok(), watcher: watcher.ok() };
        dir.ancestors().skip(1).for_each(|folder| watch.add(folder));
        watch
    }

    /// Watches `folder` too, where it is there.
    pub(super) fn add(&mut self, folder: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        match watcher.watch(folder, RecursiveMode::NonRecursive) {
            Ok(()) => {}
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
            Err(error) if is_missing(&error) => {}
            Err(_) => self.complete = false,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }
}

fn is_missing(error: &notify::Error) -> bool {
    matches!(&error.kind, notify::ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::NotFound)
}

/// Whether something changed below `root`, or on the way to it; that somebody has read is no change.
fn concerns(root: &Path, event: &notify::Event) -> bool {
    let on_the_way = |path: &PathBuf| path.starts_with(root) || root.starts_with(path);
    event.need_rescan() || (!matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(on_the_way))
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{AccessKind, CreateKind};

    #[test]
    fn what_is_beside_the_folder_is_of_no_concern() {
        let root = Path::new("/srv/boot/machines");
        let event = |kind, path: &str| notify::Event::new(kind).add_path(path.into());
        let made = EventKind::Create(CreateKind::Any);
        for (path, wanted) in [
            ("/srv/boot/machines/10.0.0.1/10.0.0.7/mac", true),
            ("/srv/boot/machines", true),
            ("/srv/boot", true),
            ("/srv/boot/machines2", false),
            ("/srv/log", false),
        ] {
            assert_eq!(concerns(root, &event(made, path)), wanted, "{path}");
        }
        assert!(!concerns(root, &event(EventKind::Access(AccessKind::Any), "/srv/boot/machines/x")));
    }
}
