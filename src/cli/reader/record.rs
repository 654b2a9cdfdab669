//! Reads one field of a record, and the two that decide whether it is meant.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Selection;

/// What a command looks at in a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picked<'a> {
    value: Option<&'a RawValue>,
    kind: Option<&'a RawValue>,
    ts: Option<&'a RawValue>,
}

impl Picked<'_> {
    /// The field's value as a text; none where it is missing or null.
    pub(crate) fn text(&self) -> Option<Cow<'_, str>> {
        self.value.map(RawValue::get).filter(|raw| *raw != "null").map(text)
    }

    pub(crate) fn is_wanted(&self, selection: &Selection) -> bool {
        let text = |raw: Option<&'_ RawValue>| raw.map(|raw| text(raw.get()).into_owned());
        selection.wants(text(self.kind).as_deref(), text(self.ts).as_deref())
    }
}

/// A string's content, anything else as it is written.
fn text(raw: &str) -> Cow<'_, str> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => Cow::Borrowed(raw),
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        Some(_) => serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(raw), Cow::Owned),
    }
}

/// Reads one line; none where it is no JSON object. Nothing but the wanted fields is looked at, and nothing is copied.
pub(crate) fn pick<'a>(line: &'a str, field: &str) -> Option<Picked<'a>> {
    let mut json = serde_json::Deserializer::from_str(line);
    let picked = Pick { field }.deserialize(&mut json).ok()?;
    json.end().ok()?;
    Some(picked)
}

struct Pick<'f> {
    field: &'f str,
}

/// Which of the names that are looked for a key is.
struct Name {
    is_field: bool,
    is_kind: bool,
    is_ts: bool,
}

impl<'de> DeserializeSeed<'de> for &Pick<'_> {
    type Value = Name;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name, D::Error> {
        struct Key<'f>(&'f str);
        impl Visitor<'_> for Key<'_> {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name { is_field: name == self.0, is_kind: name == "kind", is_ts: name == "ts" })
            }
        }
        deserializer.deserialize_str(Key(self.field))
    }
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = Picked<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Picked<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Picked<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Picked<'de>, A::Error> {
        let mut picked = Picked::default();
        while let Some(name) = map.next_key_seed(&self)? {
            if !(name.is_field || name.is_kind || name.is_ts) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value: &'de RawValue = map.next_value()?;
            if name.is_field {
                picked.value = Some(value);
            }
            if name.is_kind {
                picked.kind = Some(value);
            }
            if name.is_ts {
                picked.ts = Some(value);
            }
        }
        Ok(picked)
    }
}
