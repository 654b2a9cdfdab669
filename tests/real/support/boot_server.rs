//! A [`Greypit`] from which the machines of a [`Wire`] start.

use super::greypit::Greypit;
use super::netns::{Host, INTERFACE, Wire};
use serde_json::Value;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::Path;

/// Its address.
pub(crate) const SERVER: &str = "10.77.0.1";

/// A greypit on the host `greypit` of a wire, with machine files and files to give out.
/// It ships every second.
#[derive(Debug)]
pub(crate) struct BootServer {
    greypit: Greypit,
    pub(crate) host: Host,
}

impl Deref for BootServer {
    type Target = Greypit;

    fn deref(&self) -> &Greypit {
        &self.greypit
    }
}

impl DerefMut for BootServer {
    fn deref_mut(&mut self) -> &mut Greypit {
        &mut self.greypit
    }
}

impl BootServer {
    /// One that is not started, without machines and files; it serves DHCP and whatever
    /// has a port.
    pub(crate) fn new(wire: &Wire) -> Self {
        Self::in_subnet(wire, 24)
    }

    /// The same, in a subnet with a prefix of so many bits.
    pub(crate) fn in_subnet(wire: &Wire, bits: u8) -> Self {
        let host = wire.host("greypit", Some(&format!("{SERVER}/{bits}")));
        let greypit = Greypit::on(&host, "boot");
        let mut server = Self { greypit, host };
        for (key, folder) in [("boot.dir", "machines"), ("boot.root", "files")] {
            let path = server.folder().join(folder);
            fs::create_dir_all(&path).expect("a folder of ours");
            server.set(key, path.to_str().expect("a plain path").to_owned());
        }
        server.set("boot.interface", INTERFACE);
        server.set("batch.window", "1s");
        server
    }

    /// Makes or changes the files of a machine, named by its address or `default`.
    pub(crate) fn machine(&self, address: &str, files: &[(&str, &str)]) {
        let folder = self.folder().join("machines").join(SERVER).join(address);
        for (name, contents) in files {
            put(&folder.join(name), contents.as_bytes());
        }
    }

    /// Makes a file that it gives out.
    pub(crate) fn file(&self, name: &str, contents: &[u8]) {
        put(&self.folder().join("files").join(name), contents);
    }

    /// Every record of a kind that is in the store, in the order of their numbers.
    pub(crate) fn records(&self, kind: &str) -> Vec<Value> {
        let mut records = Vec::new();
        self.cat(|line| {
            let record: Value = serde_json::from_str(line).expect("JSON");
            if record["kind"] == kind {
                records.push(record);
            }
        });
        records
    }
}

/// As a whole: who looks meanwhile sees it or does not.
fn put(path: &Path, contents: &[u8]) {
    let aside = path.with_extension("new");
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder of ours");
    fs::write(&aside, contents).expect("a file of ours");
    fs::rename(&aside, path).expect("a file of ours");
}
