//! Events that no broker takes, kept for a person: `<data_dir>/set-aside/<id>.json`.
//!
//! One JSON object a file: `{"set_aside":"<reason>","error":"…","record":{…}}`, the record as the topic would have it.
//! greypit never deletes them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::failure::{Code, Failure};
use super::feed::Feeder;
use crate::encode::Read;
use crate::kafka::errors::Class;
use crate::spool::sync_folder;
use crate::{Error, Result};

/// The level at which an event is compressed to see how large it is: that of the client.
const ZSTD_LEVEL: i32 = 3;

/// An event that no broker takes.
#[derive(Debug)]
pub(super) struct Refused {
    why: Failure,
    /// It is kept aside.
    kept: bool,
}

impl Refused {
    pub(super) fn new(why: Failure) -> Refused {
        Refused { why, kept: false }
    }
}

impl Feeder {
    /// Keeps an event aside if no broker takes it, and says why that is.
    pub(super) fn refused(&mut self, index: usize, event: Read<'_>) -> Result<Option<Code>> {
        let lane = &mut self.lanes[index];
        let max = lane.max_bytes().unwrap_or(usize::MAX);
        // A record is larger than its body by less than that; only what may be too large is looked at.
        let may_be_too_large = event.body.len() + 2048 > max;
        if !may_be_too_large && (self.refused.is_empty() || !self.refused.contains_key(&(index, event.seq))) {
            return Ok(None);
        }
        let record = lane.records.of(event);
        if may_be_too_large && is_too_large(record.value, record.bytes_max(), max) {
            let text = format!("topic {}: larger than its max.message.bytes of {max}", lane.topic);
            let why = Failure::new(Code::Brokers(Class::TooLarge), text);
            self.refused.entry((index, event.seq)).or_insert(Refused::new(why));
        }
        let Some(refused) = self.refused.get_mut(&(index, event.seq)) else { return Ok(None) };
        if !refused.kept {
            write(&self.parts.aside, record.id, record.value, &refused.why)?;
            refused.kept = true;
            self.parts.output.metrics.set_aside.with_label_values(&[refused.why.code.name()]).inc();
            let (id, bytes, reason, folder) =
                (record.id, record.value.len(), &refused.why.text, self.parts.aside.display());
            tracing::error!(id, bytes, reason, %folder, "kafka: an event that no broker takes is set aside");
        }
        Ok(Some(refused.why.code))
    }
}

/// Whether a message is too large even compressed, alone in its request; that is how one beyond the limit goes, and brokers
/// look at what arrives.
fn is_too_large(value: &[u8], bytes: usize, max: usize) -> bool {
    bytes > max && zstd::bulk::compress(value, ZSTD_LEVEL).map_or(bytes, |value| value.len()) > max
}

/// Writes `record` durably, before anything goes in its place.
fn write(folder: &Path, id: &str, record: &[u8], failure: &Failure) -> Result<()> {
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
    use crate::kafka::errors::Class;

    #[test]
    fn what_is_set_aside_is_there_whole_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let aside = folder.path().join("set-aside");
        let failure = Failure::new(Code::Brokers(Class::TooLarge), "topic \"x\": too large");
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
