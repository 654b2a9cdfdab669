//! A store in memory, for tests of what is built on one. Clones share their objects.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Object, ObjectInfo, Put, Result, StoreError, is_records_key};

#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
}

impl MemoryStore {
    pub(crate) fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put_new(&self, key: &str, object: &Object) -> Result<Put> {
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(Put::Exists);
        }
        objects.insert(key.to_owned(), object.bytes.clone());
        Ok(Put::Created)
    }

    pub(super) fn get(&self, key: &str) -> Result<Bytes> {
        let bytes = self.objects().get(key).cloned();
        bytes.ok_or_else(|| StoreError::new("read", key, "not_found", "there is no such object"))
    }

    pub(super) fn list(&self, prefix: &str) -> Vec<ObjectInfo> {
        let objects = self.objects();
        let listed = objects.iter().filter(|(key, _)| key.starts_with(prefix) && is_records_key(key));
        listed.map(|(key, bytes)| ObjectInfo { key: key.clone(), size: bytes.len() as u64 }).collect()
    }

    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let prefix = format!("{folder}/");
        let objects = self.objects();
        objects.keys().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned).collect()
    }
}
