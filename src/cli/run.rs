//! `greypit run`: the gateway, until SIGTERM or Ctrl-C.

use std::process::ExitCode;

use greypit_pipeline::Drained;
use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_USAGE, block_on, demo};
use crate::config::{ConfigError, Loaded, Role};
use crate::logging::{self, LevelHandle};
use crate::process;
use crate::run::Gateway;

const EXAMPLES: &str = "\
Examples:
  greypit run --demo
  greypit run --config /etc/greypit/greypit.toml
Signals: SIGTERM and SIGINT drain and end; SIGHUP takes the milter's policy, the TLS
certificate and the log level anew.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Play a sample of mail-server syslog, and a flood, into the gateway's own sockets and show what comes out; with a
    /// config, under the folder `demo` in its data_dir
    #[arg(long)]
    demo: bool,
}

impl Args {
    pub(crate) fn run(self, mut loaded: Loaded) -> ExitCode {
        if self.demo {
            demo::configure(&mut loaded);
        }
        let level = match logging::start(&loaded.config.log) {
            Ok(level) => level,
            Err(error) => return wrong(&loaded.locate(&error)),
        };
        block_on(async move {
            match self.serve(&loaded, &level).await {
                Ok(code) => code,
                Err(error) => wrong(&error),
            }
        })
    }

    async fn serve(self, loaded: &Loaded, level: &LevelHandle) -> Result<ExitCode, ConfigError> {
        // Before anything runs, so that an early signal is not missed.
        let listen =
            |kind| signal(kind).map_err(|error| ConfigError::new(format!("signals cannot be received: {error}")));
        let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut hup = listen(SignalKind::hangup())?;
        let gateway = Gateway::start(loaded).await?;
        tracing::info!(node = loaded.config.node, store = gateway.store().url(), "greypit runs");
        for address in gateway.addresses() {
            tracing::info!(address, "listens");
        }
        process::tell_systemd("READY=1");
        let mut demo = self.demo.then(|| {
            tokio::spawn(demo::play(loaded.config.clone(), gateway.addresses().to_vec(), gateway.store().clone()))
        });
        loop {
            tokio::select! {
                _ = term.recv() => break,
                _ = int.recv() => break,
                _ = hup.recv() => reload(loaded, level, &gateway),
            }
        }
        if let Some(demo) = demo.take() {
            demo.abort();
        }
        process::tell_systemd("STOPPING=1");
        tracing::info!(at_most = %loaded.config.batch.drain_timeout, "draining");
        match gateway.stop().await {
            Drained::Shipped if loaded.config.is(Role::Ship) => tracing::info!("everything is in the store"),
            Drained::Shipped => tracing::info!("everything is in Kafka"),
            Drained::Waiting(events) => {
                tracing::warn!(events, "not everything was taken in time; the rest waits in the spool")
            }
            Drained::InKafka => tracing::warn!("the store did not take everything in time; the rest waits in Kafka"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Takes what can be changed while running and names what cannot.
fn reload(loaded: &Loaded, level: &LevelHandle, gateway: &Gateway) {
    let taken = loaded.read_again().and_then(|fresh| {
        let set = level.set(&fresh.config.log).and_then(|()| gateway.reload(&fresh.config));
        set.map_err(|error| fresh.locate(&error)).map(|()| fresh.config)
    });
    let fresh = match taken {
        Ok(fresh) => fresh,
        Err(error) => return tracing::error!(%error, "reload: the config is as before"),
    };
    let restart = loaded.config.changed_keys(&fresh);
    if restart.is_empty() {
        tracing::info!("reloaded");
    } else {
        tracing::warn!(keys = restart.join(", "), "reloaded; what changed in these keys needs a restart");
    }
}

fn wrong(error: &ConfigError) -> ExitCode {
    eprintln!("greypit: {error}");
    ExitCode::from(EXIT_USAGE)
}
