//! `greypit verify`: every id once, no gap, proved from the objects alone.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use greypit_pipeline::codec::Decoder;
use greypit_pipeline::object::{Gap, Ids, Line, Lines, Start, StreamReport, Verdict};
use greypit_pipeline::store::Config;
use serde::Serialize;

use super::reader::{DECOMPRESSED_BYTES_MAX, Fetched, Source, TIMES_HELP, for_each};
use super::{EXIT_DONE, EXIT_NO, Stop, end, printable};

/// Prove that every record is there once
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("Examples:
  greypit verify
  greypit verify s3://mail-archive --kind to
  greypit verify /var/lib/greypit/objects --from-first-seen

Prints records=… lost=… repeated=… broken=… objects=…
Ends with 0 when nothing is lost, repeated or broken, else with 1 and the first gaps of each node, epoch and kind on stderr.
What is missing behind the last record cannot be seen.

{TIMES_HELP}"))]
pub struct Verify {
    #[command(flatten)]
    source: Source,
    /// Do not expect each stream to start at 1: older objects were deleted (implied by --since)
    #[arg(long)]
    from_first_seen: bool,
    /// The verdict as one JSON object, with every node, epoch and kind
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Json<'a> {
    records: u64,
    lost: u64,
    repeated: u64,
    broken: u64,
    objects: u64,
    streams: Vec<JsonStream<'a>>,
}

#[derive(Serialize)]
struct JsonStream<'a> {
    node: &'a str,
    epoch: &'a str,
    kind: greypit_pipeline::Kind,
    distinct: u64,
    first: u64,
    last: u64,
    lost: u64,
    repeated: u64,
    gaps: Vec<[u64; 2]>,
    repeats: Vec<[u64; 2]>,
}

impl Verify {
    /// Verifies the store named by the arguments, else `store`.
    pub async fn run(self, store: Option<Config>) -> ExitCode {
        end("verify", self.prove(store, &mut std::io::stdout()).await)
    }

    pub(crate) async fn prove(self, store: Option<Config>, out: &mut impl Write) -> Result<u8, Stop> {
        let opened = self.source.open(store)?;
        let objects = opened.objects().await?;
        if objects.is_empty() {
            // Nothing is lost there, but it may be the wrong place.
            eprintln!("greypit verify: no objects in {}", printable(&opened.store.url()));
        }
        let mut ids = Ids::new();
        let mut damaged = Vec::new();
        for_each(&opened.store, objects, true, read, |(found, damage): (Ids, Option<String>)| {
            ids.merge(found);
            damaged.extend(damage);
            Ok(())
        })
        .await?;

        let start = match self.from_first_seen || self.source.since.is_some() {
            true => Start::FirstSeen,
            false => Start::One,
        };
        let verdict = ids.verdict_of(start, &self.source.kind);
        if self.json {
            serde_json::to_writer(&mut *out, &json(&verdict)).map_err(std::io::Error::from)?;
            writeln!(out)?;
        } else {
            let Verdict { records, lost, repeated, broken, objects, .. } = verdict;
            writeln!(out, "records={records} lost={lost} repeated={repeated} broken={broken} objects={objects}")?;
        }
        for line in damaged.iter().chain(&verdict.streams.iter().flat_map(complaints).collect::<Vec<_>>()) {
            eprintln!("greypit verify: {line}");
        }
        Ok(if verdict.is_exact() { EXIT_DONE } else { EXIT_NO })
    }
}

/// The ids of one object. The rest of a damaged one counts as one broken line.
fn read(fetched: Fetched) -> (Ids, Option<String>) {
    let mut ids = Ids::new();
    ids.add_object();
    let key = &fetched.object.key;
    let mut lines = Lines::new(Decoder::of_object(key, &fetched.bytes, DECOMPRESSED_BYTES_MAX));
    loop {
        match lines.next() {
            Ok(None) => return (ids, None),
            Ok(Some(Line::Text(line))) => ids.add_line(line),
            Ok(Some(Line::TooLong(_))) => ids.add_broken(),
            Err(error) => {
                ids.add_broken();
                return (ids, Some(format!("{}: damaged: {error}", printable(key))));
            }
        }
    }
}

fn complaints(stream: &StreamReport) -> Vec<String> {
    let name = printable(&format!("{}-{}-{}", stream.node, stream.epoch, stream.kind));
    let list = |count: u64, what: &str, runs: &[Gap]| {
        let runs = runs.iter().map(|run| match run.first == run.last {
            true => run.first.to_string(),
            false => format!("{}–{}", run.first, run.last),
        });
        (count > 0).then(|| format!("{name}: {count} {what}: {}", runs.collect::<Vec<_>>().join(", ")))
    };
    let lost = list(stream.lost, "lost, first", &stream.gaps);
    let repeated = list(stream.repeated, "repeated, first met", &stream.repeats);
    lost.into_iter().chain(repeated).collect()
}

fn json(verdict: &Verdict) -> Json<'_> {
    let streams = verdict.streams.iter().map(json_stream).collect();
    let Verdict { records, lost, repeated, broken, objects, .. } = *verdict;
    Json { records, lost, repeated, broken, objects, streams }
}

fn json_stream(stream: &StreamReport) -> JsonStream<'_> {
    let runs = |runs: &[Gap]| runs.iter().map(|run| [run.first, run.last]).collect();
    JsonStream {
        node: &stream.node,
        epoch: &stream.epoch,
        kind: stream.kind,
        distinct: stream.distinct,
        first: stream.range.first,
        last: stream.range.last,
        lost: stream.lost,
        repeated: stream.repeated,
        gaps: runs(&stream.gaps),
        repeats: runs(&stream.repeats),
    }
}
