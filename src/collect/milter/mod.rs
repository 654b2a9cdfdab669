//! The milter as a collector: each mail transaction that it saw becomes one `mail` event.
//!
//! Mail comes first: [`sink`] never waits. When the pipeline's queue is full, or has ended, the event is dropped and
//! counted. [`record`] says what the record holds.

mod headers;
mod metrics;
mod record;

use std::cell::RefCell;
use std::sync::Arc;

use greypit_milter::Sink;
use greypit_pipeline::{Error, Group, Kind, Refused, Result, Submit};
use prometheus::Registry;

use self::headers::Headers;
use self::metrics::{Dropped, Metrics};
use self::record::{Scratch, Writer};
use crate::collect::complaints::Complaints;
use crate::collect::privacy::Privacy;

pub(crate) const MAIL: Kind = Kind::new("mail");

thread_local! {
    /// One a thread: a record allocates nothing but the group that it is sent in.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Makes a `mail` event of every transaction it is given. `headers`: the fields that go into it (`milter.headers`).
/// It holds the [`Submit`], so the pipeline ends only after it is dropped.
///
/// # Errors
/// [`Error::Config`] as [`check_headers`], and where `registry` has these metrics already.
pub fn sink(submit: Submit, headers: &[String], privacy: Option<Privacy>, registry: &Registry) -> Result<Sink> {
    check_headers(headers, privacy.is_some())?;
    let metrics = Metrics::new(registry)
        .map_err(|error| Error::Config { key: "milter".to_owned(), problem: error.to_string() })?;
    let writer = Writer { headers: Headers::new(headers), privacy };
    let complaints = Complaints::default();
    Ok(Arc::new(move |transaction| {
        let group = SCRATCH.with_borrow_mut(|scratch| {
            let mut group = Group::new();
            group.push(MAIL, writer.write(transaction, scratch)).map(|()| group)
        });
        let dropped = match group.map(|group| submit.try_submit(group)) {
            Ok(Ok(())) => return metrics.events.inc(),
            Ok(Err(Refused::Full(_))) => Dropped::QueueFull,
            Ok(Err(Refused::Closed(_))) => Dropped::Closed,
            Err(_) => Dropped::Unfit,
        };
        metrics.dropped(dropped).inc();
        if let Some(unlogged) = complaints.allow() {
            tracing::warn!(reason = dropped.name(), unlogged, "the record of a mail transaction is dropped");
        }
    }))
}

/// Checks that `milter.headers` and `[privacy]` agree.
///
/// # Errors
/// [`Error::Config`], where local parts are hashed, for a field that is made of people's names and addresses.
pub fn check_headers(headers: &[String], hashed: bool) -> Result<()> {
    let problem = |problem| Err(Error::Config { key: "milter.headers".to_owned(), problem });
    for name in headers {
        if hashed && headers::is_personal(name) {
            return problem(format!("'{name}' names people, so it cannot be had with privacy.hash_local_part"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
