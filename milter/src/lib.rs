//! The milter: what sendmail and Postfix attach to, and what stops a sender who floods one connection.
//!
//! ```text
//!  socket ── server ── session ── policy
//!  accept     bytes     state      verdict, takes `now`
//!  delays     wire      no sockets
//! ```
//! Each looks only to its right. A finished transaction goes to the [`Sink`] as a [`Transaction`]; what becomes of it
//! is not known here, and never holds up mail.
//!
//! Whatever breaks on our side, mail is accepted, counted and logged: a filter that fails must not stop mail.

pub mod config;
pub mod metrics;
pub mod policy;
pub mod server;
pub mod session;
pub mod transaction;
pub mod wire;

pub use config::Config;
pub use policy::{Clients, Policy};
pub use transaction::{Sink, Transaction};
