//! Apache Kafka between the spool and the store: for farms, where many nodes collect and any number of nodes ship.
//!
//! ```text
//! spool ─► produce ─► topic a kind ─► ship: consumer group ─► lane a partition ─► cut ─► PUT ─► commit
//!          idempotent                        repeats dropped by number      durable  if new
//! ```
//!
//! # Topics
//! `<topic_prefix><kind>`, for example `greypit.from`. What is in a message:
//!
//! | part | content |
//! |---|---|
//! | key | the node |
//! | value | the record: one JSON object on one line, `id` and `node` in front |
//! | timestamp | when the collector received the event, in milliseconds: it decides the window |
//! | header `id` | `<node>-<epoch>-<kind>-<seq>` |
//! | header `kind` | the kind |
//! | header `node` | the node |
//! | header `ts` | the record's own `ts`; where it has none, when it was received |
//!
//! An event that no broker takes is kept in `<data_dir>/set-aside/<id>.json`; in its place, under its id, is a record with
//! `set_aside`, the reason, and `bytes`, its size.
//!
//! A node's events of one kind are all in one partition, in the order of `seq`, each there at least once: after a crash
//! of the producer some are there twice, and never is one there that has none of its predecessors. Whoever reads a
//! partition drops what it has seen of a stream (node, epoch, kind); greypit's own shipper does. It reads the id from the
//! front of the value, where it has the same bytes as in the header.
//!
//! # Cuts
//! What becomes one batch of a partition is decided once, durably, before anything is uploaded: by the object
//! `_cut/<topic>/<partition>/<start>` in the store, written only if it is new. It says where the
//! batch ends, how its objects are made, and which numbers of every stream have been seen up to there. Whoever owns the
//! partition next, or wakes up after having lost it, finds it and makes the same objects or none. The group's committed
//! offset is written after the upload and only says where to look first: the cuts are the truth.
//!
//! Cuts are small and never deleted by greypit. A lifecycle rule of the bucket may delete them once they are older than
//! the topics' retention.
//!
//! # Clients of a farm
//! `<topic_prefix>milter-clients` is no topic of events: it is compacted, and in it the nodes of a farm tell each other what
//! their milters let pass ([`compacted`]). No kind has a `-` in it, so that no shipper takes it for one.

mod ask;
pub mod check;
pub mod compacted;
pub mod config;
mod errors;
mod log;
pub mod produce;
mod properties;
mod rights;
pub mod ship;
pub mod topics;

pub use config::Config;
