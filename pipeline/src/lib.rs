//! Events in, every one once in an object.
