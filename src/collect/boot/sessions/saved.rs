//! Sessions on disk, for `greypit boot` and for the next start: `<data_dir>/boot/sessions.json`.
//!
//! ```json
//! {"version":1,"sessions":[
//! {"session":"525400123456-20261121T181502.123Z","mac":"52:54:00:12:34:56","addr":"10.0.0.7",
//!  "began":"2026-11-21T18:15:02.123Z","seen":"…",
//!  "stages":[{"stage":"firmware","at":"…","protocol":"dhcp"}],
//!  "error":{"at":"…","problem":"no such file: grubx64.efi"}}
//! ]}
//! ```
//!
//! The newest comes first. Written to `sessions.json.new` and renamed, when something has changed, at most once a second
//! and for at most 5 % of a CPU's time; not synced: what a power cut takes is shown no more, nothing else. A file that is
//! not right is set aside in words, and begun anew.

use std::fs;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use greypit_pipeline::{Error, Result};
use jiff::Timestamp;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Failure, Protocol, Reached, SESSIONS_MAX, Session, Sessions, Stage};
use crate::collect::boot::mac::Mac;

/// The shortest time between two writes.
const EVERY: Duration = Duration::from_secs(1);
/// Of the file; ten thousand sessions need a tenth.
const FILE_BYTES_MAX: u64 = 64 << 20;
const VERSION: u32 = 1;

/// The whole file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Saved {
    version: u32,
    pub(crate) sessions: Vec<SavedSession>,
}

/// The last session of a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedSession {
    pub(crate) session: String,
    #[serde(deserialize_with = "parsed")]
    pub(crate) mac: Mac,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) addr: Option<Ipv4Addr>,
    pub(crate) began: Timestamp,
    pub(crate) seen: Timestamp,
    /// As they were reached.
    pub(crate) stages: Vec<SavedStage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<SavedError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedStage {
    pub(crate) stage: Stage,
    pub(crate) at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Protocol>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedError {
    pub(crate) at: Timestamp,
    pub(crate) problem: String,
}

fn parsed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Mac, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Where the file is.
pub(crate) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("boot").join("sessions.json")
}

/// What the file says; `None` where there is none.
///
/// # Errors
/// It cannot be read, or is not right.
pub(crate) fn read(path: &Path) -> io::Result<Option<Saved>> {
    let bytes = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(about) if about.len() > FILE_BYTES_MAX => return Err(io::Error::other("it is too large")),
        Ok(_) => fs::read(path)?,
    };
    let saved: Saved = serde_json::from_slice(&bytes)?;
    match saved.version {
        VERSION => Ok(Some(saved)),
        other => Err(io::Error::other(format!("version {other} is of another greypit"))),
    }
}

fn write(path: &Path, saved: &Saved) -> io::Result<()> {
    let new = path.with_extension("json.new");
    let mut out = io::BufWriter::new(fs::File::create(&new)?);
    write!(out, "{{\"version\":{VERSION},\"sessions\":[")?;
    for (i, session) in saved.sessions.iter().enumerate() {
        out.write_all(if i == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut out, session)?;
    }
    out.write_all(b"\n]}\n")?;
    out.into_inner().map_err(io::IntoInnerError::into_error)?;
    fs::rename(&new, path)
}

impl SavedSession {
    fn of(mac: Mac, session: &Session) -> SavedSession {
        let reached = Stage::ALL.into_iter().zip(session.reached);
        let mut stages: Vec<_> = reached
            .filter_map(|(stage, reached)| reached.map(|Reached { at, protocol }| SavedStage { stage, at, protocol }))
            .collect();
        stages.sort_by_key(|stage| stage.at);
        SavedSession {
            session: session.id.to_string(),
            mac,
            addr: session.ip,
            began: session.began,
            seen: session.seen,
            stages,
            error: session
                .failure
                .as_ref()
                .map(|failure| SavedError { at: failure.at, problem: failure.problem.to_string() }),
        }
    }

    fn session(&self) -> Session {
        let mut session = Session {
            id: self.session.as_str().into(),
            began: self.began,
            seen: self.seen,
            forward: self.began,
            stage: self.stage(),
            reached: [None; Stage::ALL.len()],
            ip: self.addr,
            failure: None,
        };
        for SavedStage { stage, at, protocol } in &self.stages {
            session.reached[*stage as usize] = Some(Reached { at: *at, protocol: *protocol });
            session.forward = session.forward.max(*at);
        }
        session.failure =
            self.error.as_ref().map(|error| Failure { at: error.at, problem: error.problem.as_str().into() });
        session
    }

    /// How far it got.
    pub(crate) fn stage(&self) -> Stage {
        self.stages.iter().map(|stage| stage.stage).max().unwrap_or(Stage::Firmware)
    }
}

impl Sessions {
    pub(super) fn saved(&self) -> Saved {
        let mut sessions: Vec<_> =
            self.table().by_mac.iter().map(|(mac, session)| SavedSession::of(*mac, session)).collect();
        sessions.sort_by_key(|session| std::cmp::Reverse((session.began, session.mac)));
        Saved { version: VERSION, sessions }
    }

    fn restore(&self, saved: &Saved) {
        let mut table = self.table();
        for saved in saved.sessions.iter().take(SESSIONS_MAX) {
            let session = saved.session();
            if let Some(ip) = session.ip {
                table.addresses.set(ip, saved.mac);
                self.live.set(ip, &session, self.lasts);
            }
            table.by_mac.insert(saved.mac, session);
        }
        self.metrics.sessions.set(table.by_mac.len() as i64);
    }

    /// Takes up what was before, and saves what comes, until `stop`.
    ///
    /// # Errors
    /// Where `registry` has these metrics already.
    pub(crate) fn keep(
        self: &Arc<Sessions>,
        data_dir: &Path,
        registry: &Registry,
        stop: CancellationToken,
    ) -> Result<JoinHandle<()>> {
        self.keep_every(EVERY, data_dir, registry, stop)
    }

    pub(super) fn keep_every(
        self: &Arc<Sessions>,
        every: Duration,
        data_dir: &Path,
        registry: &Registry,
        stop: CancellationToken,
    ) -> Result<JoinHandle<()>> {
        let taken = |error: prometheus::Error| Error::Config { key: "boot".to_owned(), problem: error.to_string() };
        self.metrics.register(registry).map_err(taken)?;
        let path = path(data_dir);
        let folder = path.parent().unwrap_or(data_dir);
        // Where it cannot be made the first write says so, and whatever else needs it.
        let _ = fs::create_dir_all(folder);
        match read(&path) {
            Ok(saved) => self.restore(&saved.unwrap_or_default()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "boot sessions cannot be read; begins without them");
            }
        }
        Ok(tokio::spawn(keep(self.clone(), path, every, stop)))
    }
}

async fn keep(sessions: Arc<Sessions>, path: PathBuf, every: Duration, stop: CancellationToken) {
    let mut failed = false;
    let mut pause = every;
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(pause) => false,
        };
        sessions.live.prune(Timestamp::now());
        if sessions.changed.swap(false, Ordering::Relaxed) {
            let began = Instant::now();
            let (of, to) = (sessions.clone(), path.clone());
            let written = tokio::task::spawn_blocking(move || write(&to, &of.saved())).await;
            let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
            pause = every.max(20 * began.elapsed());
            if let Err(error) = &written {
                sessions.metrics.unsaved.inc();
                sessions.changed.store(true, Ordering::Relaxed);
                if !failed {
                    tracing::warn!(path = %path.display(), %error, "boot sessions cannot be written; tries again");
                }
            }
            failed = written.is_err();
        }
        if stopped {
            return;
        }
    }
}
