//! Events that no broker takes, kept for a person: `<data_dir>/set-aside/<id>.json`.
//!
//! One JSON object a file: `{"set_aside":"<reason>","error":"…","record":{…}}`, the record as the topic would have it.
//! greypit never deletes them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::failure::Failure;
use crate::spool::sync_folder;
use crate::{Error, Result};

/// Writes `record` durably, before anything goes in its place.
pub(super) fn write(folder: &Path, id: &str, record: &[u8], failure: &Failure) -> Result<()> {
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        sync_folder(folder.parent().unwrap_or(Path::new(".")))?;
    }
    let path = folder.join(format!("{id}.json"));
    let error = serde_json::to_string(&failure.text).unwrap_or_else(|_| "\"\"".into());
    let written = File::create(&path).and_then(|mut file| {
        write!(file, "{{\"set_aside\":\"{}\",\"error\":{error},\"record\":", failure.code.name())?;
        file.write_all(record)?;
        file.write_all(b"}\n")?;
        file.sync_all()
    });
    written.map_err(Error::io("write", &path))?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::super::failure::Code;
    use super::*;

    #[test]
    fn what_is_set_aside_is_there_whole_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let aside = folder.path().join("set-aside");
        let failure = Failure::new(Code::TooLarge, "topic \"x\": too large");
        for _ in 0..2 {
            write(&aside, "mx1-e1-to-7", br#"{"id":"mx1-e1-to-7","n":1}"#, &failure).unwrap();
        }
        let text = std::fs::read(aside.join("mx1-e1-to-7.json")).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["record"]["n"], 1);
        assert_eq!(
            (value["set_aside"].as_str(), value["error"].as_str()),
            (Some("too_large"), Some("topic \"x\": too large"))
        );
    }
}
