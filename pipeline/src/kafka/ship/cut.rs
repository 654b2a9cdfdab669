//! The cut: where a batch ends and what its objects are, decided once.
//!
//! Its place in the store is `_cut/<topic>/<partition>/<start>`, the offset in 20 digits, so that names sort as offsets
//! do. A later life of the topic (deleted and made anew, or another cluster on the same store) adds `-<life>`, from 1 on.
//! It is written only if it is new, and never changed. JSON:
//!
//! | field | content |
//! |---|---|
//! | `version` | 1 |
//! | `life` | which log under this topic's name: 0, 1, … |
//! | `start` `end` | the batch's offsets, both included; `start` follows the `end` of the cut before, the first is 0 |
//! | `before` | the name of the cut whose streams the batch began with |
//! | `first` | offset and id of its first message: tells one log from another |
//! | `form` | how its objects are made: codec, level, key template, prefix, window |
//! | `objects` | of each object: the window, the offset of its first event (it is in the key), how many records |
//! | `streams` | by name, the numbers seen up to and including `end` |

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::seen::{Known, Seen};
use crate::codec::Codec;
use crate::key::{Template, Values};
use crate::store::{Object, Put, StoreError};
use crate::upload::Uploader;
use crate::{Error, Kind, Result, batch};

const VERSION: u32 = 1;

/// One partition of one kind's topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) kind: Kind,
}

/// A cut's name in its partition's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) life: u32,
    pub(super) start: i64,
}

/// Where and with what a log's first readable message was met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct First {
    pub(super) offset: i64,
    pub(super) id: String,
}

/// How objects are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Form {
    pub(super) codec: Codec,
    pub(super) level: u32,
    /// The template of keys.
    pub(super) key: String,
    pub(super) prefix: String,
    pub(super) window_s: i64,
}

/// One object of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Start of the window, in seconds since 1970.
    pub(super) window: i64,
    /// Offset of its first event.
    pub(super) first: i64,
    pub(super) records: u64,
}

/// A cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cut {
    version: u32,
    pub(super) life: u32,
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) before: Option<Name>,
    pub(super) first: Option<First>,
    pub(super) form: Form,
    pub(super) objects: Vec<Part>,
    pub(super) streams: BTreeMap<String, Known>,
}

impl Place {
    /// Where its cuts are.
    pub(super) fn folder(&self) -> String {
        format!("_cut/{}/{}", self.topic, self.partition)
    }

    fn key(&self, name: Name) -> String {
        format!("{}/{name}", self.folder())
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.life {
            0 => write!(f, "{:020}", self.start),
            life => write!(f, "{:020}-{life}", self.start),
        }
    }
}

impl Name {
    /// Reads a name; `None` for what is no cut.
    pub(super) fn parse(name: &str) -> Option<Name> {
        let (start, life) = match name.split_once('-') {
            Some((start, life)) => (start, life.parse().ok().filter(|life| *life > 0)?),
            None => (name, 0),
        };
        (start.len() == 20 && start.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
        Some(Name { life, start: start.parse().ok()? }).filter(|parsed| parsed.to_string() == name)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Name, D::Error> {
        let name = String::deserialize(deserializer)?;
        Name::parse(&name).ok_or_else(|| serde::de::Error::custom(format!("'{name}' names no cut")))
    }
}

impl Form {
    /// As the config says.
    pub(super) fn of(config: &batch::Config, kind: Kind) -> Form {
        Form {
            codec: config.codec,
            level: config.level.unwrap_or(config.codec.default_level()),
            key: config.key.clone(),
            prefix: config.prefix_of(kind),
            window_s: i64::try_from(config.window.0.as_secs()).unwrap_or(i64::MAX).max(1),
        }
    }

    /// The window that a moment is in.
    pub(super) fn window(&self, timestamp_ms: i64) -> i64 {
        timestamp_ms.div_euclid(1_000).div_euclid(self.window_s).saturating_mul(self.window_s)
    }

    /// The key of an object.
    ///
    /// # Errors
    /// A template that this version does not know.
    pub(super) fn key(&self, place: &Place, life: u32, window: i64, first: i64) -> Result<String> {
        let template =
            Template::new(&self.key).map_err(|problem| Error::Config { key: "batch.key".into(), problem })?;
        let part = match life {
            0 => format!("p{}-{first}", place.partition),
            life => format!("p{}-{first}-{life}", place.partition),
        };
        let (kind, ext) = (place.kind.as_str(), self.codec.extension());
        Ok(template.render(&Values { prefix: &self.prefix, kind, window, node: "", part: &part, ext }))
    }
}

impl Cut {
    pub(super) fn new(
        name: Name,
        end: i64,
        before: Option<Name>,
        first: Option<First>,
        form: Form,
        objects: Vec<Part>,
        seen: &Seen,
    ) -> Cut {
        let Name { life, start } = name;
        Cut { version: VERSION, life, start, end, before, first, form, objects, streams: seen.known() }
    }

    pub(super) fn name(&self) -> Name {
        Name { life: self.life, start: self.start }
    }

    /// Whether the log whose first message from `start` on is `first`, read after the cut was made, can be the one that
    /// the cut was made of. Messages that retention has deleted since tell nothing.
    pub(super) fn is_of_log(&self, first: &First) -> bool {
        match &self.first {
            Some(then) => first.offset > then.offset || first == then,
            None => first.offset > self.end,
        }
    }

    /// The same of a message that may have been read before the cut was made, by somebody who found more deleted.
    pub(super) fn can_be_of_log(&self, first: Option<&First>) -> bool {
        let same = |(then, now): (&First, &First)| then.offset != now.offset || then == now;
        self.first.as_ref().zip(first).is_none_or(same)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // Maps with text as keys and numbers: nothing in it that JSON cannot hold.
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(key: &str, bytes: &[u8]) -> Result<Cut> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let damaged = |what: String| Error::Damaged { path: key.into(), what };
        let version =
            serde_json::from_slice::<Version>(bytes).map_err(|error| damaged(format!("is no cut: {error}")))?;
        if version.version != VERSION {
            let problem = "was written by a newer greypit: upgrade this one";
            return Err(damaged(format!("has version {}, {problem}", version.version)));
        }
        let cut: Cut = serde_json::from_slice(bytes).map_err(|error| damaged(format!("is no cut: {error}")))?;
        if cut.end < cut.start || cut.start < 0 {
            return Err(damaged(format!("goes from {} to {}", cut.start, cut.end)));
        }
        Ok(cut)
    }
}

/// Reads a cut; `None` where there is none.
pub(super) async fn get(uploader: &Uploader, place: &Place, name: Name) -> Result<Option<Cut>> {
    let key = place.key(name);
    match uploader.store.get(&key).await {
        Ok(bytes) => Cut::decode(&key, &bytes).map(Some),
        Err(StoreError { class: "not_found", .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes a cut; where one is there already, gives that one.
pub(super) async fn put(uploader: &Uploader, place: &Place, cut: &Cut) -> Result<Option<Cut>> {
    let key = place.key(cut.name());
    let object = Object { bytes: Bytes::from(cut.encode()), content_type: "application/json", metadata: Vec::new() };
    match uploader.put_new(&key, &object).await? {
        Put::Created => Ok(None),
        // Ours, where the answer was lost.
        Put::Exists => Ok(get(uploader, place, cut.name()).await?.filter(|theirs| theirs != cut)),
    }
}

/// The last cut of every life, the newest life first.
pub(super) async fn last_of_lives(uploader: &Uploader, place: &Place) -> Result<Vec<Name>> {
    let names = uploader.store.names(&place.folder(), None).await?;
    let mut lives = BTreeMap::new();
    for name in names.iter().filter_map(|name| Name::parse(name)) {
        let last = lives.entry(name.life).or_insert(name);
        *last = name.max(*last);
    }
    Ok(lives.into_values().rev().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_offsets_do_and_nothing_else_is_one() {
        let name = |life, start| Name { life, start };
        assert_eq!(name(0, 500).to_string(), "00000000000000000500");
        assert_eq!(name(2, 500).to_string(), "00000000000000000500-2");
        for name in [name(0, 0), name(0, i64::MAX), name(7, 12)] {
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
        for bad in [
            "",
            "500",
            "00000000000000000500-0",
            "00000000000000000500-x",
            "00000000000000000500-01",
            "0000000000000000050x",
        ] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_format_is_fixed() {
        let form = Form { codec: Codec::Bzip2, level: 9, key: "k".into(), prefix: "p".into(), window_s: 300 };
        let cut = Cut {
            version: VERSION,
            life: 0,
            start: 10,
            end: 20,
            before: Some(Name { life: 0, start: 0 }),
            first: Some(First { offset: 11, id: "mx1-e-to-7".into() }),
            form,
            objects: vec![Part { window: 300, first: 11, records: 10 }],
            streams: BTreeMap::from([("mx1-e-to".to_owned(), Known { newest_ms: 5, runs: vec![(1, 16)] })]),
        };
        let json = r#"{"version":1,"life":0,"start":10,"end":20,"before":"00000000000000000000","first":{"offset":11,"id":"mx1-e-to-7"},"form":{"codec":"bzip2","level":9,"key":"k","prefix":"p","window_s":300},"objects":[{"window":300,"first":11,"records":10}],"streams":{"mx1-e-to":{"newest_ms":5,"runs":[[1,16]]}}}"#;
        assert_eq!(String::from_utf8(cut.encode()).unwrap(), json);
        assert_eq!(Cut::decode("k", json.as_bytes()).unwrap(), cut);
        let newer = json.replace("\"version\":1", "\"version\":2");
        assert!(Cut::decode("k", newer.as_bytes()).unwrap_err().to_string().contains("newer greypit"));
        assert!(Cut::decode("k", b"{").is_err());
        let backwards = json.replace("\"end\":20", "\"end\":9");
        assert!(Cut::decode("k", backwards.as_bytes()).is_err());
    }

    #[test]
    fn another_log_shows_in_its_first_message() {
        let first = |offset, id: &str| First { offset, id: id.into() };
        let form = Form { codec: Codec::None, level: 0, key: "k".into(), prefix: "p".into(), window_s: 300 };
        let name = Name { life: 0, start: 10 };
        let cut = Cut::new(name, 20, None, Some(first(11, "a-e-to-1")), form, Vec::new(), &Seen::default());
        for (now, is, can_be) in [
            (first(11, "a-e-to-1"), true, true),
            (first(11, "b-e-to-1"), false, false),
            (first(10, "a-e-to-1"), false, true),
            (first(12, "b-e-to-1"), true, true),
        ] {
            assert_eq!(cut.is_of_log(&now), is, "{now:?}");
            assert_eq!(cut.can_be_of_log(Some(&now)), can_be, "{now:?}");
        }
        assert!(cut.can_be_of_log(None));
    }
}
