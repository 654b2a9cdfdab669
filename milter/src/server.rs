//! Sockets: listening, the life of a connection, delays.

pub mod address;
