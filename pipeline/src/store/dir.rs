//! Objects as files below a directory.
//!
//! An object is written as `.{name}.tmp` in its own folder, fsynced, and renamed without replacing; then the folder is
//! fsynced. New folders are fsynced into their parents first. A `.tmp` that a crash left behind is overwritten by the
//! next attempt at the same key. Writers of one key, also in other processes, take turns by a lock on the `.tmp`, which
//! the kernel releases when a process dies.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{OBJECT_BYTES_MAX, Object, ObjectInfo, Put, Result, StoreError, is_records_key};

/// How many folders deep a listing goes: more than any template makes, and an end to symbolic links in a circle.
const DEPTH_MAX: usize = 32;

/// How many folders are remembered as durable before all are forgotten and fsynced again.
const DURABLE_FOLDERS_MAX: usize = 1024;

/// A directory of objects. Clones share what they know of it.
#[derive(Clone, Debug)]
pub struct DirStore {
    root: Arc<Path>,
    /// Folders whose entry in their parent this process has fsynced.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DirStore {
    pub(super) fn new(root: PathBuf) -> DirStore {
        DirStore { root: root.into(), durable: Arc::default() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn url(&self) -> String {
        self.root.display().to_string()
    }

    pub(super) async fn check(&self) -> Result<()> {
        self.blocking(move |store| {
            let probe = store.root.join(".greypit-check");
            let write = || {
                store.ensure_folder(&store.root)?;
                fs::write(&probe, b"greypit\n")?;
                fs::remove_file(&probe)
            };
            write().map_err(|error| {
                let failure = StoreError::io("write to the directory", &store.root, &error);
                // A folder that cannot even be created (in /proc, below a dangling link) will not come by waiting.
                let class = if failure.class == "not_found" { "not_writable" } else { failure.class };
                let reason = match class {
                    "not_writable" => format!("{}; let this user write there, or correct store.url", failure.reason),
                    _ => failure.reason,
                };
                StoreError { class, reason, ..failure }
            })
        })
        .await
    }

    pub(super) async fn put_new(&self, key: &str, object: &Object) -> Result<Put> {
        let (path, bytes) = (self.root.join(key), object.bytes.clone());
        self.blocking(move |store| {
            store.put_new_blocking(&path, &bytes).map_err(|error| StoreError::io("write", &path, &error))
        })
        .await
    }

    pub(super) async fn get(&self, key: &str) -> Result<Bytes> {
        let path = self.root.join(key);
        self.blocking(move |_| read_whole(&path)).await
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let prefix = prefix.to_owned();
        self.blocking(move |store| {
            let mut found = Vec::new();
            store.must_be_there()?;
            store.walk("", &prefix, 0, &mut found)?;
            Ok(found)
        })
        .await
    }

    /// What lies right in a folder, but for files that are being written.
    pub(super) async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let path = self.root.join(folder);
        self.blocking(move |store| {
            store.must_be_there()?;
            let failed = |error: io::Error| StoreError::io("list", &path, &error);
            let entries = match fs::read_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries.map_err(failed)?,
            };
            let mut names = Vec::new();
            for entry in entries {
                names.extend(entry.map_err(failed)?.file_name().into_string().ok());
            }
            names.retain(|name| !name.starts_with('.'));
            Ok(names)
        })
        .await
    }

    fn must_be_there(&self) -> Result<()> {
        let error = match fs::metadata(&self.root) {
            Ok(root) if root.is_dir() => return Ok(()),
            Ok(_) => io::Error::from(Errno::NOTDIR),
            Err(error) => error,
        };
        Err(StoreError::io("list", &self.root, &error))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DirStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::new("use", self.url(), "io", format!("the worker thread failed: {error}"))),
        }
    }

    fn put_new_blocking(&self, path: &Path, bytes: &[u8]) -> io::Result<Put> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.ensure_folder(folder)?;
        let mut tmp_name = std::ffi::OsString::from(".");
        tmp_name.push(name);
        tmp_name.push(".tmp");
        let tmp = folder.join(tmp_name);

        let mut file = open_locked(&tmp)?;
        let put = if path.symlink_metadata().is_ok() {
            Ok(Put::Exists)
        } else {
            write_durably(&mut file, bytes).and_then(|()| rename_new(&tmp, path))
        };
        if !matches!(put, Ok(Put::Created)) {
            // On a full disk this gives the room back; the name is only ever ours.
            let _ = fs::remove_file(&tmp);
        }
        let put = put?;
        // For `Exists` too: whoever created it may have lost its power before this line.
        File::open(folder)?.sync_all()?;
        Ok(put)
    }

    /// Creates a folder with its parents and makes their entries durable. What already lies at or above the root is
    /// the operator's, and left alone.
    fn ensure_folder(&self, folder: &Path) -> io::Result<()> {
        let durable = || self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let exists = folder.is_dir();
        if exists && (durable().contains(folder) || !folder.starts_with(&self.root) || folder == &*self.root) {
            return Ok(());
        }
        let parent = match folder.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.ensure_folder(parent)?;
        if !exists {
            match fs::create_dir(folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !folder.is_dir() {
                        return Err(Errno::NOTDIR.into());
                    }
                }
                other => other?,
            }
        }
        File::open(parent)?.sync_all()?;
        let mut durable = durable();
        if durable.len() >= DURABLE_FOLDERS_MAX {
            durable.clear();
        }
        durable.insert(folder.to_owned());
        Ok(())
    }

    /// `folder` is empty or ends with `/`.
    fn walk(&self, folder: &str, prefix: &str, depth: usize, found: &mut Vec<ObjectInfo>) -> Result<()> {
        let path = self.root.join(folder);
        let failed = |error: io::Error| StoreError::io("list", &path, &error);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // Deleted while we walk.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(['.', '_']) {
                continue;
            }
            let key = format!("{folder}{name}");
            // Follows symbolic links; what is gone or leads nowhere is no object.
            let Ok(metadata) = fs::metadata(entry.path()) else { continue };
            if metadata.is_dir() {
                let below = key + "/";
                if depth < DEPTH_MAX && (below.starts_with(prefix) || prefix.starts_with(&below)) {
                    self.walk(&below, prefix, depth + 1, found)?;
                }
            } else if metadata.is_file() && key.starts_with(prefix) && is_records_key(&key) {
                found.push(ObjectInfo { key, size: metadata.len() });
            }
        }
        Ok(())
    }
}

fn read_whole(path: &Path) -> Result<Bytes> {
    let failed = |error: io::Error| StoreError::io("read", path, &error);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(StoreError::new("read", path.display().to_string(), "not_found", "is not a file"));
    }
    if metadata.len() > OBJECT_BYTES_MAX {
        return Err(StoreError::too_large(path.display().to_string(), metadata.len()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(OBJECT_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes.into())
}

/// Opens the `.tmp` and waits until no other writer holds it. A file system without locks goes unlocked: there the
/// operator must not let two writers share a key.
fn open_locked(tmp: &Path) -> io::Result<File> {
    let nofollow = OFlags::NOFOLLOW.bits() as i32;
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).custom_flags(nofollow).open(tmp)?;
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        // While we waited, the holder has renamed it to its final name, or removed it.
        let ours = file.metadata()?;
        match fs::symlink_metadata(tmp) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

fn write_durably(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn rename_new(tmp: &Path, path: &Path) -> io::Result<Put> {
    let result = match rustix::fs::renameat_with(CWD, tmp, CWD, path, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_new(tmp, path),
        other => other,
    };
    match result {
        Ok(()) => Ok(Put::Created),
        Err(Errno::EXIST) => Ok(Put::Exists),
        Err(error) => Err(error.into()),
    }
}

/// The same for file systems that cannot rename without replacing (NFS).
fn link_new(tmp: &Path, path: &Path) -> rustix::io::Result<()> {
    rustix::fs::linkat(CWD, tmp, CWD, path, AtFlags::empty())?;
    rustix::fs::unlink(tmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Store};

    fn object(bytes: &'static [u8]) -> Object {
        Object { bytes: Bytes::from_static(bytes), content_type: "application/x-ndjson", metadata: Vec::new() }
    }

    fn open(root: &Path) -> Store {
        Store::open(&Config { url: root.display().to_string(), ..Config::default() }).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_taken_key_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("new/root"));
        store.check().await.unwrap();
        let key = "mail_logs/2026-11-20/to-1.json";
        assert_eq!(store.put_new(key, &object(b"first")).await.unwrap(), Put::Created);
        assert_eq!(store.put_new(key, &object(b"second")).await.unwrap(), Put::Exists);
        assert_eq!(store.get(key).await.unwrap(), "first");
        assert_eq!(names(&dir.path().join("new/root/mail_logs/2026-11-20")), ["to-1.json"]);
    }

    #[tokio::test]
    async fn what_a_crash_left_behind_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/.x.json.tmp"), b"a longer half of an object").unwrap();
        let store = open(dir.path());
        assert_eq!(store.put_new("a/x.json", &object(b"whole")).await.unwrap(), Put::Created);
        assert_eq!(store.get("a/x.json").await.unwrap(), "whole");
        assert_eq!(names(&dir.path().join("a")), ["x.json"]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_writers_of_one_key_exactly_one_creates_it() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..8u8 {
                // Separate stores, as separate processes would have.
                let store = open(dir.path());
                writers.spawn(async move {
                    let bytes = Bytes::from(vec![writer; 10_000 + usize::from(writer)]);
                    let object = Object { bytes, content_type: "", metadata: Vec::new() };
                    (writer, store.put_new(&format!("d/{round}.json"), &object).await.unwrap())
                });
            }
            let answers = writers.join_all().await;
            let created: Vec<u8> = answers.iter().filter(|(_, put)| *put == Put::Created).map(|(w, _)| *w).collect();
            assert_eq!(created.len(), 1, "{answers:?}");
            let written = open(dir.path()).get(&format!("d/{round}.json")).await.unwrap();
            assert_eq!(written, vec![created[0]; 10_000 + usize::from(created[0])]);
        }
        assert_eq!(names(&dir.path().join("d")).len(), 20);
    }

    #[tokio::test]
    async fn a_deleted_folder_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.put_new("a/b/1.json", &object(b"1")).await.unwrap();
        fs::remove_dir_all(dir.path().join("a")).unwrap();
        assert_eq!(store.put_new("a/b/1.json", &object(b"1")).await.unwrap(), Put::Created);
    }

    #[tokio::test]
    async fn a_place_that_cannot_be_written_is_a_mistake_in_the_config() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let error = open(&dir.path().join("file")).check().await.unwrap_err();
        assert!(error.is_config(), "{error}");
        assert_eq!(open(&dir.path().join("file")).list("").await.unwrap_err().class, "not_writable");

        let locked = dir.path().join("locked");
        fs::create_dir(&locked).unwrap();
        let mode = |mode| fs::set_permissions(&locked, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        mode(0o555);
        // Root may write anywhere: then there is nothing to see.
        if !rustix::process::geteuid().is_root() {
            let error = open(&locked).check().await.unwrap_err();
            assert_eq!((error.class, error.is_config()), ("not_writable", true), "{error}");
            assert_eq!(open(&locked).put_new("a.json", &object(b"")).await.unwrap_err().class, "not_writable");
        }
        mode(0o755);
        // As root too: procfs refuses everybody.
        let error = open(Path::new("/proc/greypit")).check().await.unwrap_err();
        assert!(error.is_config(), "{error}");
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        // No room: /dev/full answers each write with ENOSPC.
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = full.write_all(b"x").unwrap_err();
        assert_eq!(StoreError::io("write", &path, &error).class, "no_space");
    }

    #[tokio::test]
    async fn a_listing_is_sorted_and_leaves_out_what_is_no_object() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for key in ["mail/2/b.json.bz2", "mail/1/a.json.zst", "mail.json", "mail/10/c.json", "sys/x.json"] {
            store.put_new(key, &object(b"12345")).await.unwrap();
        }
        for name in ["_SUCCESS", "mail/.hidden.json", "mail/_x.json", "mail/readme.txt"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::create_dir(dir.path().join("_cut")).unwrap();
        fs::write(dir.path().join("_cut/a.json"), b"").unwrap();
        let keys = async |prefix: &str| -> Vec<String> {
            store.list(prefix).await.unwrap().into_iter().map(|object| object.key).collect()
        };
        assert_eq!(
            keys("").await,
            ["mail.json", "mail/1/a.json.zst", "mail/2/b.json.bz2", "mail/10/c.json", "sys/x.json"]
        );
        assert_eq!(keys("mail/1").await, ["mail/1/a.json.zst", "mail/10/c.json"]);
        assert_eq!(keys("mail/1/").await, ["mail/1/a.json.zst"]);
        assert_eq!(store.list("sys").await.unwrap(), [ObjectInfo { key: "sys/x.json".into(), size: 5 }]);
        assert_eq!(open(&dir.path().join("none")).list("").await.unwrap_err().class, "not_found");
        assert_eq!(store.get("none.json").await.unwrap_err().class, "not_found");
    }

    #[test]
    fn without_rename_noreplace_a_link_does_it() {
        let dir = tempfile::tempdir().unwrap();
        let (tmp, path) = (dir.path().join(".a.tmp"), dir.path().join("a"));
        fs::write(&tmp, b"1").unwrap();
        link_new(&tmp, &path).unwrap();
        assert!(!tmp.exists());
        fs::write(&tmp, b"2").unwrap();
        assert_eq!(link_new(&tmp, &path), Err(Errno::EXIST));
        assert_eq!(fs::read(&path).unwrap(), b"1");
    }
}
