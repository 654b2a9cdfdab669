//! The milter protocol, its server and the greypit policy.
