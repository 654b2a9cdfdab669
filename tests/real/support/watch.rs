//! Sees at once what happens to files (inotify).

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Created, or moved here from another name.
    Made,
    Written,
    Gone,
}

/// Watches over some folders.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: OwnedFd,
    folders: HashMap<i32, PathBuf>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify");
        Self { inotify, folders: HashMap::new() }
    }

    /// Watches a folder and all folders in it, as far as they are there.
    pub(crate) fn add(&mut self, folder: &Path) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MODIFY | WatchFlags::DELETE;
        if let Ok(watch) = add_watch(&self.inotify, folder, flags) {
            self.folders.insert(watch, folder.to_owned());
        }
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add(&entry.path());
            }
        }
    }

    /// What has happened since the last call; never waits. New folders are
    /// watched from then on.
    pub(crate) fn changes(&mut self) -> Vec<(PathBuf, Change)> {
        let mut changes = Vec::new();
        let mut new_folders = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let (Some(folder), Some(name)) = (self.folders.get(&event.wd()), event.file_name()) else { continue };
            let path = folder.join(name.to_string_lossy().as_ref());
            let flags = event.events();
            if flags.contains(ReadFlags::ISDIR) {
                new_folders.push(path);
            } else if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                changes.push((path, Change::Made));
            } else if flags.contains(ReadFlags::MODIFY) {
                changes.push((path, Change::Written));
            } else if flags.contains(ReadFlags::DELETE) {
                changes.push((path, Change::Gone));
            }
        }
        new_folders.iter().for_each(|folder| self.add(folder));
        changes
    }
}
