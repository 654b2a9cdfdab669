//! `greypit check`: the effective configuration, after all checks that need no network, those of machine files among
//! them; with `--connect` also whether the brokers and the store it names are there, fit and allowed.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use greypit_pipeline::kafka::{self, check::Finding, check::Verdict};
use greypit_pipeline::store::{Store, StoreError};
use serde::Serialize;

use super::{EXIT_DONE, EXIT_NO, Stop, block_on, end, printable};
use crate::collect::boot;
use crate::collect::syslog::listen::tls;
use crate::config::{Config, Loaded, Role};

const EXAMPLES: &str = "\
Examples:
  greypit check --config /etc/greypit/greypit.toml
  greypit check --connect > /dev/null       are brokers and store there, fit and allowed?
  greypit check --connect --json | jq 'select(.verdict == \"wrong\")'
Exit codes: 0 all is fine, 1 --connect found something wrong, 2 the config is wrong.";

/// How long the store may take for one answer.
const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// What shows whether the store refuses to overwrite. It stays there: nothing that greypit writes is ever deleted by it.
const PROBE: &str = "_cut/_check";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Also try the brokers and the store, a line each on stderr; only the object _cut/_check is written
    #[arg(long)]
    connect: bool,
    /// What --connect finds as JSON on stdout, a line each, instead of the config
    #[arg(long, requires = "connect")]
    json: bool,
}

impl Args {
    pub(crate) fn run(&self, loaded: &Loaded) -> ExitCode {
        end("check", self.check(loaded))
    }

    fn check(&self, loaded: &Loaded) -> Result<u8, Stop> {
        let locate = |error: greypit_pipeline::Error| Stop::Say(loaded.locate(&error).to_string());
        let (config, out) = (&loaded.config, &mut std::io::stdout());
        if !config.syslog.tls_cert.is_empty() {
            tls::read(&config.syslog).map_err(locate)?;
        }
        if config.boot.is_on()
            && let Some(waits) = boot::check(&config.boot, &config.data_dir).map_err(locate)?
        {
            eprintln!("greypit check: boot.interface: {}; everything else starts without", printable(&waits));
        }
        if config.kafka.is_on() {
            kafka::topics::try_properties(&config.kafka).map_err(locate)?;
        }
        if !self.json {
            print(config, out)?;
        }
        if !self.connect {
            return Ok(EXIT_DONE);
        }
        let store = Store::open(&config.store).map_err(locate)?;
        let mut found = Vec::new();
        let work = async {
            found = connect(config, &store).await;
            ExitCode::SUCCESS
        };
        if block_on(work) != ExitCode::SUCCESS {
            return Err(Stop::Say("the connections could not be tried".into()));
        }
        for finding in &found {
            match self.json {
                true => writeln!(out, "{}", Line::of(finding).json())?,
                false => eprintln!("{}", Line::of(finding).text()),
            }
        }
        let wrong = found.iter().any(|finding| matches!(finding.verdict, Verdict::Wrong(_)));
        Ok(if wrong { EXIT_NO } else { EXIT_DONE })
    }
}

fn print(config: &Config, out: &mut impl Write) -> Result<(), Stop> {
    let text =
        toml::to_string_pretty(config).map_err(|error| Stop::Say(format!("the config cannot be printed: {error}")))?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// A finding as it is printed.
#[derive(Debug, Serialize)]
struct Line<'a> {
    verdict: &'static str,
    about: &'a str,
    line: &'a str,
}

impl<'a> Line<'a> {
    fn of(finding: &'a Finding) -> Line<'a> {
        let (verdict, line) = match &finding.verdict {
            Verdict::Ok(line) => ("ok", line),
            Verdict::Note(line) => ("note", line),
            Verdict::Wrong(line) => ("wrong", line),
        };
        Line { verdict, about: &finding.about, line }
    }

    fn text(&self) -> String {
        format!("{:<5}  {}: {}", self.verdict, printable(self.about), printable(self.line))
    }

    fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

async fn connect(config: &Config, store: &Store) -> Vec<Finding> {
    let mut found = Vec::new();
    if config.kafka.is_on() {
        let does = kafka::check::Does {
            collect: config.is(Role::Collect),
            ship: config.is(Role::Ship),
            window: config.batch.window,
        };
        found.extend(kafka::check::check(&config.kafka, &config.topics(), does).await);
    }
    // A node that only collects never touches the store.
    if config.is(Role::Ship) {
        let about = format!("store {}", store.url());
        let tried = tokio::time::timeout(STORE_PATIENCE, try_store(store)).await;
        found.push(match tried {
            Ok(Ok(line)) => Finding::ok(about, line),
            Ok(Err(problem)) => Finding::wrong(about, problem),
            Err(_) => Finding::wrong(about, "does not answer"),
        });
        let several = config.kafka.is_on() && matches!(store, Store::Dir(_));
        found.extend(several.then(|| {
            Finding::note(
                format!("store {}", store.url()),
                "is a directory: all nodes with the role \"ship\" must share it, or each event is in the folder of one",
            )
        }));
    }
    found
}

/// Whether the store can be written to and read, and keeps its word never to overwrite, on which exactly-once stands.
async fn try_store(store: &Store) -> Result<&'static str, String> {
    let told = |error: StoreError| error.to_string();
    store.check().await.map_err(told)?;
    store.check_never_overwrites(PROBE).await.map_err(told)?;
    store.get(PROBE).await.map_err(told)?;
    Ok("can be written and read, and never overwrites")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_is_tried_and_left_as_it_was_but_for_the_probe() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.url = folder.path().display().to_string();
        let store = Store::open(&config.store).unwrap();
        for _ in 0..2 {
            let found = connect(&config, &store).await;
            let line = "can be written and read, and never overwrites";
            assert_eq!(found, [Finding::ok(format!("store {}", store.url()), line)]);
        }
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["_cut"]);
        assert!(store.list("").await.unwrap().is_empty(), "no object of records");

        std::fs::remove_dir_all(folder.path()).unwrap();
        std::fs::write(folder.path(), "a file").unwrap();
        let found = connect(&config, &store).await;
        assert!(matches!(&found[..], [Finding { verdict: Verdict::Wrong(_), .. }]), "{found:?}");
    }

    #[test]
    fn machine_files_are_checked_where_they_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("machines");
        let machine = dir.join("10.0.0.1/10.0.0.7");
        std::fs::create_dir_all(&machine).unwrap();
        std::fs::write(machine.join("hostname"), "web1").unwrap();
        let config = folder.path().join("greypit.toml");
        let check = |interface: &str| {
            let root = folder.path().join("files");
            let text = format!("[boot]\ndir = {dir:?}\nroot = {root:?}\ninterface = {interface:?}\n");
            std::fs::write(&config, text).unwrap();
            // Nothing is printed with it.
            Args { connect: false, json: true }.check(&Loaded::read(Some(&config)).unwrap())
        };
        let said = || match check("nowhere0") {
            Err(Stop::Say(said)) => said,
            other => panic!("{other:?}"),
        };
        assert!(said().contains("boot.root: ") && said().contains("make the folder"), "{}", said());
        std::fs::create_dir(folder.path().join("files")).unwrap();
        assert!(said().contains("10.0.0.7/mac: is missing or empty"), "{}", said());
        assert!(matches!(check(""), Ok(EXIT_DONE)), "off");
        std::fs::write(machine.join("mac"), "52:54:00:12:34:56").unwrap();
        assert!(matches!(check("nowhere0"), Ok(EXIT_DONE)), "the interface need not be here");
    }

    #[test]
    fn a_line_is_plain_and_its_json_is_one_object() {
        let finding = Finding::wrong("topic a", "is\u{1b} gone");
        assert_eq!(Line::of(&finding).text(), "wrong  topic a: is\\u{1b} gone");
        assert_eq!(Line::of(&finding).json(), r#"{"verdict":"wrong","about":"topic a","line":"is\u001b gone"}"#);
    }
}
