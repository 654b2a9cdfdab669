//! `greypit ls`: the objects of a store.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use greypit_pipeline::Kind;
use greypit_pipeline::store::Config;
use serde::Serialize;

use super::reader::{Selected, Source, TIMES_HELP, Window};
use super::{EXIT_DONE, Stop, counted, end, grouped, printable};

/// List objects
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("Examples:
  greypit ls
  greypit ls /var/lib/greypit/objects --kind to --since 1h
  greypit ls s3://mail-archive --endpoint http://127.0.0.1:9000 --path-style --json

{TIMES_HELP}"))]
pub struct Ls {
    #[command(flatten)]
    source: Source,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    size: u64,
    kind: Option<Kind>,
    window: Option<String>,
}

impl Ls {
    /// Lists the objects of the store named by the arguments, else of `store`.
    pub async fn run(self, store: Option<Config>) -> ExitCode {
        end("ls", self.list(store, &mut std::io::stdout()).await)
    }

    pub(crate) async fn list(self, store: Option<Config>, out: &mut impl Write) -> Result<u8, Stop> {
        let objects = self.source.open(store)?.objects().await?;
        let mut out = std::io::BufWriter::new(out);
        if self.json {
            for object in &objects {
                serde_json::to_writer(&mut out, &row(object)).map_err(std::io::Error::from)?;
                out.write_all(b"\n")?;
            }
        } else {
            write_table(&mut out, &objects)?;
        }
        out.flush()?;
        if !self.json {
            let bytes = objects.iter().map(|object| object.size).sum();
            eprintln!("{}, {}", counted(objects.len() as u64, "object"), counted(bytes, "byte"));
        }
        Ok(EXIT_DONE)
    }
}

fn row(object: &Selected) -> Row<'_> {
    Row { key: &object.key, size: object.size, kind: object.kind, window: object.window.map(window) }
}

fn window(window: Window) -> String {
    match window {
        Window::Minute(start) => start.strftime("%Y-%m-%dT%H:%MZ").to_string(),
        Window::Day(start) => start.strftime("%Y-%m-%d").to_string(),
    }
}

fn write_table(out: &mut impl Write, objects: &[Selected]) -> std::io::Result<()> {
    let width = objects.iter().map(|object| grouped(object.size).len()).max().unwrap_or(0).max(5);
    for object in objects {
        let Row { key, size, kind, window } = row(object);
        let kind = kind.map(|kind| kind.to_string()).unwrap_or("-".into());
        let window = window.unwrap_or("-".into());
        writeln!(out, "{window:17}  {kind:7}  {:>width$}  {}", grouped(size), printable(key))?;
    }
    Ok(())
}
