//! The control socket, `<data_dir>/boot/control`: what commands ask the running daemon to do.
//!
//! A unix stream, mode 0600: who may write to it is greypit's user and root. One line in, one line out, as often as wanted:
//!
//! ```text
//! wake web1                  →  ok web1 10.0.0.10 52:54:00:12:34:56: woken through 10.0.0.255
//! wake wbe1                  →  no no machine 'wbe1'; there is web1
//! ```
//!
//! Limits: [`CONNECTIONS_MAX`] at once, lines of [`LINE_BYTES_MAX`] bytes, [`IDLE_MAX`] of quiet.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use greypit_pipeline::{Error, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::task::Power;

const CONNECTIONS_MAX: usize = 8;
const LINE_BYTES_MAX: u64 = 512;
const IDLE_MAX: Duration = Duration::from_secs(10);

/// `sun_path` with its NUL, unix(7).
const PATH_BYTES_MAX: usize = 107;

/// Where it is.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("boot").join("control")
}

/// Makes the socket. The data folder is ours alone, so what is there is left from an earlier run.
pub(super) fn bind(data_dir: &Path) -> Result<UnixListener> {
    let path = path(data_dir);
    let refuse = |problem: String| Error::Config { key: "data_dir".into(), problem };
    // Made under another name, so that nobody reaches it before its mode is right.
    let unready = path.with_extension("new");
    if unready.as_os_str().len() > PATH_BYTES_MAX {
        let problem = format!("{} is too long a name for a socket: {PATH_BYTES_MAX} bytes at most", unready.display());
        return Err(refuse(problem));
    }
    let make = || {
        match std::fs::remove_file(&unready) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&unready)?;
        std::fs::set_permissions(&unready, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&unready, &path)?;
        Ok(listener)
    };
    make().map_err(|error: io::Error| refuse(format!("{}: {error}", path.display())))
}

/// Answers until the token is cancelled.
pub(super) async fn serve(listener: UnixListener, power: Arc<Power>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            biased;
            () = power.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asked = power.clone();
        power.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = asked.stop.cancelled() => {}
                // Whoever goes away has nothing to be told.
                _ = converse(stream, &asked) => {}
            }
            drop(place);
        });
    }
    power.tasks.close();
    power.tasks.wait().await;
}

async fn converse(stream: UnixStream, power: &Power) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let by = format!("wake command, uid {uid}");
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(LINE_BYTES_MAX);
        let length = tokio::time::timeout(IDLE_MAX, limited.read_until(b'\n', &mut line)).await??;
        if length == 0 {
            return Ok(());
        }
        let answer = match std::str::from_utf8(&line).ok().and_then(|line| line.strip_suffix('\n')) {
            Some(line) => answer(line, power, &by).await,
            None => Err("that is no line".to_owned()),
        };
        let answer = match answer {
            Ok(text) => format!("ok {text}\n"),
            Err(text) => format!("no {}\n", text.replace(char::is_control, " ")),
        };
        tokio::time::timeout(IDLE_MAX, stream.get_mut().write_all(answer.as_bytes())).await??;
    }
}

async fn answer(line: &str, power: &Power, by: &str) -> std::result::Result<String, String> {
    match line.split_once(' ') {
        Some(("wake", name)) => power.wake(name.trim(), by).await,
        _ => Err("it understands: wake NAME".to_owned()),
    }
}
