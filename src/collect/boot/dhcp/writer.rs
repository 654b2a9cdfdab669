//! The thread that makes leases durable, and only then lets their answers go: group commit.
//!
//! It takes everything that waits, at most [`GROUP_MAX`] changes, and appends it with one sync; the requests that come
//! in meanwhile are the next group, so the disk's slowness costs each client one or two syncs and the server nothing.
//! No more than [`QUEUE_MAX`] requests wait; what is beyond gets no answer and is counted, and the client asks again.
//!
//! A disk that does not take a group costs its clients their answers: there is no ACK without a lease on disk. The
//! changes are kept (at most [`QUEUE_MAX`]) and tried again together with what has come since, every [`AGAIN`], for what
//! the disk says is to become what the server says, and `trouble` is told how it stands.
//!
//! Where nobody asks, `append` is called without changes every [`IDLE`], for what the log has to say by itself.
//!
//! When the queue's other end is dropped what still waits is written and answered, and the thread ends.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use super::leases::Change;
use super::metrics::{Metrics, Unsent};
use super::outcome::{Answer, Counted};
use crate::collect::boot::audit::Record;

/// Requests that wait for their lease to be written.
pub(super) const QUEUE_MAX: usize = 4096;

/// Changes that one sync makes durable.
const GROUP_MAX: usize = 1024;

/// How long a disk that refused is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a log without changes is left alone.
const IDLE: Duration = Duration::from_secs(1);

/// A change of a lease, and what follows once it is on disk.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) change: Change,
    pub(super) reply: Reply,
}

/// What goes out, and what is said of it.
#[derive(Debug)]
pub(super) struct Reply {
    /// None for RELEASE and DECLINE.
    pub(super) answer: Option<Answer>,
    /// None for what is beyond a card's rate.
    pub(super) record: Option<Record>,
    pub(super) counted: Counted,
    /// When the request was read.
    pub(super) received: Instant,
}

/// The queue's near end.
#[derive(Debug)]
pub(super) struct Queue {
    sender: SyncSender<Job>,
    metrics: Metrics,
}

impl Queue {
    /// # Errors
    /// Gives it back where too many wait.
    #[allow(clippy::result_large_err)]
    pub(super) fn give(&self, job: Job) -> Result<(), Job> {
        match self.sender.try_send(job) {
            Ok(()) => {
                self.metrics.commit_queue.inc();
                Ok(())
            }
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => Err(job),
        }
    }
}

/// What the thread works with.
pub(super) struct Writer<A, F, T> {
    jobs: Receiver<Job>,
    metrics: Metrics,
    /// Makes changes durable, or none.
    pub(super) append: A,
    /// Sends an answer, or says why it is not sent.
    pub(super) finish: F,
    /// Told of each failure, and of the first success after it.
    pub(super) trouble: T,
}

impl<A, F, T> std::fmt::Debug for Writer<A, F, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

/// Makes the queue and what works at its far end.
pub(super) fn new<A, F, T>(metrics: &Metrics, append: A, finish: F, trouble: T) -> (Queue, Writer<A, F, T>)
where
    A: FnMut(&[Change]) -> io::Result<()>,
    F: FnMut(Reply, Option<Unsent>),
    T: FnMut(Option<&io::Error>),
{
    let (sender, jobs) = sync_channel(QUEUE_MAX);
    (Queue { sender, metrics: metrics.clone() }, Writer { jobs, metrics: metrics.clone(), append, finish, trouble })
}

/// Whether the queue's near end is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queued {
    More,
    End,
}

impl<A, F, T> Writer<A, F, T>
where
    A: FnMut(&[Change]) -> io::Result<()>,
    F: FnMut(Reply, Option<Unsent>),
    T: FnMut(Option<&io::Error>),
{
    /// Works until the queue's other end is dropped.
    pub(super) fn run(mut self) {
        // Those of earlier groups that the disk refused come first.
        let (mut changes, mut replies) = (Vec::new(), Vec::new());
        let mut failing = false;
        loop {
            let queued = self.collect(failing, &mut changes, &mut replies);
            if queued == Queued::End && changes.is_empty() {
                return;
            }
            let had_failed = failing;
            match (self.append)(&changes) {
                Ok(()) => {
                    if !changes.is_empty() {
                        self.metrics.commit_leases.observe(changes.len() as f64);
                    }
                    changes.clear();
                    if failing {
                        (self.trouble)(None);
                    }
                    failing = false;
                    replies.drain(..).for_each(|reply| (self.finish)(reply, None));
                }
                Err(error) => {
                    failing = true;
                    (self.trouble)(Some(&error));
                    replies.drain(..).for_each(|reply| (self.finish)(reply, Some(Unsent::NotWritten)));
                    let oldest = changes.len().saturating_sub(QUEUE_MAX);
                    changes.drain(..oldest);
                }
            }
            if queued == Queued::End && (changes.is_empty() || had_failed) {
                return;
            }
        }
    }

    /// Waits for a job and takes those behind it; after a failure, for as long as the disk is left alone.
    fn collect(&mut self, failing: bool, changes: &mut Vec<Change>, replies: &mut Vec<Reply>) -> Queued {
        let mut take = |job: Job| {
            self.metrics.commit_queue.dec();
            changes.push(job.change);
            replies.push(job.reply);
            replies.len() < GROUP_MAX
        };
        if failing {
            let deadline = Instant::now() + AGAIN;
            loop {
                match self.jobs.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(job) => {
                        if !take(job) {
                            return Queued::More;
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => return Queued::More,
                    Err(RecvTimeoutError::Disconnected) => return Queued::End,
                }
            }
        }
        match self.jobs.recv_timeout(IDLE) {
            Ok(first) => take(first),
            Err(RecvTimeoutError::Timeout) => return Queued::More,
            Err(RecvTimeoutError::Disconnected) => return Queued::End,
        };
        while let Ok(job) = self.jobs.try_recv()
            && take(job)
        {}
        Queued::More
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};

    use jiff::Timestamp;
    use prometheus::Registry;

    use super::*;
    use crate::collect::boot::audit;
    use crate::collect::boot::dhcp::outcome::Destination;

    fn ip(n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(0x0a00_0000 + n)
    }

    fn job(n: u32) -> Job {
        let answer = Answer { bytes: n.to_be_bytes().to_vec(), to: Destination::Broadcast, interface: 0 };
        let counted = Counted { message: "request", answer: "ack", why: "lease", foreign: None };
        let record = audit::Record::new(audit::DHCP, Timestamp::UNIX_EPOCH);
        let reply = Reply { answer: Some(answer), record: Some(record), counted, received: Instant::now() };
        Job { change: Change::Freed(ip(n)), reply }
    }

    /// What happened, in its order.
    #[derive(Debug, PartialEq, Eq)]
    enum Seen {
        Written(Vec<u32>),
        Failed(usize),
        Sent(u32),
        Withheld(u32),
        Trouble(bool),
    }

    /// Runs a writer over what `give` gives; `works`: what the disk says, one a try, then that all is well.
    fn run(works: Vec<bool>, give: impl FnOnce(&Queue)) -> Vec<Seen> {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let say = |what: Seen| seen.lock().unwrap().push(what);
        let mut works = works.into_iter();
        let number = |change: &Change| match change {
            Change::Freed(ip) => ip.to_bits() - 0x0a00_0000,
            _ => unreachable!("only such are given"),
        };
        let append = |changes: &[Change]| match works.next().unwrap_or(true) {
            true => {
                say(Seen::Written(changes.iter().map(number).collect()));
                Ok(())
            }
            false => {
                say(Seen::Failed(changes.len()));
                Err(io::ErrorKind::StorageFull.into())
            }
        };
        let finish = |reply: Reply, unsent: Option<Unsent>| {
            let n = u32::from_be_bytes(reply.answer.unwrap().bytes.try_into().unwrap());
            say(if unsent.is_none() { Seen::Sent(n) } else { Seen::Withheld(n) });
        };
        let (queue, writer) = new(&metrics, append, finish, |error| say(Seen::Trouble(error.is_some())));
        give(&queue);
        drop(queue);
        writer.run();
        assert_eq!(metrics.commit_queue.get(), 0);
        Arc::try_unwrap(seen).unwrap().into_inner().unwrap()
    }

    #[test]
    fn what_waits_is_written_at_once_and_answered_after_that() {
        let seen = run(vec![], |queue| (1..=3).for_each(|n| queue.give(job(n)).unwrap()));
        assert_eq!(seen, [Seen::Written(vec![1, 2, 3]), Seen::Sent(1), Seen::Sent(2), Seen::Sent(3)]);
    }

    #[test]
    fn a_group_has_an_end_and_the_queue_too() {
        let seen = run(vec![], |queue| {
            (0..QUEUE_MAX as u32).for_each(|n| queue.give(job(n)).unwrap());
            assert!(queue.give(job(0)).is_err());
        });
        let groups = seen.iter().filter_map(|seen| match seen {
            Seen::Written(group) => Some(group.len()),
            _ => None,
        });
        assert_eq!(groups.collect::<Vec<_>>(), vec![GROUP_MAX; QUEUE_MAX / GROUP_MAX]);
        assert_eq!(seen.iter().filter(|seen| matches!(seen, Seen::Sent(_))).count(), QUEUE_MAX);
    }

    #[test]
    fn without_a_lease_on_disk_nobody_is_answered() {
        let seen = run(vec![false], |queue| queue.give(job(1)).unwrap());
        let wanted = [
            Seen::Failed(1),
            Seen::Trouble(true),
            Seen::Withheld(1),
            // Tried again once, as the end has come, and for its own sake: the answer is gone.
            Seen::Written(vec![1]),
            Seen::Trouble(false),
        ];
        assert_eq!(seen, wanted);
        let seen = run(vec![false, false], |queue| queue.give(job(1)).unwrap());
        assert_eq!(seen.len(), 5, "it ends although the disk never works: {seen:?}");
    }

    #[test]
    fn what_comes_after_a_failure_is_written_with_what_failed_and_answered() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (say, heard) = channel();
        let append = |changes: &[Change]| match changes {
            [_] => Err(io::ErrorKind::StorageFull.into()),
            _ => {
                say.send(format!("written {}", changes.len())).unwrap();
                Ok(())
            }
        };
        let finish = |_: Reply, unsent: Option<Unsent>| say.send(format!("{unsent:?}")).unwrap();
        let (queue, writer) = new(&metrics, append, finish, |_| {});
        queue.give(job(1)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| writer.run());
            assert_eq!(heard.recv().unwrap(), "Some(NotWritten)");
            queue.give(job(2)).unwrap();
            assert_eq!(heard.recv().unwrap(), "written 2");
            assert_eq!(heard.recv().unwrap(), "None");
            drop(queue);
        });
    }

    #[test]
    fn where_nobody_asks_the_log_has_its_turn_and_a_disk_that_refuses_is_said() {
        let metrics = Metrics::new(&Registry::new()).unwrap();
        let (say, heard) = channel();
        let mut works = [true, false, true].into_iter();
        let append = |changes: &[Change]| {
            say.send(format!("append {}", changes.len())).unwrap();
            if works.next().unwrap_or(true) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        };
        let trouble = |error: Option<&io::Error>| say.send(format!("trouble {}", error.is_some())).unwrap();
        let (queue, writer) = new(&metrics, append, |_, _| {}, trouble);
        std::thread::scope(|scope| {
            scope.spawn(|| writer.run());
            for wanted in ["append 0", "append 0", "trouble true", "append 0", "trouble false"] {
                assert_eq!(heard.recv().unwrap(), wanted);
            }
            drop(queue);
        });
        assert_eq!(metrics.commit_leases.get_sample_count(), 0, "these are no commits");
    }
}
