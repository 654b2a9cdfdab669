//! `greypit replay`: a past range once more, into another place, for repair.

mod writer;

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use greypit_pipeline::Kind;
use greypit_pipeline::codec::Codec;
use greypit_pipeline::replay::{Found, Met, Range, Topics, check_prefix, find};
use greypit_pipeline::store::Store;
use jiff::Timestamp;

use super::reader::{Source, kind, when};
use super::{EXIT_DONE, EXIT_NO, Stop, counted, end, grouped, printable};
use crate::config::Config;
use writer::Writer;

/// Ship a past range again, into another place
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  greypit replay --from-kafka --since 2026-11-20T12:00 --until 2026-11-20T13:00 --prefix repair
  greypit replay --from-kafka --kind to --since 2d --to s3://other-bucket/repair --dry-run
  greypit replay --from-spool --damaged --to /var/tmp/repair
  greypit verify s3://bucket/repair --from-first-seen        is it whole?

For objects that were deleted, damaged or written wrongly. Nothing is changed where the daemon ships to, and nothing in
the spool or in Kafka: daemons go on meanwhile, and no group's offsets are touched. Objects are made as [batch] says now,
and are written only if they are new: the same range again writes nothing twice. Who reads the whole store sees what is
under --prefix too.

Prints records=… objects=… existing=… repeated=… missing=… differing=…
  existing   objects, of objects=…, that were there already, with the same records
  repeated   events met twice, written once
  missing    events of a spool that could not be read: freed by the daemon meanwhile, or not nameable any more
  differing  objects whose key holds other records: nothing was written for them, take another --prefix
Ends with 0 when everything asked for is there, with 1 when something is missing, differing or damaged, or when spool or
topics do not reach back to --since.

From Kafka all partitions are read from --since on to the end that they have now, as nodes that were cut off send late.

Times are UTC: 2026-11-20, 2026-11-20T12:55, 2026-11-20T13:55:00+01:00, or back from now: 90m, 2d.
Whole windows are taken: those that begin at or after --since and before --until, by the time events were received.")]
pub struct Replay {
    /// From this node's spool: what waits, and what has been shipped but not freed yet
    #[arg(long, required_unless_present = "from_kafka", conflicts_with = "from_kafka")]
    from_spool: bool,
    /// From the topics of [kafka], as far back as they are kept
    #[arg(long)]
    from_kafka: bool,
    /// Also from the segments of the spool that were set aside because something in them was damaged
    #[arg(long, conflicts_with = "from_kafka")]
    damaged: bool,
    /// To another store: file:///dir, a plain directory or s3://bucket/prefix; default: the configured store
    #[arg(long, value_name = "URL", required_unless_present = "prefix")]
    to: Option<String>,
    /// Put this in front of the objects' keys
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only this kind of record (from, to, mail, syslog, …); may be given several times
    #[arg(long, value_parser = kind)]
    kind: Vec<Kind>,
    /// Only what was received in windows from this time on
    #[arg(long, value_name = "TIME", value_parser = when)]
    since: Option<Timestamp>,
    /// Only what was received in windows before this time
    #[arg(long, value_name = "TIME", value_parser = when)]
    until: Option<Timestamp>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// The result as one JSON object, with every kind
    #[arg(long)]
    json: bool,
    /// URL of an S3 server that is not AWS
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// The bucket's region
    #[arg(long)]
    region: Option<String>,
    /// http://server/bucket/key instead of http://bucket.server/key
    #[arg(long)]
    path_style: bool,
}

impl Replay {
    /// Ships again what the spool or the topics of this config hold.
    pub async fn run(self, config: &Config) -> ExitCode {
        end("replay", self.ship(config, &mut std::io::stdout()).await)
    }

    pub(crate) async fn ship(self, config: &Config, out: &mut impl Write) -> Result<u8, Stop> {
        let store = self.destination(config)?;
        if !self.dry_run {
            store.check().await.map_err(say)?;
        }
        let mut writer = Writer::new(threads(config.batch.workers), self.dry_run);
        let reaches_back = match self.from_kafka {
            true => self.ship_topics(config, &store, &mut writer).await?,
            false => self.ship_spool(config, &store, &mut writer).await?,
        };
        let summary = writer.finish().await?;
        summary.print(self.json, out)?;
        if !self.json && !self.dry_run {
            let prefix = self.prefix.as_ref().map(|prefix| format!("/{prefix}")).unwrap_or_default();
            let url = store.url();
            eprintln!("prove it: greypit verify {}{prefix} --from-first-seen", printable(url.trim_end_matches('/')));
        }
        Ok(if reaches_back && summary.is_whole() { EXIT_DONE } else { EXIT_NO })
    }

    /// Whether the spool reaches back to where the range begins.
    async fn ship_spool(&self, config: &Config, store: &Store, writer: &mut Writer) -> Result<bool, Stop> {
        let found = self.find(config).await?;
        let reaches_back = self.say_what_is_not_there(&found);
        writer.summary.repeated = found.repeated;
        writer.summary.missing = found.nameless;
        writer.summary.damaged_frames = found.damaged_frames;
        let total = counted(found.objects.len() as u64, "object");
        for object in found.objects {
            let (store, kind, records) = (store.clone(), object.kind(), object.records());
            writer.add(kind, records, async move { object.write(&store).await }).await?;
            writer.say(|done| format!("{done} of {total}"));
        }
        Ok(reaches_back)
    }

    /// Whether the topics reach back to where the range begins.
    async fn ship_topics(&self, config: &Config, store: &Store, writer: &mut Writer) -> Result<bool, Stop> {
        if !config.kafka.is_on() {
            return Err(Stop::Say("--from-kafka needs [kafka] brokers in the config".into()));
        }
        let (kafka, mut batch) = (config.kafka.clone(), config.batch.clone());
        let (range, prefix) = (self.range(), self.prefix.clone());
        if self.dry_run {
            (batch.codec, batch.level) = (Codec::None, None);
        }
        let open = move || Topics::open(&kafka, &batch, prefix.as_deref(), &range);
        let topics = tokio::task::spawn_blocking(open).await.map_err(|error| Stop::Say(error.to_string()))?;
        let topics = topics.map_err(say)?;
        let total = counted(topics.messages(), "message");
        let (mut read, mut foreign, mut begins) = (0, 0, None);
        let mut met = topics.read();
        while let Some(met) = met.recv().await {
            match met.map_err(say)? {
                Met::Object(object) => {
                    let (store, kind, records) = (store.clone(), object.kind(), object.records());
                    writer.add(kind, records, async move { object.write(&store).await }).await?;
                }
                Met::Begins(first) => begins = begins.max(Some(first)),
                Met::Read(counts) => {
                    writer.summary.repeated += counts.repeated;
                    (read, foreign) = (read + counts.read, foreign + counts.foreign);
                }
            }
            writer.say(|done| format!("{} of {total}, {}", grouped(read), counted(done, "object")));
        }
        writer.clear();
        if foreign > 0 {
            eprintln!("greypit replay: {} that no greypit wrote, passed over", counted(foreign, "message"));
        }
        let Some((since, first)) = self.since.zip(begins).filter(|(since, first)| since < first) else {
            return Ok(true);
        };
        eprintln!(
            "greypit replay: a partition begins with what was received at {first:.0}, not at {since:.0}; what was \
             received before has been deleted"
        );
        Ok(false)
    }

    /// Where it goes, which must not be where the daemon ships to.
    fn destination(&self, config: &Config) -> Result<Store, Stop> {
        if self.since.zip(self.until).is_some_and(|(since, until)| since >= until) {
            return Err(Stop::Say("--since must be before --until".into()));
        }
        self.prefix.as_deref().map_or(Ok(()), check_prefix).map_err(say)?;
        let source = Source {
            url: self.to.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ..Source::default()
        };
        let opened = source.open(Some(config.store.clone()))?;
        let daemons = Store::open(&config.store).map_err(say)?;
        if self.prefix.is_none() && opened.store.url().trim_end_matches('/') == daemons.url().trim_end_matches('/') {
            return Err(Stop::Say("--to is where the daemon ships to; give another place, or a --prefix in it".into()));
        }
        Ok(opened.store)
    }

    async fn find(&self, config: &Config) -> Result<Found, Stop> {
        let (data_dir, batch, damaged) = (config.data_dir.clone(), config.batch.clone(), self.damaged);
        let (range, prefix) = (self.range(), self.prefix.clone());
        let found = tokio::task::spawn_blocking(move || find(&data_dir, &batch, prefix.as_deref(), &range, damaged));
        let found = found.await.map_err(|error| Stop::Say(error.to_string()))?;
        found.map_err(|error| Stop::Say(format!("{error}; --from-spool reads the spool folder in data_dir")))
    }

    fn range(&self) -> Range {
        Range { kinds: self.kind.clone(), since: self.since, until: self.until }
    }

    /// Whether the spool reaches back to where the range begins.
    fn say_what_is_not_there(&self, found: &Found) -> bool {
        if found.damaged_frames > 0 {
            eprintln!(
                "greypit replay: {} of the spool cannot be read; what was in there is not in the objects",
                counted(found.damaged_frames, "frame")
            );
        }
        if found.nameless > 0 {
            eprintln!(
                "greypit replay: {} in spool/damaged are from before this spool's present life, whose name their ids \
                 would need: not taken",
                counted(found.nameless, "event")
            );
        }
        let Some((since, freed)) = self.since.zip(found.freed_before).filter(|(since, freed)| since < freed) else {
            return true;
        };
        if freed == Timestamp::MAX {
            eprintln!("greypit replay: there are no events in the spool: all have been shipped and freed");
        } else {
            eprintln!(
                "greypit replay: the spool reaches back to {freed:.0}, not to {since:.0}; what was received before has \
                 been shipped and freed"
            );
        }
        false
    }
}

fn say(error: impl std::fmt::Display) -> Stop {
    Stop::Say(error.to_string())
}

fn threads(configured: usize) -> usize {
    match configured {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        configured => configured,
    }
}

#[cfg(test)]
mod tests;
