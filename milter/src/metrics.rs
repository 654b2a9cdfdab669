//! The milter's figures, by Prometheus' conventions. Labels are bounded: rule names come from the config.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::policy::Clients;
use crate::transaction::Ending;

/// Why mail passed although it was not looked at, or not wholly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailOpen {
    /// A bug: the session panicked.
    Panic,
    /// A packet that made no sense.
    Packet,
    /// A packet longer than `max_packet`.
    TooLong,
    /// A negotiation that offers no version known here.
    Version,
    /// Beyond `max_connections`.
    Connections,
    /// The process is out of descriptors or memory: the connection was closed, the mail server does as `F=` says.
    Descriptors,
}

impl FailOpen {
    const ALL: [FailOpen; 6] = [
        FailOpen::Panic,
        FailOpen::Packet,
        FailOpen::TooLong,
        FailOpen::Version,
        FailOpen::Connections,
        FailOpen::Descriptors,
    ];

    fn name(self) -> &'static str {
        match self {
            FailOpen::Panic => "panic",
            FailOpen::Packet => "bad_packet",
            FailOpen::TooLong => "packet_too_long",
            FailOpen::Version => "version",
            FailOpen::Connections => "max_connections",
            FailOpen::Descriptors => "descriptors",
        }
    }
}

/// Why a hold was shorter than the policy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// `max_tarpitted` answers waited already.
    Full,
    /// greypit ends.
    Stop,
    /// The new config says so.
    Reload,
    /// The mail server hung up.
    Gone,
}

impl Cut {
    const ALL: [Cut; 4] = [Cut::Full, Cut::Stop, Cut::Reload, Cut::Gone];

    /// The record's `cut`, and a label.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cut::Full => "tarpit_full",
            Cut::Stop => "stop",
            Cut::Reload => "reload",
            Cut::Gone => "gone",
        }
    }
}

/// All of the milter's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(crate) connections: IntGauge,
    pub(crate) connections_max: IntGauge,
    pub(crate) connections_total: IntCounter,
    pub(crate) tarpitted: IntGauge,
    pub(crate) tarpitted_max: IntGauge,
    delay_seconds: Histogram,
    sender_seconds: prometheus::Counter,
    verdicts: IntCounterVec,
    messages: [IntCounter; 4],
    cuts: [IntCounter; 4],
    fail_open: [IntCounter; 6],
}

const SECONDS: &[f64] = &[0.001, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 240.0];

impl Metrics {
    /// Makes them and puts them on `registry`.
    ///
    /// # Errors
    /// Where a name is taken: a second milter on one registry.
    pub fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(format!("greypit_milter_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            prometheus::Result::Ok(counters)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(format!("greypit_milter_{name}"), help)?;
            registry.register(Box::new(gauge.clone()))?;
            prometheus::Result::Ok(gauge)
        };
        let connections_total =
            IntCounter::new("greypit_milter_connections_total", "Connections that mail servers have opened")?;
        registry.register(Box::new(connections_total.clone()))?;
        let delay = HistogramOpts::new("greypit_milter_delay_seconds", "How long answers over a limit were held");
        let delay_seconds = Histogram::with_opts(delay.buckets(SECONDS.to_vec()))?;
        registry.register(Box::new(delay_seconds.clone()))?;
        let sender_seconds = prometheus::Counter::new(
            "greypit_milter_sender_seconds_total",
            "Seconds that senders over a limit have spent waiting",
        )?;
        registry.register(Box::new(sender_seconds.clone()))?;
        let messages = counters("messages_total", "Mail transactions by how they ended", &["ending"])?;
        let cuts = counters("delays_cut_total", "Holds that ended early, by reason", &["reason"])?;
        let fail_open =
            counters("fail_open_total", "Times that mail passed because something was wrong here", &["reason"])?;
        Ok(Metrics {
            connections: gauge("connections", "Open connections of mail servers")?,
            connections_max: gauge("connections_max", "The limit milter.max_connections")?,
            connections_total,
            tarpitted: gauge("tarpitted", "Answers that are held now")?,
            tarpitted_max: gauge("tarpitted_max", "The limit milter.max_tarpitted")?,
            delay_seconds,
            sender_seconds,
            verdicts: counters("verdicts_total", "MAIL commands by rule and what it says", &["rule", "verdict"])?,
            messages: [Ending::Accept, Ending::Refuse, Ending::Close, Ending::Abort]
                .map(|ending| messages.with_label_values(&[ending.name()])),
            cuts: Cut::ALL.map(|cut| cuts.with_label_values(&[cut.name()])),
            fail_open: FailOpen::ALL.map(|reason| fail_open.with_label_values(&[reason.name()])),
        })
    }

    /// What a rule says, whether or not the mode lets it act.
    pub(crate) fn verdict(&self, rule: &str, verdict: Ending) {
        self.verdicts.with_label_values(&[rule, verdict.name()]).inc();
    }

    pub(crate) fn ended(&self, ending: Ending) {
        self.messages[ending as usize].inc();
    }

    pub(crate) fn held(&self, seconds: f64, cut: Option<Cut>) {
        self.delay_seconds.observe(seconds);
        self.sender_seconds.inc_by(seconds);
        if let Some(cut) = cut {
            self.cuts[cut as usize].inc();
        }
    }

    pub(crate) fn fail_open(&self, reason: FailOpen) {
        self.fail_open[reason as usize].inc();
    }
}

/// The table of clients, looked at when scraped.
struct ClientFigures {
    table: Arc<Clients>,
    clients: IntGauge,
    clients_max: IntGauge,
    forgotten: IntCounter,
}

/// Puts the figures of the table on `registry`.
///
/// # Errors
/// Where a name is taken.
pub fn register_clients(table: Arc<Clients>, registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(ClientFigures {
        table,
        clients: IntGauge::new("greypit_milter_clients", "Clients remembered for milter.client.limit")?,
        clients_max: IntGauge::new("greypit_milter_clients_max", "The limit milter.client.max_clients")?,
        forgotten: IntCounter::new("greypit_milter_clients_forgotten_total", "Clients forgotten at that limit")?,
    }))
}

impl Collector for ClientFigures {
    fn desc(&self) -> Vec<&Desc> {
        [self.clients.desc(), self.clients_max.desc(), self.forgotten.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.clients.set(self.table.len() as i64);
        self.clients_max.set(self.table.clients_max() as i64);
        self.forgotten.inc_by(self.table.forgotten().saturating_sub(self.forgotten.get()));
        [self.clients.collect(), self.clients_max.collect(), self.forgotten.collect()].concat()
    }
}
