//! `greypit cat`: the records of a store, decompressed, in the order of the keys.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use clap::Args;
use greypit_pipeline::codec::Decoder;
use greypit_pipeline::object::{Line, Lines};
use greypit_pipeline::store::Config;

use super::reader::{DECOMPRESSED_BYTES_MAX, Fetched, Selection, Source, TIMES_HELP, Take, for_each, pick};
use super::{EXIT_DONE, EXIT_NO, Stop, end};

/// What goes from a decompressing thread to stdout at a time, in bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// How many chunks an object may be ahead of its turn.
const CHUNKS_AHEAD: usize = 32;

/// Print the records of objects, decompressed
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("Examples:
  greypit cat --kind to --since 1h | jq -r .dest
  greypit cat s3://mail-archive/mail_logs --since 2026-11-20 --until 2026-11-21 > day.ndjson
  greypit cat to-2026-11-20-12-55-mx1-42.json.bz2

{TIMES_HELP}"))]
pub struct Cat {
    #[command(flatten)]
    source: Source,
}

/// What comes of one object: its text in chunks, the last of them the reason why it ended early, if it did.
type Chunks = Receiver<Result<Vec<u8>, String>>;

impl Cat {
    /// Prints the records of the store named by the arguments, else of `store`.
    pub async fn run(self, store: Option<Config>) -> ExitCode {
        end("cat", self.print(store, &mut std::io::stdout()).await)
    }

    pub(crate) async fn print(self, store: Option<Config>, out: &mut impl Write) -> Result<u8, Stop> {
        let opened = self.source.open(store)?;
        let objects = opened.objects().await?;
        let selection = opened.selection.clone();
        let mut damaged = false;
        let work = move |fetched: Fetched| start(fetched, selection.clone());
        for_each(&opened.store, objects, false, work, |(key, chunks): (String, Chunks)| {
            for chunk in chunks {
                match chunk {
                    Ok(chunk) => out.write_all(&chunk)?,
                    Err(why) => {
                        damaged = true;
                        eprintln!("greypit cat: {key}: {why}");
                    }
                }
            }
            Ok(())
        })
        .await?;
        out.flush()?;
        Ok(if damaged { EXIT_NO } else { EXIT_DONE })
    }
}

/// Starts to decompress, a few chunks ahead of the printing.
fn start(fetched: Fetched, selection: Selection) -> (String, Chunks) {
    let (sender, chunks) = sync_channel(CHUNKS_AHEAD);
    let key = fetched.object.key.clone();
    std::thread::spawn(move || {
        // A failed send means that nobody prints any more.
        if let Err(error) = decompress(&fetched, &selection, &sender) {
            let _ = sender.send(Err(format!("damaged: {error}")));
        }
    });
    (key, chunks)
}

fn decompress(
    fetched: &Fetched,
    selection: &Selection,
    sender: &SyncSender<Result<Vec<u8>, String>>,
) -> std::io::Result<()> {
    let decoder = Decoder::of_object(&fetched.object.key, &fetched.bytes, DECOMPRESSED_BYTES_MAX);
    match fetched.object.take {
        Take::All => copy(decoder, sender),
        Take::ByRecord => filter(decoder, selection, sender),
    }
}

/// As it is, but for a newline at the end.
fn copy(mut decoder: impl Read, sender: &SyncSender<Result<Vec<u8>, String>>) -> std::io::Result<()> {
    let mut last = b'\n';
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let read = (&mut decoder).take(CHUNK_BYTES as u64).read_to_end(&mut chunk);
        let ended = matches!(read, Ok(0));
        if ended && last != b'\n' {
            chunk.push(b'\n');
        }
        last = chunk.last().copied().unwrap_or(last);
        if !chunk.is_empty() && sender.send(Ok(chunk)).is_err() {
            return Ok(());
        }
        read?;
        if ended {
            return Ok(());
        }
    }
}

fn filter(
    decoder: impl Read,
    selection: &Selection,
    sender: &SyncSender<Result<Vec<u8>, String>>,
) -> std::io::Result<()> {
    let mut lines = Lines::new(decoder);
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    while let Some(line) = lines.next()? {
        let Line::Text(text) = line else { continue };
        let wanted = std::str::from_utf8(text)
            .ok()
            .and_then(|text| pick(text, ""))
            .is_some_and(|picked| picked.is_wanted(selection));
        if wanted {
            chunk.extend_from_slice(text);
            chunk.push(b'\n');
        }
        if chunk.len() >= CHUNK_BYTES && sender.send(Ok(std::mem::take(&mut chunk))).is_err() {
            return Ok(());
        }
    }
    // Nobody to print it is no failure of the object.
    let _ = sender.send(Ok(chunk));
    Ok(())
}
