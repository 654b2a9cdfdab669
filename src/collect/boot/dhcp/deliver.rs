//! How an answer leaves: sent first, counted and recorded after that, by whichever thread has it.

use std::io;
use std::sync::Arc;

use super::metrics::{Metrics, Unsent};
use super::sockets::Sockets;
use super::writer::Reply;
use crate::collect::boot::world::World;
use crate::collect::complaints::Complaints;

/// What the threads of DHCP share.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) world: Arc<World>,
    pub(super) metrics: Metrics,
    /// One for each of the world's interfaces.
    pub(super) sockets: Vec<Arc<Sockets>>,
    pub(super) complaints: Complaints,
}

impl Delivery {
    pub(super) fn new(world: Arc<World>, metrics: Metrics, sockets: Vec<Sockets>) -> Delivery {
        let sockets = sockets.into_iter().map(Arc::new).collect();
        Delivery { world, metrics, sockets, complaints: Complaints::default() }
    }

    fn of(&self, interface: usize) -> io::Result<&Sockets> {
        self.sockets.get(interface).map(Arc::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Sends the answer, unless there is a reason not to, then says what became of it.
    pub(super) fn finish(&self, reply: Reply, unsent: Option<Unsent>) {
        let Reply { answer, record, counted, .. } = reply;
        let unsent = match (answer, unsent) {
            (None, unsent) => unsent,
            (Some(_), Some(unsent)) => Some(unsent),
            (Some(answer), None) => match self.of(answer.interface).and_then(|sockets| sockets.send(&answer)) {
                Ok(()) => {
                    self.metrics.sent(&counted);
                    None
                }
                Err(error) => {
                    if let Some(unlogged) = self.complaints.allow() {
                        tracing::warn!(%error, unlogged, to = ?answer.to, "a DHCP answer cannot be sent");
                    }
                    Some(Unsent::NotSent)
                }
            },
        };
        if let Some(unsent) = unsent {
            self.metrics.unsent(unsent);
        }
        if let Some(record) = record {
            self.world.audit.record(record.known("unsent", unsent.map(Unsent::name)));
        }
    }
}
