//! What the listeners count. Handles are looked up once; tasks add to them once a group.

use greypit_pipeline::Register;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
    Tls,
    Unix,
    UnixStream,
}

impl Transport {
    pub(super) const ALL: [Transport; 5] =
        [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Unix, Transport::UnixStream];

    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Unix => "unix",
            Transport::UnixStream => "unix_stream",
        }
    }
}

/// Why messages did not become events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// The pipeline's queue was full and the transport cannot wait.
    QueueFull,
    /// The kernel's receive buffer was full.
    Kernel,
    /// There was no room in the queue until the end of a shutdown.
    Stopping,
    /// The pipeline had ended, or refused the body.
    Refused,
    /// The peer sent more than `max_rate_per_peer` over a transport that cannot wait.
    Rate,
}

impl Dropped {
    const ALL: [Dropped; 5] = [Dropped::QueueFull, Dropped::Kernel, Dropped::Stopping, Dropped::Refused, Dropped::Rate];

    fn name(self) -> &'static str {
        match self {
            Dropped::QueueFull => "queue_full",
            Dropped::Kernel => "kernel",
            Dropped::Stopping => "stopping",
            Dropped::Refused => "refused",
            Dropped::Rate => "rate",
        }
    }
}

/// Kinds in the order of the counters.
pub(super) const KINDS: [&str; 3] = ["from", "to", "syslog"];

/// The counters of all listeners.
#[derive(Debug)]
pub(super) struct Metrics {
    messages: [IntCounter; 5],
    bytes: [IntCounter; 5],
    events: [IntCounter; 3],
    /// The same, for the kinds of rules.
    routed: IntCounterVec,
    dropped: [[IntCounter; 5]; 5],
    parse_errors: IntCounterVec,
    framing_errors: IntCounterVec,
    pub(super) connections: IntGauge,
    pub(super) connections_max: IntGauge,
    /// At `max_connections`, and at `max_connections_per_peer`.
    pub(super) refused_total: IntCounter,
    pub(super) refused_peer: IntCounter,
    pub(super) closed_idle: IntCounter,
    pub(super) closed_frame: IntCounter,
    pub(super) per_peer_max: IntGauge,
    pub(super) rate_max: IntGauge,
    pub(super) slowed: IntCounter,
    pub(super) peers_forgotten: IntCounter,
    tls_errors: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Metrics> {
        let register = Register::new(registry, "greypit_syslog_");
        let messages = register.counters("messages_total", "Datagrams, frames and lines received.", &["transport"])?;
        let bytes = register.counters("bytes_total", "Their bytes, without framing.", &["transport"])?;
        let events = register.counters("events_total", "Events given to the pipeline.", &["kind"])?;
        let dropped = register.counters(
            "dropped_total",
            "Messages that did not become events (kernel: before greypit could receive them).",
            &["transport", "reason"],
        )?;
        let refused = register.counters(
            "connections_refused_total",
            "Connections closed at once, at max_connections (total) or max_connections_per_peer (peer).",
            &["limit"],
        )?;
        let closed = register.counters(
            "connections_timed_out_total",
            "Connections closed after idle_timeout (idle) or frame_timeout (frame).",
            &["reason"],
        )?;
        let tls_errors = register.counters(
            "tls_errors_total",
            "TLS connections that failed, by far most of them in the handshake.",
            &["reason"],
        )?;
        for reason in super::tls::REASONS {
            tls_errors.with_label_values(&[reason]);
        }
        Ok(Metrics {
            messages: Transport::ALL.map(|t| messages.with_label_values(&[t.name()])),
            bytes: Transport::ALL.map(|t| bytes.with_label_values(&[t.name()])),
            events: KINDS.map(|kind| events.with_label_values(&[kind])),
            routed: events,
            dropped: Transport::ALL
                .map(|t| Dropped::ALL.map(|reason| dropped.with_label_values(&[t.name(), reason.name()]))),
            parse_errors: register.counters(
                "parse_errors_total",
                "Messages that became an event with parse_error.",
                &["reason"],
            )?,
            framing_errors: register.counters(
                "framing_errors_total",
                "Broken octet counts (the connection is closed) and messages cut at max_message.",
                &["reason"],
            )?,
            connections: register.gauge("connections", "Open connections: TCP, TLS, unix streams.")?,
            connections_max: register.gauge("connections_max", "The limit of connections.")?,
            refused_total: refused.with_label_values(&["total"]),
            refused_peer: refused.with_label_values(&["peer"]),
            closed_idle: closed.with_label_values(&["idle"]),
            closed_frame: closed.with_label_values(&["frame"]),
            per_peer_max: register.gauge("connections_per_peer_max", "The limit of one address; 0: none.")?,
            rate_max: register.gauge("rate_per_peer_max", "Messages a second of one address; 0: no limit.")?,
            slowed: register.counter(
                "slowed_total",
                "Times that reading a TCP or TLS connection paused, because its peer was above its rate.",
            )?,
            peers_forgotten: register.counter(
                "peers_forgotten_total",
                "Addresses whose rate was forgotten, while it counted, to make room for others.",
            )?,
            tls_errors,
        })
    }

    pub(super) fn dropped(&self, transport: Transport, reason: Dropped) -> &IntCounter {
        &self.dropped[transport as usize][reason as usize]
    }

    /// One event that no message of its own made.
    pub(super) fn event(&self, kind: &str) {
        self.routed.with_label_values(&[kind]).inc();
    }

    pub(super) fn framing_error(&self, reason: &'static str) -> IntCounter {
        self.framing_errors.with_label_values(&[reason])
    }

    pub(super) fn tls_error(&self, reason: &'static str) {
        self.tls_errors.with_label_values(&[reason]).inc();
    }

    /// Adds what was counted while a group was filled; `submitted`: the pipeline has it.
    pub(super) fn add(&self, transport: Transport, tally: &Tally, submitted: bool) {
        self.messages[transport as usize].inc_by(tally.messages);
        self.bytes[transport as usize].inc_by(tally.bytes);
        if submitted {
            for (counter, n) in self.events.iter().zip(tally.events) {
                counter.inc_by(n);
            }
            for (kind, n) in &tally.routed {
                self.routed.with_label_values(&[*kind]).inc_by(*n);
            }
        }
        if tally.unfit > 0 {
            self.dropped(transport, Dropped::Refused).inc_by(tally.unfit);
        }
        if tally.limited > 0 {
            self.dropped(transport, Dropped::Rate).inc_by(tally.limited);
        }
        for (reason, n) in &tally.parse_errors {
            self.parse_errors.with_label_values(&[*reason]).inc_by(*n);
        }
        if tally.cut > 0 {
            self.framing_error("message_too_long").inc_by(tally.cut);
        }
    }
}

/// Plain numbers of one task since its last group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) events: [u64; 3],
    /// Messages cut at `max_message`.
    pub(super) cut: u64,
    /// Bodies that the pipeline does not take.
    pub(super) unfit: u64,
    /// Messages beyond the rate of their peer.
    pub(super) limited: u64,
    /// Messages that made no record: empty ones, and what rules leave out or is folded.
    pub(super) silent: u64,
    pub(super) parse_errors: Vec<(&'static str, u64)>,
    /// Events of the kinds of rules.
    pub(super) routed: Vec<(&'static str, u64)>,
}

impl Tally {
    pub(super) fn parse_error(&mut self, reason: &'static str) {
        add_one(&mut self.parse_errors, reason);
    }

    pub(super) fn routed(&mut self, kind: &'static str) {
        add_one(&mut self.routed, kind);
    }

    pub(super) fn clear(&mut self) {
        self.parse_errors.clear();
        self.routed.clear();
        *self = Tally {
            parse_errors: std::mem::take(&mut self.parse_errors),
            routed: std::mem::take(&mut self.routed),
            ..Tally::default()
        };
    }
}

fn add_one(counts: &mut Vec<(&'static str, u64)>, name: &'static str) {
    match counts.iter_mut().find(|(known, _)| *known == name) {
        Some((_, n)) => *n += 1,
        None => counts.push((name, 1)),
    }
}
