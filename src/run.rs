//! Builds, wires and drains: the only file that knows every part.
//!
//! Start: store opened and tried, every socket bound, the spool recovered, then the collectors. A mistake in the config
//! shows before anything runs; what boot needs beyond it holds up boot alone. Stop: collectors take what has already
//! arrived and end; the spool makes it durable; what is complete goes to the store; then the process ends.

use std::sync::Arc;
use std::time::Duration;

use greypit_milter::server::{self as milter, Milter};
use greypit_pipeline::health::State;
use greypit_pipeline::store::Store;
use greypit_pipeline::{Addresses, Drained, Health, Metrics, Parts, Pipeline, kafka};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::collect::boot::Boot;
use crate::collect::maillog::tail;
use crate::collect::milter as mail;
use crate::collect::syslog::listen as syslog;
use crate::config::{Config, ConfigError, Loaded, Role};
use crate::farm::{self, Farm};
use crate::http::{self, Http};
use crate::{process, sys};

/// How long the first try of the store may take before greypit starts without it.
const STORE_CHECK: Duration = Duration::from_secs(10);

/// How often a store that was away at the start is asked again.
const STORE_CHECK_AGAIN: Duration = Duration::from_secs(5);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// With the role `collect`.
    collecting: Option<Collecting>,
    /// With the role `ship`, where events go through Kafka.
    shipper: Option<kafka::ship::Shipper>,
    /// Where the store was away at the start.
    store_waits: Option<JoinHandle<()>>,
    /// Where the brokers were away at the start.
    topics_wait: Option<JoinHandle<()>>,
    http: Option<JoinHandle<()>>,
    stop_http: CancellationToken,
    addresses: Vec<String>,
    store: Store,
}

/// The collectors and the pipeline behind them.
#[derive(Debug)]
struct Collecting {
    pipeline: Pipeline,
    collectors: Vec<JoinHandle<()>>,
    milter: Option<Milter>,
    /// Where clients' limits are those of a farm.
    farm: Option<Farm>,
    syslog_tls: Option<syslog::Tls>,
    stop: CancellationToken,
}

/// The collectors' sockets, bound before anything runs.
struct Sockets {
    syslog: syslog::Bound,
    milter: milter::Bound,
    /// Where there is an interface to serve. It binds by itself, what and when it can.
    boot: Option<Boot>,
}

impl Gateway {
    /// Starts everything that `loaded` asks for.
    ///
    /// # Errors
    /// One line that names file, line, key and what to do.
    pub async fn start(loaded: &Loaded) -> Result<Gateway, ConfigError> {
        let config = &loaded.config;
        let locate = |error: greypit_pipeline::Error| loaded.locate(&error);
        let (registry, health) = (Registry::new(), Health::new());
        let metrics = Metrics::new(&registry).map_err(|error| locate(taken(&error)))?;
        process::register(&registry).map_err(|error| locate(taken(&error)))?;
        http::register(&registry, &health).map_err(|error| locate(taken(&error)))?;

        let store = Store::open(&config.store).map_err(locate)?;
        let store_problem = match config.is(Role::Ship) {
            true => try_store(&store, &health).await.map_err(locate)?,
            false => None,
        };
        let topics_wait = match config.kafka.is_on() {
            true => kafka::topics::prepare(&config.kafka, config.topics(), &health).await.map_err(locate)?,
            false => None,
        };
        let boot = match config.is(Role::Collect) {
            true => Boot::new(&config.boot, &config.data_dir).map_err(locate)?,
            false => None,
        };
        // The machines that boot log to the address that they boot from, and whatever listens may do so there.
        let addresses = boot.as_ref().map_or(Addresses::AreHere, Boot::addresses);
        let http = http::bind(&config.http, addresses).map_err(locate)?;
        process::raise_descriptor_limit();
        let sockets = match config.is(Role::Collect) {
            true => Some(Sockets::bind(config, boot, addresses).map_err(locate)?),
            false => None,
        };
        let mut addresses: Vec<String> = sockets.iter().flat_map(|sockets| sockets.addresses(config)).collect();
        addresses.extend(
            http.as_ref().and_then(Http::address).map(|address| format!("http {address} /metrics /healthz /readyz")),
        );

        let collecting = match sockets {
            Some(sockets) => {
                let started = Collecting::start(config, sockets, &store, &metrics, &registry, &health);
                Some(started.await.map_err(locate)?)
            }
            None => None,
        };
        let shipper = match config.kafka.is_on() && config.is(Role::Ship) {
            true => {
                let parts = kafka::ship::Parts {
                    kafka: config.kafka.clone(),
                    batch: config.batch.clone(),
                    store: store.clone(),
                    metrics,
                    health: health.clone(),
                    registry: registry.clone(),
                };
                Some(kafka::ship::Shipper::start(parts).map_err(locate)?)
            }
            false => None,
        };
        let store_waits = store_problem.map(|problem| {
            let (store, health) = (store.clone(), health.clone());
            tokio::spawn(async move { wait_for_store(&store, &health, problem).await })
        });
        let stop_http = CancellationToken::new();
        let observe = collecting.as_ref().map(|collecting| collecting.pipeline.observer());
        let observe = Arc::new(move || observe.iter().for_each(|observe| observe()));
        let sources = http::Sources { registry, health, observe };
        let http = http.map(|http| tokio::spawn(http.serve(sources, stop_http.clone())));
        Ok(Gateway { collecting, shipper, store_waits, topics_wait, http, stop_http, addresses, store })
    }

    /// What it listens on and follows, a line each.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Where objects go.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Takes what can be changed while running: the milter's policy, and the TLS certificate, which may have changed in
    /// its file alone.
    ///
    /// # Errors
    /// Names the key that cannot be right; then nothing has changed.
    pub fn reload(&self, config: &Config) -> greypit_pipeline::Result<()> {
        self.collecting.as_ref().map_or(Ok(()), |collecting| collecting.reload(config))
    }

    /// Ends in order; see the module.
    pub async fn stop(self) -> Drained {
        self.store_waits.iter().chain(&self.topics_wait).for_each(JoinHandle::abort);
        let collected = match self.collecting {
            Some(collecting) => collecting.stop().await,
            None => Drained::Shipped,
        };
        let shipped = match self.shipper {
            Some(shipper) => shipper.stop().await,
            None => Drained::Shipped,
        };
        self.stop_http.cancel();
        if let Some(http) = self.http {
            let _ = http.await;
        }
        match collected {
            Drained::Shipped => shipped,
            waiting => waiting,
        }
    }
}

impl Sockets {
    fn bind(config: &Config, boot: Option<Boot>, addresses: Addresses) -> greypit_pipeline::Result<Sockets> {
        let syslog = syslog::bind_beside(&config.syslog, sys::passed_sockets(), addresses)?;
        Ok(Sockets { syslog, milter: milter::bind(&config.milter, addresses)?, boot })
    }

    fn addresses(&self, config: &Config) -> Vec<String> {
        let files = config.maillog.iter().map(|entry| format!("file {}", entry.path));
        self.milter.addresses().chain(self.syslog.addresses()).chain(files).collect()
    }
}

impl Collecting {
    async fn start(
        config: &Config,
        sockets: Sockets,
        store: &Store,
        metrics: &Metrics,
        registry: &Registry,
        health: &Health,
    ) -> greypit_pipeline::Result<Collecting> {
        let output = || kafka::produce::Output::new(config.kafka.clone(), registry);
        let pipeline = Pipeline::start(Parts {
            node: config.node.clone(),
            data_dir: config.data_dir.clone(),
            spool: config.spool.clone(),
            batch: config.batch.clone(),
            store: store.clone(),
            kafka: config.kafka.is_on().then(output).transpose()?,
            metrics: metrics.clone(),
            health: health.clone(),
        });
        let pipeline = pipeline.map_err(of_data_dir)?;

        let stop = CancellationToken::new();
        // Bound, or this would not have been reached.
        health.ok("syslog");
        let syslog_tls = sockets.syslog.tls();
        let submit = pipeline.submit();
        let privacy = config.privacy.privacy();
        let to_spool = submit.clone();
        let mut collectors = syslog::spawn(
            sockets.syslog,
            &config.syslog,
            &config.node,
            privacy.clone(),
            sockets.boot.as_ref().map(Boot::sessions),
            to_spool,
            registry,
            stop.clone(),
        )?;
        if !config.maillog.is_empty() {
            collectors.push(tail::spawn(
                &config.maillog,
                &config.node,
                privacy.as_ref(),
                submit.clone(),
                pipeline.checkpoints(),
                registry,
                stop.clone(),
            )?);
            health.ok("maillog");
        }
        let (mut milter, mut farm) = (None, None);
        if !sockets.milter.is_empty() {
            let sink = mail::sink(submit.clone(), &config.milter.headers, privacy, registry)?;
            let (running, task) =
                Milter::spawn(sockets.milter, &config.milter, &config.node, sink, registry, stop.clone())?;
            if config.milter.client.scope == greypit_milter::config::Scope::Farm {
                let (node, kafka, clients) = (&config.node, &config.kafka, running.clients());
                farm = Some(Farm::start(farm::Parts { node, kafka, clients, registry, health })?);
            }
            milter = Some(running);
            collectors.push(task);
            health.ok("milter");
        }
        // Last: the others do not wait for what it reads.
        if let Some(boot) = sockets.boot {
            collectors.extend(boot.start(submit.clone(), registry, health, stop.clone()).await?);
        }
        Ok(Collecting { pipeline, collectors, milter, farm, syslog_tls, stop })
    }

    fn reload(&self, config: &Config) -> greypit_pipeline::Result<()> {
        // Where the config no longer speaks of TLS that waits for a restart.
        let tls = self.syslog_tls.as_ref().filter(|_| !config.syslog.tls_cert.is_empty());
        let certificate = tls.map(|_| syslog::tls::read(&config.syslog)).transpose()?;
        self.milter.as_ref().map_or(Ok(()), |milter| milter.reload(&config.milter))?;
        if let (Some(tls), Some(certificate)) = (tls, certificate) {
            tls.set(certificate);
        }
        Ok(())
    }

    async fn stop(self) -> Drained {
        self.stop.cancel();
        for collector in self.collectors {
            if let Err(error) = collector.await {
                tracing::error!(%error, "a collector ended badly");
            }
        }
        if let Some(farm) = self.farm {
            farm.stop().await;
        }
        self.pipeline.drain().await
    }
}

/// A bucket that is not there is a mistake in the config; a store that cannot be reached now is not.
/// Gives the problem of the latter.
async fn try_store(store: &Store, health: &Health) -> greypit_pipeline::Result<Option<String>> {
    let problem = match tokio::time::timeout(STORE_CHECK, store.check()).await {
        Ok(Ok(())) => {
            health.ok("store");
            return Ok(None);
        }
        Ok(Err(error)) if error.is_config() => {
            return Err(greypit_pipeline::Error::Config { key: "store.url".into(), problem: error.to_string() });
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("{} does not answer", store.url()),
    };
    health.held("store", problem.clone());
    Ok(Some(problem))
}

/// Asks a store that was away at the start until it answers: shipping does too, but only once there is something to
/// ship, and until then it would look held back. Ends as soon as shipping has its own word on the board.
async fn wait_for_store(store: &Store, health: &Health, mut problem: String) {
    loop {
        tokio::time::sleep(STORE_CHECK_AGAIN).await;
        let asked = tokio::time::timeout(STORE_CHECK, store.check()).await;
        match health.parts().get("store") {
            Some(State::Held { reason, .. }) if *reason == problem => {}
            _ => return,
        }
        problem = match asked {
            Ok(Ok(())) => return health.ok("store"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => continue,
        };
        health.held("store", problem.clone());
    }
}

/// A folder that cannot be used is a mistake in the config, or one that the config mends.
fn of_data_dir(error: greypit_pipeline::Error) -> greypit_pipeline::Error {
    match error {
        greypit_pipeline::Error::Io { .. } => {
            let problem = format!("{error}; let this user write there, or choose another folder on a local disk");
            greypit_pipeline::Error::Config { key: "data_dir".into(), problem }
        }
        error => error,
    }
}

fn taken(error: &prometheus::Error) -> greypit_pipeline::Error {
    greypit_pipeline::Error::Config { key: "http".into(), problem: format!("metrics cannot be registered: {error}") }
}
