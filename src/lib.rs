//! greypit.
