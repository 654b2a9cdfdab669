//! Whatever lies in the store, reading it ends, within its limits, and the verdict on its ids is that of a naive count.
//! The first byte chooses the object's name.
#![no_main]

use std::collections::BTreeMap;

use greypit_pipeline::codec::{Codec, Decoder};
use greypit_pipeline::object::{Id, Ids, Line, Lines, Start};
use libfuzzer_sys::fuzz_target;

const DECOMPRESSED_BYTES_MAX: u64 = 1 << 20;

#[derive(serde::Deserialize)]
struct Head {
    id: String,
}

fuzz_target!(|input: &[u8]| {
    let Some((&first, object)) = input.split_first() else { return };
    let codec = Codec::ALL[usize::from(first) % Codec::ALL.len()];
    let key = format!("a.json{}", codec.extension());

    let mut lines = Lines::new(Decoder::of_object(&key, object, DECOMPRESSED_BYTES_MAX));
    let mut ids = Ids::new();
    let (mut model, mut broken, mut bytes) = (BTreeMap::<String, BTreeMap<u64, u64>>::new(), 0, 0);
    while let Ok(Some(line)) = lines.next() {
        let Line::Text(line) = line else { panic!("no line is that long here") };
        assert!(!line.is_empty() && !line.contains(&b'\n'));
        bytes += line.len() as u64;
        ids.add_line(line);
        let text = std::str::from_utf8(line).ok().filter(|text| text.trim_ascii_start().starts_with('{'));
        let head = text.and_then(|text| serde_json::from_str::<Head>(text).ok());
        match head.as_ref().and_then(|head| Id::parse(&head.id)) {
            Some(Id { node, epoch, kind, seq }) => {
                *model.entry(format!("{node}-{epoch}-{kind}")).or_default().entry(seq).or_default() += 1;
            }
            None => broken += 1,
        }
    }
    assert!(bytes <= DECOMPRESSED_BYTES_MAX);

    let verdict = ids.verdict(Start::FirstSeen);
    assert_eq!(verdict.broken, broken);
    assert_eq!(verdict.streams.len(), model.len());
    for stream in &verdict.streams {
        let seen = &model[&format!("{}-{}-{}", stream.node, stream.epoch, stream.kind)];
        assert_eq!(stream.distinct, seen.len() as u64);
        assert_eq!(stream.repeated, seen.values().map(|count| count - 1).sum::<u64>());
        assert_eq!(Some((&stream.range.first, &stream.range.last)), seen.keys().next().zip(seen.keys().next_back()));
        assert_eq!(stream.lost, (stream.range.last - stream.range.first).saturating_add(1) - stream.distinct);
    }
});
