//! Proves from ids alone that nothing is lost and nothing is there twice.
//!
//! An id is `<node>-<epoch>-<kind>-<seq>`, read from the right: only the node may contain `-`. Within one stream (node,
//! epoch, kind) the spool counts `seq` from 1 without gaps, so what is missing below the highest is lost, and what is
//! there more than once is repeated. What is missing above the highest cannot be known.
//!
//! Memory: one range of 16 bytes (and its share of a tree) for each run of numbers without a gap, so a healthy store of
//! any size needs a few; ids in random order need up to one for each id.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::runs::{Gap, Runs};
use crate::Kind;

/// How many gaps and repeats of a stream a report lists.
const EXAMPLES_MAX: usize = 10;

/// A record's id, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    /// The machine that wrote it.
    pub node: &'a str,
    /// One life of its spool directory.
    pub epoch: &'a str,
    /// The kind.
    pub kind: Kind,
    /// From 1 on.
    pub seq: u64,
}

impl<'a> Id<'a> {
    /// Reads an id.
    pub fn parse(id: &'a str) -> Option<Id<'a>> {
        let (stream, seq) = split_seq(id)?;
        let (node, epoch, kind) = split_stream(stream)?;
        Some(Id { node, epoch, kind, seq })
    }
}

/// The stream and the number.
pub(crate) fn split_seq(id: &str) -> Option<(&str, u64)> {
    let (stream, digits) = id.rsplit_once('-')?;
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((stream, digits.parse().ok()?))
}

pub(crate) fn split_stream(stream: &str) -> Option<(&str, &str, Kind)> {
    let (rest, kind) = stream.rsplit_once('-')?;
    let (node, epoch) = rest.rsplit_once('-')?;
    (!node.is_empty() && !epoch.is_empty()).then_some(())?;
    Some((node, epoch, Kind::parse(kind)?))
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// The numbers seen of one stream.
#[derive(Clone, Debug, Default)]
struct Seen {
    runs: Runs,
    repeated: u64,
    repeats: Vec<Gap>,
}

impl Seen {
    fn add(&mut self, seq: u64) {
        if !self.runs.insert(seq) {
            self.repeat(Gap { first: seq, last: seq });
        }
    }

    fn repeat(&mut self, range: Gap) {
        self.repeated = self.repeated.saturating_add(range.count());
        if self.repeats.len() < EXAMPLES_MAX {
            self.repeats.push(range);
        }
    }

    fn merge(&mut self, other: Seen) {
        let mut there = Vec::new();
        for run in other.runs.iter() {
            self.runs.insert_range(run, |range| there.push(range));
        }
        there.into_iter().for_each(|range| self.repeat(range));
        self.repeated = self.repeated.saturating_add(other.repeated);
        self.repeats.extend(other.repeats);
        self.repeats.truncate(EXAMPLES_MAX);
    }
}

/// Where a stream is expected to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At 1: all objects since the beginning are there.
    One,
    /// At the lowest that is there: older objects were deleted or left out.
    FirstSeen,
}

/// Collects ids; made for ids in roughly ascending order, correct for any.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    streams: Vec<(String, Seen)>,
    by_name: HashMap<String, usize>,
    /// The stream of the id before: the next is most likely of the same.
    recent: usize,
    broken: u64,
    objects: u64,
}

impl Ids {
    /// Nothing seen.
    pub fn new() -> Ids {
        Ids::default()
    }

    /// Counts an object.
    pub fn add_object(&mut self) {
        self.objects += 1;
    }

    /// Counts something in a record's place that is none: a line over the limit, the rest of a damaged object.
    pub fn add_broken(&mut self) {
        self.broken += 1;
    }

    /// Counts one line: a record if it is a JSON object with a proper id, else broken.
    pub fn add_line(&mut self, line: &[u8]) {
        // An array would pass for an object in the order of its fields.
        let text = std::str::from_utf8(line).ok().filter(|text| text.trim_ascii_start().starts_with('{'));
        match text.and_then(|text| serde_json::from_str::<Head<'_>>(text).ok()) {
            Some(head) => self.add(&head.id),
            None => self.broken += 1,
        }
    }

    /// Counts one id.
    pub fn add(&mut self, id: &str) {
        let Some((stream, seq)) = split_seq(id) else {
            self.broken += 1;
            return;
        };
        match self.stream(stream) {
            Some(seen) => seen.add(seq),
            None => self.broken += 1,
        }
    }

    fn stream(&mut self, name: &str) -> Option<&mut Seen> {
        if self.streams.get(self.recent).is_none_or(|(recent, _)| recent != name) {
            self.recent = match self.by_name.get(name) {
                Some(index) => *index,
                None => {
                    split_stream(name)?;
                    self.streams.push((name.to_owned(), Seen::default()));
                    self.by_name.insert(name.to_owned(), self.streams.len() - 1);
                    self.streams.len() - 1
                }
            };
        }
        self.streams.get_mut(self.recent).map(|(_, seen)| seen)
    }

    /// Adds what another collector saw, for example that of one object.
    pub fn merge(&mut self, other: Ids) {
        for (name, seen) in other.streams {
            if let Some(mine) = self.stream(&name) {
                mine.merge(seen);
            }
        }
        self.broken += other.broken;
        self.objects += other.objects;
    }

    /// What it all means.
    pub fn verdict(&self, start: Start) -> Verdict {
        self.verdict_of(start, &[])
    }

    /// The same for some kinds; for all where `kinds` is empty.
    pub fn verdict_of(&self, start: Start, kinds: &[Kind]) -> Verdict {
        let reports = self.streams.iter().filter_map(|(name, seen)| StreamReport::of(name, seen, start));
        let mut streams: Vec<StreamReport> =
            reports.filter(|stream| kinds.is_empty() || kinds.contains(&stream.kind)).collect();
        streams.sort_by(|a, b| (&a.node, &a.epoch, a.kind).cmp(&(&b.node, &b.epoch, b.kind)));
        let sum = |of: fn(&StreamReport) -> u64| streams.iter().map(of).fold(0, u64::saturating_add);
        Verdict {
            records: sum(|stream| stream.distinct.saturating_add(stream.repeated)),
            lost: sum(|stream| stream.lost),
            repeated: sum(|stream| stream.repeated),
            broken: self.broken,
            objects: self.objects,
            streams,
        }
    }
}

/// What was found in all streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Lines with a proper id, repeated ones too.
    pub records: u64,
    /// Numbers missing below the highest.
    pub lost: u64,
    /// Lines too many.
    pub repeated: u64,
    /// Lines that are no record.
    pub broken: u64,
    /// Objects read.
    pub objects: u64,
    /// One for each node, epoch and kind, in this order.
    pub streams: Vec<StreamReport>,
}

impl Verdict {
    /// Whether everything is there once.
    pub fn is_exact(&self) -> bool {
        self.lost == 0 && self.repeated == 0 && self.broken == 0
    }
}

/// What was found in one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// The machine.
    pub node: String,
    /// One life of its spool directory.
    pub epoch: String,
    /// The kind.
    pub kind: Kind,
    /// Different numbers seen.
    pub distinct: u64,
    /// The lowest and the highest.
    pub range: Gap,
    /// Numbers missing below the highest.
    pub lost: u64,
    /// Lines too many.
    pub repeated: u64,
    /// The first of the gaps.
    pub gaps: Vec<Gap>,
    /// The first repeats that were met.
    pub repeats: Vec<Gap>,
}

impl StreamReport {
    fn of(name: &str, seen: &Seen, start: Start) -> Option<StreamReport> {
        let (node, epoch, kind) = split_stream(name)?;
        let range = Gap { first: seen.runs.iter().next()?.first, last: seen.runs.iter().last()?.last };
        let mut expected = match start {
            Start::One => 1,
            Start::FirstSeen => range.first,
        };
        let (mut distinct, mut lost, mut gaps) = (0u64, 0u64, Vec::new());
        for Gap { first, last } in seen.runs.iter() {
            if first > expected {
                let gap = Gap { first: expected, last: first - 1 };
                lost = lost.saturating_add(gap.count());
                if gaps.len() < EXAMPLES_MAX {
                    gaps.push(gap);
                }
            }
            distinct = distinct.saturating_add(Gap { first, last }.count());
            expected = last.saturating_add(1);
        }
        Some(StreamReport {
            node: node.to_owned(),
            epoch: epoch.to_owned(),
            kind,
            distinct,
            range,
            lost,
            repeated: seen.repeated,
            gaps,
            repeats: seen.repeats.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap as Model;

    #[test]
    fn an_id_is_read_from_the_right() {
        let id = Id::parse("mail-relay-1-8f3a-to-42").unwrap();
        assert_eq!((id.node, id.epoch, id.kind.as_str(), id.seq), ("mail-relay-1", "8f3a", "to", 42));
        for bad in [
            "",
            "mx1-e-to",
            "mx1-to-1",
            "-e-to-1",
            "mx1--to-1",
            "mx1-e-To-1",
            "mx1-e-to-0",
            "mx1-e-to-01",
            "mx1-e-to-+1",
        ] {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
        assert_eq!(Id::parse("mx1-e-to-18446744073709551616"), None);
    }

    #[test]
    fn gaps_and_repeats_are_found_in_each_stream() {
        let mut ids = Ids::new();
        for seq in [1, 2, 3, 5, 6, 6, 9] {
            ids.add(&format!("mx1-e-to-{seq}"));
        }
        ids.add("mx2-e-to-1");
        ids.add("mx1-f-to-2");
        ids.add_object();
        let verdict = ids.verdict(Start::One);
        assert_eq!((verdict.records, verdict.lost, verdict.repeated, verdict.objects), (9, 4, 1, 1));
        let first = &verdict.streams[0];
        assert_eq!(first.gaps, [Gap { first: 4, last: 4 }, Gap { first: 7, last: 8 }]);
        assert_eq!(first.repeats, [Gap { first: 6, last: 6 }]);
        assert_eq!(ids.verdict(Start::FirstSeen).lost, 3);
        assert!(!verdict.is_exact());
    }

    #[test]
    fn a_line_that_is_no_record_is_counted() {
        let mut ids = Ids::new();
        ids.add_line(br#"{"id":"mx1-e-to-1","kind":"to","x":{"id":"y"}}"#);
        ids.add_line(br#"{"kind":"to","id":"mx1-e-to-\u0032"}"#);
        for broken in [
            &b"{\"id\":\"mx1-e-to-3\""[..],
            b"{}",
            b"[]",
            b"[\"mx1-e-to-3\"]",
            b"{\"id\":3}",
            b"{\"id\":\"x\"}",
            b"{\"id\":\"mx1-e-to-3\",\"a\":\"\xff\"}",
            b"\0",
            b"{\"id\":\"mx1-e-to-3\"}{",
        ] {
            ids.add_line(broken);
        }
        let verdict = ids.verdict(Start::One);
        assert_eq!((verdict.records, verdict.broken, verdict.lost), (2, 9, 0));
    }

    #[test]
    fn the_highest_number_there_is_does_no_harm() {
        let mut ids = Ids::new();
        for _ in 0..2 {
            ids.add("mx1-e-to-1");
            ids.add(&format!("mx1-e-to-{}", u64::MAX));
        }
        let verdict = ids.verdict(Start::One);
        assert_eq!((verdict.records, verdict.repeated, verdict.lost), (4, 2, u64::MAX - 2));
    }

    proptest! {
        #[test]
        fn as_the_naive_model(seqs in proptest::collection::vec((0usize..2, 1u64..40), 0..120), split in 0usize..120) {
            let mut model: Model<(usize, u64), u64> = Model::new();
            let (mut one, mut two) = (Ids::new(), Ids::new());
            for (i, (stream, seq)) in seqs.iter().enumerate() {
                *model.entry((*stream, *seq)).or_default() += 1;
                let ids = if i < split { &mut one } else { &mut two };
                ids.add(&format!("mx{stream}-e-to-{seq}"));
            }
            one.merge(two);
            let verdict = one.verdict(Start::One);
            let lost: u64 = (0..2).map(|stream| {
                let max = model.keys().filter(|(s, _)| *s == stream).map(|(_, seq)| *seq).max().unwrap_or(0);
                (1..=max).filter(|seq| !model.contains_key(&(stream, *seq))).count() as u64
            }).sum();
            prop_assert_eq!(verdict.records, seqs.len() as u64);
            prop_assert_eq!(verdict.lost, lost);
            prop_assert_eq!(verdict.repeated, model.values().map(|count| count - 1).sum::<u64>());
            prop_assert_eq!(verdict.streams.iter().map(|stream| stream.distinct).sum::<u64>(), model.len() as u64);
        }
    }
}
