//! `greypit wake`: Wake-on-LAN, asked of the running daemon so that it is recorded; without one, sent by itself.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::{EXIT_DONE, EXIT_NO, Stop, end, printable};
use crate::collect::boot::{self, Waker};
use crate::config::Loaded;

const EXAMPLES: &str = "\
Examples:
  greypit wake web1                    by its hostname file
  greypit wake web1 web2 10.0.0.12     several
  greypit wake 52:54:00:12:34:56       any card, also one that no file names
Ask as greypit's user or root: the running daemon sends the packets and records them (kind power). Where none runs they
are sent from here, and nobody records them.
Exit codes: 0 all are sent, 1 some are not, 2 wrong usage or config.";

/// How long the daemon may take for one answer; it sends for a fifth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Wake {
    /// Machines: host name, address or MAC
    #[arg(required = true, value_name = "NAME|IP|MAC")]
    names: Vec<String>,
}

impl Wake {
    pub(crate) fn run(&self, loaded: &Loaded) -> ExitCode {
        end("wake", self.wake(loaded, &mut io::stdout()))
    }

    fn wake(&self, loaded: &Loaded, out: &mut impl Write) -> Result<u8, Stop> {
        let path = boot::control_path(&loaded.config.data_dir);
        match UnixStream::connect(&path) {
            Ok(stream) => self.ask(stream, out),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                let waker = Waker::new(&loaded.config.boot)
                    .map_err(|error| Stop::Say(loaded.locate(&error).to_string()))?
                    .ok_or_else(|| Stop::Say(off(&path)))?;
                eprintln!(
                    "greypit wake: no greypit runs here ({}); sent by this command, and recorded by nobody",
                    path.display()
                );
                self.tell(out, |name| waker.wake(name))
            }
            Err(error) => {
                Err(Stop::Say(format!("{}: {error}; ask as the user that greypit runs as, or root", path.display())))
            }
        }
    }

    /// Has the daemon do it.
    fn ask(&self, stream: UnixStream, out: &mut impl Write) -> Result<u8, Stop> {
        let lost = |error: io::Error| format!("greypit does not answer: {error}");
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| Stop::Say(lost(error)))?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|error| Stop::Say(lost(error)))?;
        let mut stream = BufReader::new(stream);
        self.tell(out, |name| {
            stream.get_mut().write_all(format!("wake {name}\n").as_bytes()).map_err(lost)?;
            let mut answer = String::new();
            stream.read_line(&mut answer).map_err(lost)?;
            match answer.trim_end().split_once(' ') {
                Some(("ok", text)) => Ok(text.to_owned()),
                Some(("no", text)) => Err(text.to_owned()),
                _ => Err("greypit does not answer".to_owned()),
            }
        })
    }

    /// A line for each name: what was done on `out`, what was not on stderr.
    fn tell(&self, out: &mut impl Write, mut wake: impl FnMut(&str) -> Result<String, String>) -> Result<u8, Stop> {
        let mut code = EXIT_DONE;
        for name in &self.names {
            let known = match name.contains(char::is_control) || name.trim().is_empty() {
                true => Err(format!("'{name}' is no name")),
                false => wake(name),
            };
            match known {
                Ok(text) => writeln!(out, "{}", printable(&text))?,
                Err(problem) => {
                    eprintln!("greypit wake: {}", printable(&problem));
                    code = EXIT_NO;
                }
            }
        }
        Ok(code)
    }
}

fn off(path: &Path) -> String {
    format!(
        "no greypit runs here ({}), and boot.interface in the config names nothing to send on; --config chooses another",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn loaded(folder: &Path, boot: &str) -> Loaded {
        let file = folder.join("greypit.toml");
        std::fs::create_dir_all(folder.join("boot")).unwrap();
        std::fs::write(&file, format!("data_dir = \"{}\"\n{boot}", folder.display())).unwrap();
        Loaded::read(Some(&file)).unwrap()
    }

    fn wake(names: &[&str], loaded: &Loaded) -> (Result<u8, Stop>, String) {
        let wake = Wake { names: names.iter().map(|name| (*name).to_owned()).collect() };
        let mut out = Vec::new();
        let code = wake.wake(loaded, &mut out);
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_daemon_is_asked_name_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let loaded = loaded(folder.path(), "");
        let listener = UnixListener::bind(boot::control_path(folder.path())).unwrap();
        let daemon = std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut asked = Vec::new();
            for answer in ["ok web1: woken\n", "no no machine 'x'\n"] {
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                asked.push(line);
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            asked
        });
        let (code, out) = wake(&["web1", "a\nwake b", "x"], &loaded);
        assert!(matches!(code, Ok(EXIT_NO)), "{code:?}");
        assert_eq!(out, "web1: woken\n");
        assert_eq!(daemon.join().unwrap(), ["wake web1\n", "wake x\n"]);
    }

    #[test]
    fn without_a_daemon_and_an_interface_it_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let (code, _) = wake(&["web1"], &loaded(folder.path(), ""));
        assert!(matches!(&code, Err(Stop::Say(line)) if line.contains("boot.interface")), "{code:?}");
        let (code, _) = wake(&["web1"], &loaded(folder.path(), "[boot]\ninterface = \"nowhere0\"\n"));
        assert!(matches!(&code, Err(Stop::Say(line)) if line.contains("nowhere0: no such interface")), "{code:?}");
    }

    #[test]
    fn without_a_daemon_it_sends_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let machines = folder.path().join("machines");
        std::fs::create_dir_all(&machines).unwrap();
        let boot = format!("[boot]\ninterface = \"lo\"\ndir = \"{}\"\n", machines.display());
        let loaded = loaded(folder.path(), &boot);
        let (code, out) = wake(&["52:54:00:12:34:56"], &loaded);
        assert!(matches!(code, Ok(EXIT_DONE)), "{code:?}");
        assert!(out.starts_with("52:54:00:12:34:56: woken through 127."), "{out}");
        let (code, _) = wake(&["web1"], &loaded);
        assert!(matches!(code, Ok(EXIT_NO)), "{code:?}");
    }
}
